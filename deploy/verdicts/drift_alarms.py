"""Open drift alarms, in words, for the online gate: what it asks before it lets anything pass."""

from collections.abc import Callable, Sequence

from registry.contracts.drift import ShiftRecord
from registry.drift_board import DriftBoard, latest_drift

STILL_OPEN_MS = 2 * 86_400_000
"""A day that was closed so long before a step began says nothing of it any more: nobody watches."""


def open_alarms(board: DriftBoard) -> Callable[[str, int, int, int], Sequence[str]]:
    """As `pipelines.gates.judge.Alarms`: of a model's version, on the time since the step began. Raises
    StoreUnavailable."""

    def alarms(model: str, version: int, since_ms: int, until_ms: int) -> Sequence[str]:
        return [
            _words(record)
            for record in latest_drift(board, model, version)
            if record.verdict == "failed" and since_ms - STILL_OPEN_MS < record.until_ms <= until_ms
        ]

    return alarms


def _words(record: ShiftRecord) -> str:
    quantities = ", ".join(alarm.quantity for alarm in record.open_alarms[:3])
    return f"drift of {record.family} of @{record.version} ({quantities or record.why})"
