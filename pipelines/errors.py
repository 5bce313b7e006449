"""Errors of the pipelines room; each is one line that says what to do.

```
PipelineError
  DataRefused          a data file or folder breaks a rule; names file, line and rule
  TrainingRefused      the data or the parent's weights do not fit the settings
  TrainingDiverged     the loss is no longer a number
  ExportRefused        the exported program does not score as the model does
  PlanRefused          a comparison cannot finish with its traffic; carries the numbers
  DefinitionsDiffer    figures of two metric definitions were to be compared
  RunCancelled         nobody wants the run any more, or another worker has it
  NotYet               a step has to wait for a time; carries it
```
"""


class PipelineError(Exception):
    """A pipeline step cannot go on."""


class DataRefused(PipelineError):
    """What was given as data breaks a rule."""


class TrainingRefused(PipelineError):
    """There is nothing to learn from, or the parent's weights are of another shape."""


class TrainingDiverged(PipelineError):
    """The loss is no longer finite."""


class ExportRefused(PipelineError):
    """The exported program and the model in memory disagree."""


class PlanRefused(PipelineError):
    """A comparison would end without an answer."""


class DefinitionsDiffer(PipelineError):
    """Two figures are different metrics."""


class RunCancelled(PipelineError):
    """Whoever works on a run is to stop."""


class NotYet(PipelineError):
    """A step cannot be done before a time, and then without a doubt; until_ms: since the epoch."""

    def __init__(self, message: str, until_ms: int) -> None:
        super().__init__(message)
        self.until_ms = until_ms
