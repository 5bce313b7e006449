"""Retraining runs: bodies and answers."""

from typing import Annotated

import msgspec

from registry.contracts.runs import Run
from serving.gateway.control.fields import Body, Why


class RetrainBody(Body, frozen=True):
    """since_ms, until_ms: the window of clicks to learn from, both or neither; by default what a scheduled
    retraining learns from, up to the last full hour. A window is run once: see the runs for one that was."""

    why: Why
    since_ms: Annotated[int, msgspec.Meta(ge=0)] | None = None
    until_ms: Annotated[int, msgspec.Meta(ge=0)] | None = None


class RetryBody(Body, frozen=True):
    """from_step: done again from this step on; by default what is done stays done."""

    why: Why
    from_step: Annotated[str, msgspec.Meta(max_length=64)] = ""


class RunAnswer(msgspec.Struct, frozen=True):
    """A run of a pipeline as it is now. progress: in [0, 1], of all its steps. held: somebody works on it."""

    plan_revision: int
    progress: float
    held: bool
    run: Run


class RunList(msgspec.Struct, frozen=True):
    """The newest windows first."""

    model: str
    plan_revision: int
    runs: tuple[RunAnswer, ...]


class RunsAnswer(msgspec.Struct, frozen=True):
    """Of all models, the newest windows first."""

    runs: tuple[RunAnswer, ...]
