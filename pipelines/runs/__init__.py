"""Runs of pipelines: collection each week, retraining every two; by schedule, by hand, or because of drift.

Decisions

- Runs (`retraining`, step by step) live in tables (`registry.runs`); Celery only wakes somebody up (`tasks`). So a
  lost message, a second beat or an empty broker changes nothing, and the `tick` remembers nothing (`schedule`).
  Their tasks are acknowledged early: a tick sends again what is left, and a late acknowledgement over a connection
  that was lost meanwhile is what stops a worker.
- A step runs in a process of its own, bound to its worker's life, since only a process can be ended when it is past its
  time. It writes into a folder that gets its name when everything is in it (`steps`): whole or not there.
- Attempts of a step count from when it last got further than before: a training that is killed each night and goes on
  from its checkpoint is no dead letter, one that dies at the same epoch three times is.
- Of retrainings that were missed the newest is run, as it learns from all that was collected; of collections all.
"""
