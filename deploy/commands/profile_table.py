"""A version's reference profile as a table, beside a closed day if there is one."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from drift.days.reports import DayReport, QuantityDay
    from drift.windows.shapes import Shape
    from registry.contracts.profile import Distribution, ReferenceProfile

_BARS = " ▁▂▃▄▅▆▇█"
_WIDTH = 12
_UNKNOWN = "-"
_WHY_UNKNOWN = "-: not known. The version's lists hold only what was shown, as lists of clicks do, not all candidates."


def profile_table(profile: "ReferenceProfile", days: "Sequence[DayReport]" = ()) -> Table:
    """A row a quantity: the important features first, then what is of lists. days: of features and of confidence.

    What was profiled of no value is not known; then the caption says why.
    """
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("quantity")
    for title in ("weight", "mean", "sd", "least", "most", "missing", "zero"):
        table.add_column(title, justify="right")
    table.add_column("shape", no_wrap=True)
    if days:
        for title in ("now: mean", "sd", "missing", "zero", "shift", "PSI", "KS", "Wasserstein"):
            table.add_column(title, justify="right")
    moved: dict[tuple[str, str], QuantityDay] = {
        (one.quantity, one.kind): one for day in days for one in day.quantities
    }
    shapes = {shape.quantity: shape for day in days for shape in day.shapes}
    for name, distribution, weight in _rows(profile):
        cells = [escape(name), "" if weight is None else f"{weight:.2f}", *_profiled(distribution)]
        table.add_row(*cells, *(_now(name, moved, shapes) if days else ()))
        if not distribution.count and profile.lists:
            table.caption, table.caption_justify = _WHY_UNKNOWN, "left"
    return table


def _profiled(distribution: "Distribution") -> tuple[str, ...]:
    """Of no value there may be a scale, which is what others are standardised by, and no finding."""
    if not distribution.count:
        return (*[_UNKNOWN] * 6, "")
    return (
        *(_number(distribution.mean), _number(distribution.std)),
        *(_number(distribution.minimum), _number(distribution.maximum)),
        *(_share(distribution.missing_share), _share(distribution.zero_share), bars(distribution)),
    )


def bars(distribution: "Distribution") -> str:
    """How the values lie, from the lowest decile to the highest and a step beyond: density, not counts, which are all
    alike.

    >>> from registry.contracts.profile import describe
    >>> import numpy as np
    >>> bars(describe("x", np.arange(1000.0)))
    '████████████'
    """
    edges = distribution.edges
    if len(edges) < 2:
        return ""
    step = (edges[-1] - edges[0]) / (_WIDTH - 2)
    bounds = [distribution.minimum, *edges, distribution.maximum]
    cells = []
    for cell in range(_WIDTH):
        low = edges[0] + (cell - 1) * step
        cells.append(_within(distribution.counts, bounds, low, low + step))
    most = max(cells)
    return "".join(_BARS[round((len(_BARS) - 1) * cell / most)] if most else " " for cell in cells)


def _within(counts: Sequence[int], bounds: Sequence[float], low: float, high: float) -> float:
    """How many of the values, lying evenly in their bins, are between the two."""
    found = 0.0
    for count, start, end in zip(counts, bounds[:-1], bounds[1:], strict=True):
        if end > start:
            found += count * max(0.0, min(end, high) - max(start, low)) / (end - start)
    return found


def _rows(profile: "ReferenceProfile") -> "list[tuple[str, Distribution, float | None]]":
    """Names are those of the monitor."""
    weights: Sequence[float | None] = profile.importance or (None,) * len(profile.features)
    features = list(zip((one.name for one in profile.features), profile.features, weights, strict=True))
    features.sort(key=lambda row: -(row[2] or 0.0))
    of_lists = {"margin": profile.margin, "entropy": profile.entropy, "scores": profile.scores}
    return [*features, *((f"ranking:{name}", distribution, None) for name, distribution in of_lists.items())]


def _now(name: str, moved: "Mapping[tuple[str, str], QuantityDay]", shapes: "Mapping[str, Shape]") -> tuple[str, ...]:
    mean, missing, zero = (moved.get((name, kind)) for kind in ("mean", "missing_share", "zero_share"))
    shape = shapes.get(name)
    return (
        *(_number(mean.mean if mean else None), _number(mean.std if mean else None)),
        *(_share(missing.mean if missing else None), _share(zero.mean if zero else None)),
        f"{mean.shift:+.2f} sd" if mean and mean.shift is not None else "",
        *(_number(getattr(shape, figure, None)) for figure in ("psi", "ks", "wasserstein")),
    )


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if math.isfinite(value) else _UNKNOWN


def _share(value: float | None) -> str:
    if value is None:
        return ""
    return f"{100 * value:.1f} %" if math.isfinite(value) else _UNKNOWN
