"""The floor: what the workshops agreed on, and the few durable places where they meet.

- `contracts/`: records and their encoding, no I/O.
- `artefacts`, `store`, `mlflow_store`, `cache`: immutable model versions, verified wherever they
  are written, moved or read. `signatures`: who made them, where that is asked.
- `retirement`: archived versions, and their deletion, never of one in use. Whoever gives
  traffic sees versions through its `ServableVersions`, and reads the plan before he asks for a version.
- `compare`, `lineage`: what two versions differ in, and the way of one from training window to
  promotion; pure.
- `traffic_control`, `board`, `promotion`: which version answers whom. Tables decide, by
  compare-and-set; the board and MLflow's aliases are copies, published from there and repaired by
  the controller.
- `rollouts`, `rollout_moves`, `decisions`: a version's way to champion. A decision is one transaction
  over plan, rollouts, histories and evidence. The moves are pure; a plan that others change ends the
  rollouts that it leaves behind in that same transaction (`decisions.settle`), and nobody but a rollout
  changes its experiment.
- `runs`, `run_moves`: runs of pipelines. The tables are the truth, not Celery: a model has one run of a kind for a
  window, and one at work at a time (both are indexes). Who works on one holds a lease with a number, so
  that of two workers that both think they have it, after a clock jumped, only the later one can write.
- `receipts`: the answer of a request with an idempotency key, in the transaction of its change.
- `api_keys`, `roles`, `principals`: who may ask for what. `key_sheet`: good keys as gateways know them, a copy like
  the plan board, whole, so that what is not on it is not good. `quotas`: how much, where all gateways meet.
- `audit`: what was asked of the control plane and what came of it; rows are added, never changed.
- `database`, `tables`, `migrations`: the control database, SQLite or PostgreSQL.
- `counters`: what gateways answered, arm by arm, and where the time went.
- `glimpse_board`: a few of the newest answers, for a person who watches.
- `replica_board`: which workers there are, by heartbeat.
- `drift_board`: what the newest closed days of every arm came to, and declared changes of feature pipelines.
- `stream`: the event log that gateways write and the archiver and the drift monitor read.

May import nothing of Sluice but itself. Every protocol has an in-memory form that ships and
passes the same suite (`tests/suites/`) as the durable one. Only `mlflow_store` and `mlflow_foreign`
(models of others, to be adopted) import mlflow, and nothing here imports torch: gateways start in under two seconds.
"""
