"""The floor: what the workshops agreed on, and the few durable places where they meet.

- `contracts/`: records and their encoding, no I/O.
- `artefacts`, `store`, `mlflow_store`, `cache`: immutable model versions, verified wherever they
  are written, moved or read.
- `traffic_control`, `board`, `promotion`: which version answers whom. Tables decide, by
  compare-and-set; the board and MLflow's aliases are copies, published from there and repaired at
  start.
- `rollouts`, `decisions`: a decision changes plan, rollout and both histories, or nothing; `receipts` puts
  the answer of the request that asked for it into the same transaction.
- `api_keys`, `roles`: who may ask.
- `replica_board`: which workers there are, by heartbeat.
- `stream`: the event log that gateways write and the archiver and the drift monitor read.

May import nothing of Sluice but itself. Every protocol has an in-memory form that ships and
passes the same suite (`tests/suites/`) as the durable one. Only `mlflow_store` imports mlflow and
nothing here imports torch: gateways start in under two seconds.
"""
