"""HTTP in, use case, HTTP out: translation only. Imports neither torch nor mlflow.

Decisions

- Tensors arrive as views of the body and leave in one join; what a client claims about sizes is
  compared with what is there, never allocated (`oip_request`, `oip_response`).
- Two parsers for the JSON of a request: a typed one while it is small, simdjson straight into an
  array where it carries the numbers; a slow one for what neither takes, such as NaN (`infer_head`).
- An answer is compressed only for a client that names one encoding: libraries list all they know,
  and compressing tensors costs more than serving them (`serving.compression`).
- Clients' shared memory is read and written, not mapped: who shrinks it gets a refusal instead of
  taking the gateway along (`serving.regions`).
"""
