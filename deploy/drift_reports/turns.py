"""Which report is made next, and that it is made: in turns, one report each."""

import fcntl
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from deploy.drift_reports.links import ReportLinks
from deploy.drift_reports.make import ReportSources
from deploy.drift_reports.process import REFUSED
from deploy.machine.child import IMPORT_ROOT, bound
from drift.evidently_reports.files import EvidentlyReports, Failed, ReportPlace
from registry.contracts.drift import day_name
from registry.errors import RegistryError

log = logging.getLogger(__name__)

NEWEST = 3  # closed days of an arm that are looked at: who was away longer may ask for older ones
MOST_ATTEMPTS = 3
AGAIN_AFTER_MS = 300_000  # and four times longer after the next
LIMIT_S = 600.0
NICE = 10

Process = Callable[[Sequence[str]], tuple[int, str]]
"""Runs `deploy.drift_reports.process` with these words: its exit code, and its last one."""


@dataclass(frozen=True, slots=True)
class ReportTurns:
    """models: names of those that are served. links: None where there is no MLflow."""

    sources: ReportSources
    reports: EvidentlyReports
    models: Callable[[], Sequence[str]]
    process: Process
    links: ReportLinks | None = None
    _resting: dict[str, int] = field(default_factory=dict)  # until when MLflow is left alone, by model

    def turn(self, now_ms: int) -> list[str]:
        """Makes the report that is due, if one is and nobody else makes one, and shows in MLflow what is not shown
        yet; what was made or shown."""
        with _alone(self.reports.folder) as alone:
            if not alone:
                return []
            models = self.models()
            done = [self._make(place, now_ms)] if (place := self.due(models, now_ms)) is not None else []
            return [*filter(None, done), *(model for model in models if self._show(model, now_ms))]

    def due(self, models: Sequence[str], now_ms: int) -> ReportPlace | None:
        """What somebody waits for goes first, then the newest day."""
        for model in models:
            if wanted := self.reports.wanted(model):
                return wanted[0]
        places = {place for model in models for place in self._of_themselves(model)}
        waiting = [place for place in places if _may(self.reports.failed(place), now_ms)]
        return max(waiting, key=lambda place: (place.since_ms, place), default=None)

    def _of_themselves(self, model: str) -> Iterator[ReportPlace]:
        """Newest closed days that have no report and are to have one."""
        for arm in self.sources.days.arms(model):
            for day in self.sources.days.read(model, arm, newest=NEWEST):
                place = ReportPlace(model, arm, day.record.since_ms)
                if self.reports.about(place) is None:
                    records = self.sources.records(place)
                    if self.sources.settings.each_day or any(record.open_alarms for record in records):
                        yield place

    def _make(self, place: ReportPlace, now_ms: int) -> str:
        words = (place.model, place.arm, day_name(place.since_ms))
        code, why = self.process(words)
        if code == 0:
            log.info("report of %s made", " ".join(words))
            return "/".join(words)
        before = self.reports.failed(place)
        attempts = MOST_ATTEMPTS if code == REFUSED else (before.attempts if before else 0) + 1
        self.reports.fail(place, Failed(attempts, now_ms, why))
        log.warning("no report of %s (attempt %d of %d): %s", " ".join(words), attempts, MOST_ATTEMPTS, why)
        return ""

    def _show(self, model: str, now_ms: int) -> bool:
        if self.links is None or now_ms < self._resting.get(model, 0):
            return False
        try:
            if not self.links.pending(model):
                return False
        except RegistryError as error:
            log.warning("whether reports of %s are to be shown in MLflow is asked again: %s", model, error)
            return False
        code, why = self.process(("--links", model))
        if code:
            self._resting[model] = now_ms + AGAIN_AFTER_MS
            log.warning("reports of %s are not shown in MLflow yet: %s", model, why)
        return code == 0


def in_a_process(words: Sequence[str]) -> tuple[int, str]:
    """See `Process`: a child that ends with this process, and after `LIMIT_S` at the latest."""
    argv = bound([sys.executable, "-m", "deploy.drift_reports.process", *words], NICE)
    # arithmetic on all cores would take them from those who answer
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    try:
        done = subprocess.run(
            argv, cwd=IMPORT_ROOT, env=environment, capture_output=True, text=True, timeout=LIMIT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return 1, f"it took longer than {LIMIT_S:g} s"
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    told = next((line.removeprefix("error: ") for line in reversed(lines) if line.startswith("error: ")), "")
    return done.returncode, told or (lines[-1][:500] if lines else f"it ended with {done.returncode}")


def _may(failed: Failed | None, now_ms: int) -> bool:
    if failed is None:
        return True
    pause_ms = AGAIN_AFTER_MS * 4 ** (failed.attempts - 1)
    return failed.attempts < MOST_ATTEMPTS and not 0 <= now_ms - failed.at_ms < pause_ms


@contextmanager
def _alone(folder: Path) -> Iterator[bool]:
    """Whether nobody else is at it, in whichever process."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / ".making-reports", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True
    finally:
        os.close(descriptor)  # gives the lock back, as a kill does
