"""Watches what flows through: do features, scores and confidence still look as when the version was made?

May import: `registry`. Never: `serving`, `pipelines`, `deploy`. Deploy hands over the stream's
reader, where profiles are found, and where verdicts go.

Decisions

- Effect size decides, significance guards. A quantity has moved if its mean moved by at least
  the floor (0.1 reference standard deviations, 5 points of a share) and chance does not explain
  that, all quantities of a window taken together (Benjamini-Hochberg). PSI, Kolmogorov-Smirnov
  and Wasserstein are shown and never alarmed on: at these sample sizes they alarm without drift.
- The list is the unit of variance, not the row: rows of one list share their query (`moments`,
  `judge`). Blocks of days with seasons follow when there is that much history.
- Nothing raw is kept. A window is exact moments and bin counts, a few kB a feature whatever the
  traffic (`windows`); two windows merge into what one would have been.
- Windows follow event time (`tumbling`): a monitor that was away catches up into the same windows
  and comes to the same verdicts.
- State and place in the stream are one file (`snapshot`): entries are acknowledged after a
  snapshot that holds them is on disk, and a snapshot names those it holds that may come again.
  A crash anywhere neither loses an event nor counts one twice; a verdict can be told twice, in
  the same words.
- A version without a profile, or events that do not fit it, are `errored`, too little data is
  `inconclusive`: neither passes, neither fails.
- Both arms apart: a challenger that sees other traffic must not hide in the champion's.
"""
