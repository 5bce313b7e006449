"""A closed day beside its reference for eyes, as Evidently shows it (`report`), from some of its lists (`sample`).

`laid_out` makes values of a reference profile where there are no days to compare with, `figures` are our own statistics
on the same values, `head` stands on top of Evidently's page, `page` locks it in, `about` says what it is of, `files`
keeps it.

Decisions

- Nothing is decided here. Evidently calls a column drifted by thresholds of its own, on rows as if they were
  independent; the page says so on top, beside what the day came to (`drift.days`).
- Lists are sampled, not rows, by the smallest hashes of their ranking ids: the same lists whoever reads the archive in
  whatever order or parts, each list as likely as any other, and memory for those kept only. The page says how many of
  how many.
- The reference is the anchor's days of the same weekday while the archive has them, else the version's profile.
- Evidently takes seconds and hundreds of MB to import, and a tenth of a second a figure. So this runs in a process of
  its own (`deploy.drift_reports`), and draws the quantities of open alarms and those that moved most; numbers are of
  all.
- A page loads nothing: scripts are the page's own, named by hash in its Content-Security-Policy, so that a feature's
  name can do no harm, and it may ask nobody for anything.
"""
