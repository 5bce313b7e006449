"""Rollouts: what happens next, from what others measured.

Decisions

- A rollout's next step is a pure function (`canary.decide`) of records that others wrote: evidence, and
  counters by arm (`guardrails`). What to do about it is the `engine`'s, each second.
- Two rules differ, for a reason: stale evidence never lets a step pass, but bad news from any step of the
  rollout still rolls it back: a verdict that arrives just after a step has moved on is still true.
- Guardrails stand on confidence sequences (`sequential`), not on p-values: they are looked at each second.
  Counts are taken as independent; failures that come in bursts make them too sure. They fail only
  beyond doubt, pass on estimates within the limits, and hold in between.
"""
