"""The roof: builds every process, starts them, and gives the user one command, `sluice`.

May import: everything below (`serving`, `drift`, `pipelines`, `registry`). Nothing imports it.

- Built here: `settings` are read from `variables`, held against `setting_rules`, and know the `data_folder`; `wiring`
  makes each process of them (`gateway`, `worker`, `control`) and opens what they share, `process` runs one.
- Kept running by `machine`; on one screen by `commands` (`cli`), `demo`.
- Handed to rooms below: `features`, `models`, `training`, `verdicts`. `drift_reports`: Evidently's, of closed days.
- Files for others: `prometheus`, `grafana`, `edges`, `ci`, `images`, `compose`, `kubernetes`, `scripts`. `simulation`:
  what the decisions reach.

Decisions

- One supervisor per data folder, a process of its own (`machine.supervisor`), so that neither a closed
  terminal nor a redrawn table stands between a dead worker and its restart. What to do next is a
  plain function of what is known and the clock (`machine.supervision.decide`).
- The kernel keeps the promises that code cannot: the lock is an flock, gone with its holder; a
  child's parent-death signal (`machine.child`) ends it when the supervisor is killed with -9.
- Processes start when what they need has been ready once, and stop in reverse order. Consumers
  of events come before their producers in the list: an orderly stop leaves nothing unarchived,
  and Redis, which all of them flush into, goes last.
- `settings` alone reads the environment. The supervisor hands its effective values to its
  children, so no process of one platform can disagree with another.
- Commands that change who answers whom go through the control API (`control/`), on this machine too: one
  record, one check of who may, and the same command from elsewhere.
- Every room declares its metrics; a gateway tells those of all processes of its machine, and of the supervisor's what
  the state file says (`machine.metrics`). Rules, runbook and boards over them are in `prometheus/` and `grafana/`.
- Commands import what they need when they run: `sluice --help` answers at once.
"""
