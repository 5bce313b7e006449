"""What stands in front of several gateways: configurations of nginx and Kong, made by `sluice edges`.

`edge` says what is wanted; `nginx` and `kong` write it down, each by its template. Made, not kept: what they bound is
what gateways bound (`serving.settings`), and the list of gateways is everybody's own.

Decisions

- Keys are the gateways' to judge: an edge passes them on, counts by them and logs none. `auth_request` would ask the
  controller for each query, and queries go on without a controller.
- What may be sent twice: rankings and tensors, if the connection broke before an answer; feedback always, it counts
  once by event id; changes never, their clients repeat them with an Idempotency-Key.
- An edge's limits are coarse, by what it can see; quotas are the gateways' (`serving.identity`).
"""
