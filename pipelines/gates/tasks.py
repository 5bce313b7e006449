"""The Celery task that judges online gates: thin, and the same whenever and however often it runs."""

import logging
from collections.abc import Callable
from dataclasses import dataclass

from celery import Celery

from pipelines import metrics
from pipelines.gates.judge import GateJudge
from registry.errors import RegistryError

log = logging.getLogger(__name__)

JUDGE = "pipelines.judge_gates"


@dataclass(frozen=True, slots=True)
class GateWiring:
    """judge: made when it is first needed, so that a database that is away at the start is away for a while only.
    period_s: between its looks."""

    judge: Callable[[], GateJudge]
    period_s: float = 60.0


def add_gate_tasks(app: Celery, wiring: GateWiring, clock: Callable[[], float]) -> None:
    """The task and its schedule. clock: seconds since the epoch."""

    @app.task(name=JUDGE, shared=False)  # type: ignore[untyped-decorator]
    def judge_gates() -> list[str]:
        """Evidence of all gates as of now, if it is news; its ids."""
        try:
            return [evidence.id for evidence in wiring.judge().turn(int(clock() * 1000))]
        except RegistryError as error:
            metrics.GATE_FAILURES.inc()
            log.warning("online gates are not judged until this is over: %s", error)
            return []

    # a message that waited a whole period is dropped: the next one does its work too
    options = {"expires": max(1.0, wiring.period_s)}
    app.conf.beat_schedule["judge-gates"] = {"task": JUDGE, "schedule": wiring.period_s, "options": options}
