"""gRPC: the Open Inference Protocol, ranking and health, over an HTTP/2 of our own.

Why not grpcio: with an empty handler and 54 KB of request its asyncio server spends 270 to 320 us of
CPU on a call and its threaded one 200, as much as all of Triton's ModelInfer; every call hops between
grpcio's own threads and the loop. Here a call is a few frames, read where the bytes arrive and
answered in one write: 50 us in the same run (`tests/bench/grpc_stages.py`). It spares the gateway the
library's memory, too.

- `frames`, `fields`, `heads`, `messages`, `outbox`: bytes in, bytes out, no I/O. HTTP/2 frames, header
  fields (HPACK by the `hpack` package), gRPC's length-prefixed messages, the windows that a peer grants.
- `exchange`: one call; `connection`: one client's calls; `server`: all clients, and how they end.
- `calls`: what a method is handed beside its message, and how errors become statuses.
- `methods`: the table of everything served, from `inference`, `models`, `ranking` and `health`. Each is
  translation only: what HTTP does, in other words.
- `tensors` reads and writes ModelInfer by protobuf; `layouts` does it for requests like those before,
  which differ in their tensors alone, and those never enter protobuf.

Not served: server reflection, gRPC-Web. TLS is `serving.tls`'s, below HTTP/2.
"""
