"""HTTP in, use case, HTTP out: translation only. Imports neither torch nor mlflow.

Decisions

- Tensors arrive as views of the body and leave in one join; what a client claims about sizes is
  compared with what is there, never allocated (`oip_request`, `oip_response`).
- Three parsers for the JSON of a request: a typed one while it is small, or once its FP32 arrays are cut out
  and read in C (`float_arrays`: a tree of the numbers was half of what such a request cost); simdjson straight
  into an array for other numbers, and where there was no compiler; a slow one for what neither takes, such as
  NaN (`infer_head`). The C is only a shorter way: whatever is not plainly right goes the others.
- An answer is compressed only for a client that names one encoding: libraries list all they know,
  and compressing tensors costs more than serving them (`serving.compression`).
- Requests that change who answers whom are handed on to the controller as they come, each over a connection
  of its own, bounded in size, number and time (`control`).
- The console (`console`) is files that are open to everybody and hold nothing; its figures are control
  routes like others.
- Clients' shared memory is read and written, not mapped: who shrinks it gets a refusal instead of
  taking the gateway along (`serving.regions`).
"""
