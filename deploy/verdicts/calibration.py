"""Calibration of served versions: when a window was collected, what its clicks say of their scores, on the drift board.

Pipelines know clicks, positions and scores, drift knows what to make of them. The mapping is fitted on the window
before, of the same version; a version that was not there yet is split in the middle of its first window.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from drift.calibration import Calibrated, CalibrationRule, ScoredClicks, calibrate, show
from pipelines.archive.files import Archive
from pipelines.errors import PipelineError
from pipelines.feedback.collection import Collected, Collection
from pipelines.feedback.scored_clicks import ScoredRows, scored_rows, windows_before
from registry.contracts.drift import CalibrationRecord
from registry.drift_board import DriftBoard
from registry.errors import RegistryError

log = logging.getLogger(__name__)

LOOKED_AT = 4  # windows before


@dataclass(frozen=True, slots=True)
class Calibrations:
    """Told of every collected window. board: asked for each time, so that one that is away is away for a while."""

    archive: Archive
    board: Callable[[], DriftBoard]
    rule: CalibrationRule = field(default_factory=CalibrationRule)

    def keep(self, collected: Collected) -> None:
        """Publishes what is found of the version that answered most, and sets its gauges. Nothing else depends on it:
        what goes wrong is logged."""
        try:
            record = self.record(collected)
            if record is not None:
                self.board().calibrated(record)
                show(record)
        except (PipelineError, RegistryError, OSError) as error:
            log.warning("calibration of %s is not known: %s", collected.record.model, error)

    def record(self, collected: Collected) -> CalibrationRecord | None:
        """None of a window without lists. Raises DataRefused, OSError."""
        now = collected.record
        if not now.views:
            return None
        version = max(now.views, key=lambda view: view.lists).version
        before = self._before(collected, version)
        since_ms = now.since_ms if before is not None else (now.since_ms + now.until_ms) // 2
        fitted = before or collected
        fitted_ms = (fitted.record.since_ms, min(fitted.record.until_ms, since_ms))
        found, rows = self._calibrated(fitted, fitted_ms, collected, (since_ms, now.until_ms), version)
        return CalibrationRecord(
            model=now.model,
            version=version,
            verdict=found.verdict,
            why=found.why,
            since_ms=since_ms,
            until_ms=now.until_ms,
            fitted_since_ms=fitted_ms[0],
            fitted_until_ms=fitted_ms[1],
            simulated=now.simulated,
            lists=rows.lists if rows else 0,
            clicks=int(rows.clicks.sum()) if rows else 0,
            error=found.error,
            plain=found.plain,
            by_chance=found.by_chance,
            ratio=found.ratio,
            ratio_error=found.ratio_error,
            bins=found.bins,
        )

    def _calibrated(
        self, fitted: Collected, fitted_ms: tuple[int, int], held: Collected, held_ms: tuple[int, int], version: int
    ) -> tuple[Calibrated, ScoredRows | None]:
        for one in (fitted, held):
            if one.record.bias.method == "none":
                return Calibrated("inconclusive", f"position bias is not known: {one.record.bias.why}"), None
        then = scored_rows(self.archive, fitted, version, *fitted_ms)
        now = scored_rows(self.archive, held, version, *held_ms)
        return calibrate(_clicks(then, fitted.record), _clicks(now, held.record), self.rule), now

    def _before(self, collected: Collected, version: int) -> Collected | None:
        """The newest window before, not long ago, that the version's lists are in and whose position bias is known."""
        for folder in windows_before(collected)[:LOOKED_AT]:
            found = Collected.open(folder)
            if found.record.bias.method != "none" and version in {view.version for view in found.record.views}:
                return found
        return None


def _clicks(rows: ScoredRows, record: Collection) -> ScoredClicks:
    positions = int(rows.positions.max(initial=1))
    without_each = record.bias.examined_without_each(positions)
    examined = record.bias.examined(positions)
    return ScoredClicks(
        scores=rows.scores,
        clicks=rows.clicks,
        positions=rows.positions,
        units=rows.units,
        examination=examined,
        without_each=examined[None][:0] if without_each is None else without_each,
    )
