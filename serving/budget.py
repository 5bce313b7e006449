"""How much of a device each model may take, so that business lines on one device do not evict each other."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from serving.by_model import parse_by_model
from serving.footprint import Footprint, together

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)")


def parse_bytes(text: str) -> int:
    """A size as people write it. Raises ValueError.

    >>> parse_bytes("2GB"), parse_bytes("1.5 MiB"), parse_bytes("4096")
    (2000000000, 1572864, 4096)
    """
    found = _SIZE.fullmatch(text.strip())
    if found is None or found[2].upper() not in _UNITS:
        raise ValueError(f"{text!r}: expected a size as 500MB, 2GB or 1.5GiB")
    return int(float(found[1]) * _UNITS[found[2].upper()])


def parse_budgets(text: str) -> dict[str, int]:
    """Bytes by model. Raises ValueError.

    >>> parse_budgets("search=2GB, ads=500MB")
    {'search': 2000000000, 'ads': 500000000}
    """
    return {model: parse_bytes(size) for model, size in parse_by_model(text).items()}


@dataclass(frozen=True, slots=True)
class MemoryBudget:
    """by_model: bytes that a model's versions may take together. total_bytes: of the device; None
    if that is not known.

    A model's budget is kept free for it. A model without one shares with its like what the budgets
    leave of the total, first come, first served; without a total it is not limited.
    """

    by_model: Mapping[str, int] = field(default_factory=dict)
    total_bytes: int | None = None

    def __post_init__(self) -> None:
        promised = sum(self.by_model.values())
        if self.total_bytes is not None and promised > self.total_bytes:
            raise ValueError(
                f"model_budgets: {_text(promised)} promised, expected at most the device's {_text(self.total_bytes)}"
            )

    def refusal(self, model: str, held: Mapping[str, Sequence[Footprint]], more: Footprint) -> str:
        """Why a version may not be held beside the others; empty if it may.

        held: footprints of what the device holds, by model. more: of the version.
        """
        beside = list(held.get(model, ()))
        needed = together([*beside, more])
        own = self.by_model.get(model)
        if own is not None:
            if needed <= own:
                return ""
            return (
                f"{_text(needed)} needed ({_text(needed - together(beside))} more than its other versions take), "
                f"the budget is {_text(own)}: raise it in SLUICE_MODEL_BUDGETS"
            )
        if self.total_bytes is None:
            return ""
        others = sum(together(prints) for name, prints in held.items() if name not in self.by_model and name != model)
        left = self.total_bytes - sum(self.by_model.values()) - others
        if needed <= left:
            return ""
        return (
            f"{_text(needed)} needed, {_text(max(0, left))} left of the device's {_text(self.total_bytes)}: "
            "unload a model, or give it a budget in SLUICE_MODEL_BUDGETS"
        )


UNLIMITED = MemoryBudget()


def _text(size: int) -> str:
    if size < 10**6:
        return f"{size / 1e3:.1f} kB"
    return f"{size / 1e6:.0f} MB" if size < 10**10 else f"{size / 1e9:.1f} GB"
