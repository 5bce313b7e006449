"""What can go wrong while watching. Bad events are counted, and a bad version is an `errored` verdict.

```
DriftError
  NothingToExplain      a day that was not closed, or of which nothing is left
  UnreadableSketch      its window or day goes on without the sketch
  UnreadableSnapshot    the monitor says so and starts with empty windows
  ReportRefused         there is no report of that day; says why
```
"""


class DriftError(Exception):
    """The message says in one line what happened or what to do."""


class UnreadableSnapshot(DriftError):
    """The file is no snapshot, or one of another version of Sluice."""


class NothingToExplain(DriftError):
    """There is no such day, or too little of it and of those before."""


class UnreadableSketch(DriftError):
    """The bytes are no sketch, or are damaged."""


class ReportRefused(DriftError):
    """What was asked for cannot be shown."""
