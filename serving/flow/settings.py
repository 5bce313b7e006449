"""What flow control can be told. Every value is checked when the process starts."""

import dataclasses
from dataclasses import dataclass, field
from typing import TypeVar

from serving.flow.admission import AdmissionRule
from serving.flow.hedging import HedgeRule
from serving.flow.ladder import LadderRules
from serving.flow.retries import RetryRule

Rule = TypeVar("Rule", RetryRule, HedgeRule, LadderRules, AdmissionRule)

_SWITCHES = ("stale_features", "defaults", "champion_only", "cached_order", "given_order", "hedge", "adaptive")
_ON, _OFF = ("1", "on"), ("0", "off")


@dataclass(frozen=True, slots=True)
class FlowSettings:
    """The rules of `serving.flow`."""

    retry: RetryRule = field(default_factory=RetryRule)
    hedge: HedgeRule = field(default_factory=HedgeRule)
    ladder: LadderRules = field(default_factory=LadderRules)
    admission: AdmissionRule = field(default_factory=AdmissionRule)


def parse_flow(text: str) -> FlowSettings:
    """The rules that differ from the defaults. Raises ValueError, naming what is wrong.

    >>> parse_flow("given_order=1,retry_share=0.2").ladder.given_order
    True
    """
    told: dict[str, float] = {}
    for part in filter(None, (one.strip() for one in text.split(","))):
        key, _, value = part.partition("=")
        if key in _SWITCHES:
            if value not in _ON + _OFF:
                raise ValueError(f"{part}: expected {key}=1 or {key}=0")
            told[key] = float(value in _ON)
        elif key in _LIMITS:
            low, high = _LIMITS[key]
            try:
                told[key] = float(value)
            except ValueError:
                told[key] = float("nan")
            if not low <= told[key] <= high:
                raise ValueError(f"{part}: expected {low:g} <= {key} <= {high:g}")
        else:
            raise ValueError(f"{part}: expected one of {', '.join((*_SWITCHES, *_LIMITS))}, each with =VALUE")
    ladder = {key: bool(told[key]) for key in _SWITCHES[:5] if key in told}
    return FlowSettings(
        retry=_changed(RetryRule(), share=told.get("retry_share"), floor_per_s=told.get("retry_floor")),
        hedge=_changed(HedgeRule(), share=told.get("hedge_share"), on=told.get("hedge")),
        ladder=_changed(LadderRules(**ladder), cached_s=told.get("cached_s"), cached_bytes=told.get("cached_bytes")),
        admission=_changed(AdmissionRule(), on=told.get("adaptive"), aim=told.get("deadline_share")),
    )


_LIMITS = {
    "retry_share": (0.0, 1.0),
    "retry_floor": (0.0, 1e6),
    "hedge_share": (0.0, 1.0),
    "cached_s": (0.0, 86_400.0),
    "cached_bytes": (0.0, float(1 << 40)),
    "deadline_share": (0.05, 0.95),
}


def _changed(rule: Rule, **told: float | None) -> Rule:
    """With what was told, in each field's own type."""
    changes = {key: type(getattr(rule, key))(value) for key, value in told.items() if value is not None}
    return dataclasses.replace(rule, **changes)
