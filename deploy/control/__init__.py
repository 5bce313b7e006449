"""The control API: who answers whom is looked at and changed here, over HTTP, in the controller process.

`app` is HTTP, `access` and `conditions` check a request, `handlers` says which function answers it: `traffic`,
`rollouts`, `evidence`, `drift`, `runs`, `keys`, `audit`, `figures`. They stand on `desk`, which alone makes decisions
true.

Decisions

- One table of routes (`serving.gateway.control.routes`) says what there is: the gateway forwards and
  documents by it, `app` answers by it, `access` asks it for the role that a route needs.
- Every change is one `registry.decisions.Decision` by compare-and-set, with the receipt of its request
  in the same transaction (`registry.receipts`): repeated after a crash, or sent twice at once, a request
  changes things once and gets one answer.
- What is decided is decided when the tables have it. The board, which traffic follows, is published
  before the answer goes out; MLflow's aliases are copies that may come later, so that a rollback needs
  no MLflow.
- The console's figures (`figures`) come from tables, boards and files that are there anyway; only the traffic of the
  last hour is kept here, in memory (`meter`): months of it are Prometheus' business.
- How far behind each group of the event stream's readers is, is looked at here (`stream_watch`): a reader that was left
  out does not tell that it holds the stream back.
- A change is written to the audit log before it is done, and what came of it before it is answered (`trail`): what
  cannot be written down is not done. Two rows, not one that is changed, and not in the change's transaction: making a
  key or moving a run has none with the plan, and a refusal has none at all.
- Which keys are good is shown to gateways after each change, and again each second (`key_publisher`).
- Nothing is open without a key. A key is made by an admin; the first one lies in the data folder, for
  its owner's eyes (`local_key`).
"""
