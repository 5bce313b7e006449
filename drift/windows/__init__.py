"""Windows show what happens now, in minutes, without days or seasons (`window`, `tumbling`, `judge`).

Decisions

- Effect size decides, significance guards. A quantity has moved if its mean moved by at least
  the floor (0.1 reference standard deviations, 5 points of a share) and chance does not explain
  that, all quantities of a window taken together (Benjamini-Hochberg). PSI, Kolmogorov-Smirnov
  and Wasserstein are shown and never alarmed on: at these sample sizes they alarm without drift.
- The list is the unit of variance inside of a window, not the row: rows of one list share their query
  (`drift.moments`, `judge`).
- Two windows merge into what one would have been (`window`).
- The profile's verdict is shown beside the same hour of earlier weeks (`hours`): what comes back is no drift, but a
  profile does not know it. Blocks of hours are kept for four weeks, without sketches: 30 MB an arm of 200 features.
- A sketch is kept of each whole window (`sketched`), not of its segments, and of 64 windows at once at most.
- p-values are weighted by importance and corrected (`drift.corrections`), by default for the share of wrong ones.
- PSI is told less what chance makes of it, rows being alike in their lists as they were (`shapes`): plain PSI of a
  small window is far from 0 without any drift.
- Windows follow event time (`tumbling`): a monitor that was away catches up into the same windows
  and comes to the same verdicts.
- Everything that was read at once is added up at once (`batch`), so that who falls behind gets quicker: of 200
  features, 370 us a ranking one by one, 16 to 23 from sixty on. Moments and bins are of all rankings, none is left
  out. An event is taken apart no further than its numbers (`contracts.events.WatchedRanking`), and bins are told by
  how many values reach each edge, without sorting.
- A ranking that is shipped again counts once for as long as its window is open, however long its gateway was away
  (`counted`): eight bytes each, by the second it was answered in. Afterwards it is late, whoever sends it.
- Memory is bounded: `tumbling.MOST_WINDOWS` open windows of a size that the profile fixes, `counted.MOST` ids, and what
  one read brings. What finds no room is counted (`crowded`).
- Segments are declared (`segments`), by one number that every ranking has, at most eight and the rest: detectors are
  as many as were meant. Rankings are counted by segment alone; the whole is put together when the window is over,
  which merging gives exactly.
"""
