"""A challenger's closed days as evidence of its rollout: drift that is its own, not the traffic's.

Failed evidence rolls back, so it takes more than an open alarm: the champion, on the same day, must not have it,
and it must be twice the floor. What both arms see is the world's doing; a challenger that alone sees its features
elsewhere than it was trained on, or lost one, ranks on something else than was measured offline. And the day must lie
within the rollout: of the hours before, another rollout or a tester may have made it what it was.
"""

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from registry.contracts.drift import ShiftAlarm, ShiftRecord
from registry.contracts.rollouts import Evidence, Rollout, Verdict
from registry.drift_board import DriftBoard

if TYPE_CHECKING:
    from registry.rollouts import RolloutControl

log = logging.getLogger(__name__)

KIND = "drift"
OWN_SHIFT_SD = 0.2
OWN_SHARE = 0.1


class DriftEvidence:
    """Told every record. control: asked for each time, so that a database that is away when the process starts is
    one that is away for a while."""

    def __init__(self, control: "Callable[[], RolloutControl]", board: DriftBoard) -> None:
        self._control, self._board = control, board

    def keep(self, record: ShiftRecord) -> None:
        """Keeps what it says of a challenger on its way, once however often it is told. Confidence is no evidence:
        a shift of it says nothing on quality. Nor is a segment: what all see is rolled back for. Raises
        RegistryError."""
        if record.arm != "challenger" or record.family != "features" or record.segment:
            return
        mine = [
            rollout
            for rollout in self._control().rollouts(record.model, open_only=True)
            if rollout.active and rollout.challenger == record.version
        ]
        if not mine:
            return
        champion = next(
            (
                one
                for one in self._board.latest(record.model)
                if (one.arm, one.family, one.segment) == ("champion", record.family, "")
                and one.until_ms == record.until_ms
            ),
            None,
        )
        for rollout in mine:
            self._control().add_evidence(as_evidence(record, champion, rollout))


def as_evidence(record: ShiftRecord, champion: ShiftRecord | None, rollout: Rollout) -> Evidence:
    """Made when the day ended: told again it is the same evidence. champion: its record of that day."""
    verdict, why = _decide(record, champion, rollout.started_ms)
    return Evidence(
        kind=KIND,
        model=rollout.model,
        champion=rollout.champion,
        champion_digest=rollout.champion_digest,
        challenger=rollout.challenger,
        challenger_digest=rollout.challenger_digest,
        verdict=verdict,
        made_ms=record.made_ms,
        since_ms=record.since_ms,
        until_ms=record.until_ms,
        experiment=rollout.experiment,
        why=why,
        body={"record": msgspec.to_builtins(record), "champion": msgspec.to_builtins(champion)},
    )


def _decide(record: ShiftRecord, champion: ShiftRecord | None, started_ms: int) -> tuple[Verdict, str]:
    if record.verdict != "failed":
        return record.verdict, record.why
    if record.since_ms < started_ms:
        return "inconclusive", f"{record.why}; the day began before the rollout: the next one decides"
    if champion is None or champion.verdict == "errored":
        return "inconclusive", f"{record.why}; nothing is known of the champion's day"
    shared = {(alarm.quantity, alarm.kind) for alarm in champion.alarms}
    if own := [one for one in record.open_alarms if (one.quantity, one.kind) not in shared and _is_large(one)]:
        told = ", ".join(f"{alarm.quantity} ({alarm.kind}, {alarm.effect:+.2f})" for alarm in own)
        return "failed", f"in the challenger's arm alone: {told}"
    return "inconclusive", f"{record.why}; the champion's arm sees it too, or it is small"


def _is_large(alarm: ShiftAlarm) -> bool:
    return abs(alarm.effect) >= (OWN_SHIFT_SD if alarm.kind == "mean" else OWN_SHARE)
