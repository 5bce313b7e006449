"""Watches what flows through: do features, scores and confidence still look as when the version was made,
and does a mirrored version rank as the champion does?

May import: `registry`. Never: `serving`, `pipelines`, `deploy`. Deploy hands over the stream's
reader, where profiles are found, and where verdicts go.

Folders, each with a door sign:

- `windows`: what happens now, in minutes. Shown.
- `days`: what lasts, on closed days. Decides, and raises alarms.
- `mirrors`: mirrored lists beside the champion's.
- `sketches`: quantiles, categories and ages of rows in bounded memory, mergeable. Shown.
- `joint`: whether two stretches can be told apart at all, and by what. Explains an alarm, on demand.
- `evidently_reports`: a closed day for eyes, of lists that `deploy` takes out of the archive. Decides nothing.

`statistics` are distances of arrays and of what is kept of them, `corrections` p-values of many quantities.

Decisions

- Nothing raw is kept: exact moments, bin counts and sketches, a few kB a feature whatever the traffic.
- Of days and windows, means, missing and zero shares decide. PSI beyond chance, spread, categories, quantiles, ages
  of rows and the same hours of earlier weeks stand beside them: they say what it looks like, not whether it is drift.
- State and place in the stream are one file (`snapshot`): entries are acknowledged after a
  snapshot that holds them is on disk, and a snapshot names those it holds that may come again.
  A crash anywhere neither loses an event nor counts one twice; a verdict can be told twice, in
  the same words.
- A version without a profile, or events that do not fit it, are `errored`, too little data is
  `inconclusive`: neither passes, neither fails.
- Calibration (`calibration`) asks whether clicks come as often as scores said. Scores are no probabilities until they
  are mapped, so the mapping is fitted on an earlier time; position bias is somebody else's estimate, and its error is
  part of what is told. Shown, never decided on: a poor ranker can be calibrated. `deploy.verdicts.calibration` brings
  clicks and scores together when a window is collected.
- Both arms apart: a challenger that sees other traffic must not hide in the champion's.
"""
