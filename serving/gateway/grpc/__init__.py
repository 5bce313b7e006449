"""gRPC: the Open Inference Protocol, ranking and health, over an HTTP/2 of our own.

Why not grpcio: its asyncio server spends some 300 us of CPU on a call with an empty handler and 54
KB of request, its threaded server some 240; a whole ModelInfer may cost no more than 1.5 times
Triton's 164. Every call hops between grpcio's own threads and the loop. Here a call is a few
frames, read where the bytes arrive and answered in one write: some 30 us (`tests/bench/grpc_stages.py`
prints all of these). It also spares the gateway the library's memory.

- `frames`, `fields`, `messages`, `outbox`: bytes in, bytes out, no I/O. HTTP/2 frames, header fields
  (HPACK by the `hpack` package), gRPC's length-prefixed messages, the windows that a peer grants.
- `connection`: one client's connection; `server`: all of them, and how they end.
- `calls`: what a method is handed beside its message, and how errors become statuses.
- `methods`: the table of everything served, from `inference`, `models`, `regions`, `ranking` and
  `health`. Each is translation only: what HTTP does, in other words.

Not served: TLS (as over HTTP, a proxy's work), server reflection, gRPC-Web.
"""
