"""What a closed day comes to: four values, of the alarms that are open and of how much is known."""

from collections.abc import Sequence

from registry.contracts.drift import ShiftAlarm
from registry.contracts.rollouts import Verdict

REASONS = 5


def verdict_of(
    alarms: Sequence[ShiftAlarm], lists: int, min_lists: int, days: int, min_days: int
) -> tuple[Verdict, str]:
    """The verdict and why.

    alarms: all that are open. lists: of the day; with fewer than `min_lists` it was not looked at. days:
    closed days known, this one too; before `min_days` neither the week nor the spread between days is known.
    An open alarm fails even on a day with too few lists: nothing shows that it is over.

    >>> verdict_of((), lists=900, min_lists=200, days=3, min_days=7)
    ('inconclusive', '3 days are known: expected at least 7')
    """
    if opened := [alarm for alarm in alarms if not alarm.answered]:
        told = "; ".join(in_words(alarm) for alarm in opened[:REASONS])
        return "failed", f"{told}; and {len(opened) - REASONS} more" if len(opened) > REASONS else told
    if lists < min_lists:
        return "inconclusive", f"{lists} lists: expected at least {min_lists}"
    if days < min_days:
        return "inconclusive", f"{days} days are known: expected at least {min_days}"
    return "passed", ""


def in_words(alarm: ShiftAlarm) -> str:
    """One alarm in one line."""
    size = f"{alarm.effect:+.2f} sd" if alarm.kind == "mean" else f"{100 * alarm.effect:+.1f} points"
    return f"{alarm.quantity}: {alarm.kind.replace('_', ' ')} {size} from its {alarm.against}"
