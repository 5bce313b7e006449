"""What can go wrong while watching. Bad events are counted, and a bad version is an `errored` verdict.

```
DriftError
  UnreadableSketch      its window or day goes on without the sketch
  UnreadableSnapshot    the monitor says so and starts with empty windows
  ReportRefused         there is no report of that day; says why
```
"""


class DriftError(Exception):
    """The message says in one line what happened or what to do."""


class UnreadableSnapshot(DriftError):
    """The file is no snapshot, or one of another version of Sluice."""


class UnreadableSketch(DriftError):
    """The bytes are no sketch, or are damaged."""


class ReportRefused(DriftError):
    """What was asked for cannot be shown."""
