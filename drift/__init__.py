"""Watches what flows through: do features, scores and confidence still look as when the version was made,
and does a mirrored version rank as the champion does?

May import: `registry`. Never: `serving`, `pipelines`, `deploy`. Deploy hands over the stream's
reader, where profiles are found, and where verdicts go.

Closed days decide (`day_blocks`, `shift_watch`, `confidence`, `day_watch`)

- The day is the unit of variance: rows of a day share what that day was like, and taken one by one they make any two
  days differ. Windows that are over are put together to days, exact moments and bins; nothing else is kept.
- Two references, each with what the other lacks. The anchor is live traffic, by weekday, and stays where it was
  laid: it sees what is slow, also across retrainings. The profile is what the version was made on: it needs no
  history, and judges only what lies beyond the floor, for a training set is no sample of days.
- An alarm needs both a CUSUM past its threshold, so that noise does not do it, and an effect past the floor, so
  that what is certain and small does not. The budget of false alarms is the family's, split by importance.
- Odd days (a holiday, an outage) are left out of the anchor: with one of them in 28, a ramp was found in 5 % of runs.
- Days that remember each other add up further than they spread: sums are in units of the long run, measured on
  the anchor over all quantities together. One odd day counts half a threshold at most, unless the feature broke.
- A deploy may move what shown items look like. The charts rest, the jump is taken out where it is one, and what is
  not known of it is slack: without that, a version that scored on another scale was alarmed on in 2 of 10 runs.
  What shifted before stays.
- Retraining on what shifted answers an alarm; it stays in sight, as the anchor is still left. A declared change
  (`sluice drift rebaseline`) or another feature view lays the anchor anew.
- Confidence is margin, entropy and disagreement with a shadow together, and no statement on quality.
- A day is taken once: the watches' file holds its end with what it changed, and is replaced before the snapshot that
  no longer holds the day, and before anybody is told. The board and who else is told may hear it twice.
- Failed evidence rolls back, so `deploy.drift_evidence` asks for more than an open alarm: that the champion's arm, on
  the same day, does not have it, and twice the floor.

Windows are shown (`judge`, `tumbling`, `windows`, `monitor`): what happens now, in minutes, without days or seasons

- Effect size decides, significance guards. A quantity has moved if its mean moved by at least
  the floor (0.1 reference standard deviations, 5 points of a share) and chance does not explain
  that, all quantities of a window taken together (Benjamini-Hochberg). PSI, Kolmogorov-Smirnov
  and Wasserstein are shown and never alarmed on: at these sample sizes they alarm without drift.
- The list is the unit of variance inside of a window, not the row: rows of one list share their query (`moments`,
  `judge`).
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

Mirrored lists (`mirror_monitor`, `mirror_windows`, `rank_diff`, `rank_summary`, `rank_agreement`)

- The lists as they would have been shown are compared, position and score; a list that exploration
  changed counts as it was shown. Kendall's tau is of the common items, by their scores, so that a tie is
  no disagreement; what one list lacks is seen by overlap, rank-biased overlap and Fagin's top distance
  (penalty 1/2). All are exported; overlap alone has a limit, for it is the one that a person can set.
- Score shift is of scores standardised by each version's own profile: another scale is no shift.
- A limit is failed or passed beyond chance, or the verdict is `inconclusive`. Intervals take lists as
  independent, for a mirror event does not name its unit: good enough to guard, too narrow to promote on.
- Two stretches are judged each minute: the window, in which a breakdown shows, and all since the plan's
  revision, in which there is enough. A revision is what evidence speaks of, so another one starts anew.
- An event that comes after its window was judged counts in the step: late, but not lost.
- In the drift monitor's process, with a consumer group of its own: it needs the same stream and profiles,
  and the controller, which takes traffic back within seconds, should not share its interpreter with
  minutes of arithmetic. Payloads without mirror events are acknowledged without being taken apart.
- While the evidence store is away rank-diffs wait in the snapshot; the stream is read all the same.
"""
