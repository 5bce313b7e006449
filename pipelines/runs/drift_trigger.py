"""Whether drift asks for a retraining: pure, on the drift monitor's verdicts and the runs there are.

What drifts are features, by day blocks (`ShiftRecord`); a shift of confidence is no statement on quality and asks for
nothing. A shift that the training data of the newest version look like already is answered, and asks no more.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from registry.contracts.drift import ShiftRecord
from registry.contracts.runs import Run

TOLD = 3


@dataclass(frozen=True, slots=True)
class DriftRule:
    """cool_down_ms: between the asking for one retraining, whatever for, and that for the next on drift. window_ms: of
    the retraining."""

    cool_down_ms: int
    window_ms: int


def drift_reason(runs: Sequence[Run], verdicts: Sequence[ShiftRecord], rule: DriftRule, now_ms: int) -> str | None:
    """Why to retrain now, in words; None if there is no reason, or it has to wait.

    runs: the model's retrainings. verdicts: the newest of its champion. Nothing while one is open or cools down, nor
    for an alarm that was open already when the last one was asked for and has not been closed since: that one
    was the answer to it, and a second would be the same.
    """
    counted = [run for run in runs if run.state != "void"]
    if any(run.open for run in counted):
        return None
    last_ms = max((run.created_ms for run in counted), default=None)
    if last_ms is not None and now_ms - last_ms < rule.cool_down_ms:
        return None
    alarms = [
        alarm
        for record in verdicts
        if record.family == "features" and record.verdict == "failed"
        for alarm in record.open_alarms
        if last_ms is None or alarm.open_since_ms > last_ms
    ]
    if not alarms:
        return None
    told = ", ".join(f"{alarm.quantity} {alarm.effect:+.2f}" for alarm in alarms[:TOLD])
    more = f" and {len(alarms) - TOLD} more" if len(alarms) > TOLD else ""
    return f"drift: {told}{more}"
