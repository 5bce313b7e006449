"""Celery: thin, idempotent tasks. What they do is decided in other modules.

A task that its worker died with is delivered again (acknowledged late), and does the same again:
evidence is keyed by its window, compaction by its hour. Messages are JSON, never pickle.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from celery import Celery

from pipelines import metrics
from pipelines.archive.files import Archive
from pipelines.durable import replace_file
from pipelines.errors import PipelineError
from pipelines.feedback.click_gauges import ClickGauges
from pipelines.feedback.click_ndcg import WINDOW_MS, Window, evidence
from pipelines.gates.tasks import GateWiring, add_gate_tasks
from pipelines.runs.tasks import RunWiring, add_run_tasks

log = logging.getLogger(__name__)

HOUR_S = 3600
RESULTS_KEPT_S = 24 * HOUR_S
REDELIVER_AFTER_S = HOUR_S  # longer than any task takes, or it would run twice at once; runs have leases
CAUGHT_UP_WINDOWS = 12
COMPACT_AFTER_S = 900  # an hour's last events are in the archive by then; later ones are merged later


@dataclass(frozen=True, slots=True)
class PipelineWiring:
    """What tasks work on. models: names of those that are served. clock: seconds since the epoch. gates, runs: what
    online gates and runs of pipelines need, None to leave them out. chores: what else is to be done now and then."""

    archive: Archive
    reports: Path
    models: Callable[[], list[str]]
    clock: Callable[[], float] = time.time
    runs: RunWiring | None = None
    gates: GateWiring | None = None
    gauges: ClickGauges = field(default_factory=ClickGauges)
    chores: tuple["Chore", ...] = ()


@dataclass(frozen=True, slots=True)
class Chore:
    """Work of another room's, each so many seconds. turn: takes the time, ms since the epoch, and says what it did; it
    finds by itself what there is to do, so that a message that is lost or comes twice changes nothing."""

    name: str
    period_s: float
    turn: Callable[[int], list[str]]


def make_celery(broker_url: str, backend_url: str, wiring: PipelineWiring) -> Celery:
    """The app that worker and beat run, with its tasks and their schedule."""
    app = Celery("sluice", broker=broker_url, backend=backend_url)
    app.conf.update(
        task_serializer="json",
        result_serializer="json",
        accept_content=["json"],
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        worker_prefetch_multiplier=1,
        result_expires=RESULTS_KEPT_S,
        broker_transport_options={"visibility_timeout": REDELIVER_AFTER_S},
        result_backend_transport_options={"visibility_timeout": REDELIVER_AFTER_S},
        broker_connection_retry_on_startup=True,
        timezone="UTC",
        # a message that waited a whole period is dropped: the next one does its work too
        beat_schedule={
            "measure-clicks": _every("pipelines.measure_clicks", WINDOW_MS // 1000),
            "compact-archive": _every("pipelines.compact_archive", HOUR_S),
        },
    )
    _add_tasks(app, wiring)
    if wiring.runs is not None:
        add_run_tasks(app, wiring.runs, wiring.clock)
    if wiring.gates is not None:
        add_gate_tasks(app, wiring.gates, wiring.clock)
    for chore in wiring.chores:
        _add_chore(app, chore, wiring)
    return app


def _add_tasks(app: Celery, wiring: PipelineWiring) -> None:
    # not shared: they work on this app's wiring
    @app.task(name="pipelines.measure_clicks", shared=False)  # type: ignore[untyped-decorator]
    def measure_clicks(since_ms: int | None = None) -> list[str]:
        """Evidence of the window from since_ms on, else of closed ones that have none; the files written."""
        return [
            str(_measure(wiring, model, window))
            for model in wiring.models()
            for window in (_unmeasured(wiring, model) if since_ms is None else [Window(since_ms)])
        ]

    @app.task(name="pipelines.compact_archive", shared=False)  # type: ignore[untyped-decorator]
    def compact_archive() -> int:
        """Merges the files of closed hours; how many files that were."""
        closed_ms = _now_ms(wiring) - COMPACT_AFTER_S * 1000
        return sum(_compact(wiring.archive, *hour) for hour in wiring.archive.uncompacted(closed_ms))


def _add_chore(app: Celery, chore: Chore, wiring: PipelineWiring) -> None:
    name = f"pipelines.{chore.name.replace('-', '_')}"

    @app.task(name=name, shared=False)  # type: ignore[untyped-decorator]
    def turn() -> list[str]:
        """What the chore did."""
        return chore.turn(_now_ms(wiring))

    options = {"expires": max(1.0, chore.period_s)}
    app.conf.beat_schedule[chore.name] = {"task": name, "schedule": chore.period_s, "options": options}


def _unmeasured(wiring: PipelineWiring, model: str) -> list[Window]:
    """Also those that no worker was there for."""
    closed = Window.closed(_now_ms(wiring), CAUGHT_UP_WINDOWS)
    return [window for window in closed if not _report_path(wiring, model, window).exists()]


def _measure(wiring: PipelineWiring, model: str, window: Window) -> Path:
    report = evidence(wiring.archive, model, window.since_ms, window.until_ms)
    path = _report_path(wiring, model, window)
    replace_file(path, report.encode())
    wiring.gauges.show(report)
    return path


def _report_path(wiring: PipelineWiring, model: str, window: Window) -> Path:
    name = datetime.fromtimestamp(window.since_ms / 1000, UTC).strftime("%Y%m%dT%H%M")
    return wiring.reports / "evidence" / model / f"{name}.json"


def _compact(archive: Archive, model: str, hour: str) -> int:
    try:
        report = archive.compact(model, hour)
    except PipelineError as error:
        log.error("hour %s of %s stays as it is: %s", hour, model, error)
        return 0
    metrics.ARCHIVE_DUPLICATES.inc(report.duplicates)
    return report.files


def _now_ms(wiring: PipelineWiring) -> int:
    return int(wiring.clock() * 1000)


def _every(task: str, period_s: int) -> dict[str, object]:
    return {"task": task, "schedule": float(period_s), "options": {"expires": period_s}}
