"""Windows show what happens now, in minutes, without days or seasons (`window`, `tumbling`, `judge`).

Decisions

- Effect size decides, significance guards. A quantity has moved if its mean moved by at least
  the floor (0.1 reference standard deviations, 5 points of a share) and chance does not explain
  that, all quantities of a window taken together (Benjamini-Hochberg). PSI, Kolmogorov-Smirnov
  and Wasserstein are shown and never alarmed on: at these sample sizes they alarm without drift.
- The list is the unit of variance inside of a window, not the row: rows of one list share their query
  (`drift.moments`, `judge`).
- Two windows merge into what one would have been (`window`).
- Windows follow event time (`tumbling`): a monitor that was away catches up into the same windows
  and comes to the same verdicts.
"""
