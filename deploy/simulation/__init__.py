"""Decisions on trial: simulated users on real judged lists, under the very code that decides in production.

Under the roof, for it puts together what workshops may not: serving's drafts, swaps and arms, pipelines' gates,
planner and rollout engine, drift's detectors. Nothing here is imported by what serves.

Decisions

- The truth is computed, not estimated (`world`): chances of clicks are drawn in the steps that they are summed in.
  A challenger has the lift it is said to have (`challengers`).
- No procedure is written again. Gates see sums by unit and look, which they make of lists themselves; a test holds
  both ways against each other, to the bit (`measurements`).
- A figure comes with its standard error and is held against its bar by itself: better than the bar, beyond it by
  chance, or missed (`characteristic`). Every run has a seed of its own, so the table does not depend on how many
  processes made it (`running`).
- The world is one of many: orders of magnitude. What a plan needs on live traffic, the planner measures there.
"""
