"""The data plane: queries in, rankings out, events logged. Goes on when the control plane is gone.

May import: `registry`. Never: `drift`, `pipelines`, `deploy`. The gateway imports neither torch
nor mlflow (its cold start and its memory are promises); torch is imported by `program`,
`device` and `features.device` alone.

Decisions

- One hop. A gateway process talks to workers over one socket each (`connecting`, `link`), frames joined
  once per loop tick (`replicas`); ids travel, not matrices (`frames`). The worker tells what it has
  loaded (`fleet`), so the gateway needs no manifests.
- What is made for each query is a struct of msgspec, and frames are its msgpack. They were dataclasses, and frames
  packed field by field: reading a ranking's frame took the worker 4.3 us, now 0.9, and a record of a dozen fields
  half a microsecond, now a tenth. The ids of a ranking and JSON tensors are read in C of our own
  (`contracts._ids`, `gateway._float_arrays`), each beside a way in Python that does the same.
- A worker is one thread: read all that waits, take a batch, score, answer. While the device
  works nothing is read, and what arrived meanwhile is the next batch: work-conserving without a
  timer (`batching`). Loading, plan watching and invalidation have threads of their own and hand
  over through queues.
- Tensors of the Open Inference Protocol are written once, into memory that gateway and worker share
  by descriptor (`arena`); what finds no room, or comes from another machine, goes over the socket.
- A request that can be sent at once costs a callback, not a coroutine (`begun`); waiting for a
  replica, trying again and refusing are the long way, written once (`rank`, `infer`).
- Nothing that computes here waits for a server that computes elsewhere: a remote version has a queue
  and calling threads of its own (`elsewhere`), its rows and replies are made on the worker's thread.
- A query's way is decided once (`router`), by the plan, the moment and chance; what users see is made of
  replies by plain functions (`shown`, `interleaving`, `exploration`), which also say with which
  probability. Only drafts need two replies, and take the long way. Drafted lists are not explored: they
  are random already, and a swap would blur whose pick an item was. Explored lists are not mirrored: a
  rank-diff with a random list says nothing.
- An experiment whose version is away, or fails on most queries (`breaker`), loses its units' answers
  (`outside`), not its count: guardrails see the arm that the plan gave (`arm_counts`).
- A mirrored query starts after the answer is written, has a deadline and a bound of its own, and shares
  nothing with the answer but the replica (`mirror`).
- Who watches takes nothing from who asks: an answer's times by stage are one append, sorted into buckets
  twice a second (`stage_times`), and of a model's answers four a second are shown whatever its traffic,
  without unit or query (`glimpses`).
- On a device the next batch is prepared while one computes (`execution`, `device`).
- A batch is of the model whose turn it is (`shares`), most urgent query first; who cannot be in
  time is refused before the device (`batch_times`). Nothing starves: the bounds are in `batching`.
- Nothing that serves is ever evicted: what does not fit its model's memory is refused, with the
  reason in the worker's state (`shelf`, `budget`).
- Workers announce themselves and gateways find them (`registration`, `discovery`). One that stops
  says so in its state, answers what it had been sent and then closes (`drain`); one that fails
  while its peers do not is left out and probed (`health`).
- Feature slabs are set-associative (`features.index`): lookups of a batch are a handful of numpy
  calls, deletion is free, and the same layout works in device memory. A newcomer displaces a row
  only if it was asked for more often lately: what comes once, in a scan, does not stay.
- Who asks, and how much, is decided in memory, in front of everything that a query costs (`identity`).
- An answer is in the journal before it is on the wire (`journal`): a memory-mapped file costs
  microseconds and survives kill -9 of the process. Redis gets it a moment later, at least once;
  readers drop repeats by event id.
"""
