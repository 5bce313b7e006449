"""Where the console's figures come from, beside the tables."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from deploy.control.meter import TrafficMeter
from registry.contracts.drift import ShiftKind
from registry.glimpse_board import GlimpseBoard, MemoryGlimpseBoard

if TYPE_CHECKING:
    from drift.days.reports import DayReports


def _floors() -> Mapping[ShiftKind, float]:
    return {"mean": 0.1, "missing_share": 0.05, "zero_share": 0.05}


@dataclass(frozen=True, slots=True)
class Sources:
    """meter: of the last hour's traffic. glimpses: the newest answers. days: closed days on this machine, None where
    there are none; floors: the smallest shifts that they were alarmed on."""

    meter: TrafficMeter = field(default_factory=TrafficMeter)
    glimpses: GlimpseBoard = field(default_factory=MemoryGlimpseBoard)
    days: "DayReports | None" = None
    floors: Mapping[ShiftKind, float] = field(default_factory=_floors)
