"""How a program runs on a device: the exported graph, its precision, streams, graphs, the ranking tail.

May import: `serving`, `registry`, torch. The gateway imports nothing of it.

Decisions

- Everything runs on the CPU too, the same lines of it, and is tested there. What only a GPU has
  (streams, events, pinned memory, captured graphs) stands behind `streams.Device`, whose CPU form
  computes at once; a test's form computes in any order that the events allow.
- One compute stream a process. Batches of all models and every write to resident rows run on it
  in the order in which they were submitted, so rows need no locks; only copies run beside it.
- A batch crosses to the device in one copy and its rankings come back in one (`staging`).
- Precision below float32 is a promise that is checked at load against float64 (`accuracy`); what
  does not keep it is served in float32, and says so.
- Preprocessing stays in float32 whatever the precision: autocast lowers matrix products alone.
"""
