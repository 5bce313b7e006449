"""Watches what flows through: do features, scores and confidence still look as when the version was made,
and does a mirrored version rank as the champion does?

May import: `registry`. Never: `serving`, `pipelines`, `deploy`. Deploy hands over the stream's
reader, where profiles are found, and where verdicts go.

Folders, each with a door sign:

- `windows`: what happens now, in minutes. Shown.
- `days`: what lasts, on closed days. Decides, and raises alarms.
- `mirrors`: mirrored lists beside the champion's.
- `evidently_reports`: a closed day for eyes, of lists that `deploy` takes out of the archive. Decides nothing.

Decisions

- Nothing raw is kept: exact moments and bin counts, a few kB a feature whatever the traffic.
- State and place in the stream are one file (`snapshot`): entries are acknowledged after a
  snapshot that holds them is on disk, and a snapshot names those it holds that may come again.
  A crash anywhere neither loses an event nor counts one twice; a verdict can be told twice, in
  the same words.
- A version without a profile, or events that do not fit it, are `errored`, too little data is
  `inconclusive`: neither passes, neither fails.
- Both arms apart: a challenger that sees other traffic must not hide in the champion's.
"""
