"""What `sluice drift show` tells of a closed day beside its verdict: distances, categories, how old rows were."""

import math
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from deploy.commands.table import print_whole

if TYPE_CHECKING:
    from registry.contracts.drift import QuantityFigures, RowAges, ShiftRecord

MOST = 8


def print_figures(console: Console, record: "ShiftRecord") -> None:
    """The quantities that differ most from the profile, and the ages of rows; nothing if neither is known."""
    if record.figures:
        console.print("  shown, never alarmed on: how far values lie from those the version was made on", style="dim")
        print_whole(console, figures_table(record.figures[:MOST]))
    if record.row_ages is not None and (line := ages_line(record.row_ages)):
        console.print(f"  {line}", highlight=False)


def figures_table(figures: "tuple[QuantityFigures, ...]") -> Table:
    """A row a quantity."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("quantity")
    for title in ("psi beyond chance", "ks", "wasserstein", "spread", "categories", "new"):
        table.add_column(title, justify="right")
    for one in figures:
        table.add_row(
            escape(one.quantity),
            f"{one.psi:+.3f}",
            f"{one.ks:.3f}",
            f"{one.wasserstein:.2f} sd",
            f"x {math.exp(one.spread):.2f}",
            "" if one.jensen_shannon is None else f"{one.jensen_shannon:.3f}",
            "" if not one.new_share else escape(f"{100 * one.new_share:.1f} % ({', '.join(one.newcomers[:3])})"),
        )
    return table


def ages_line(ages: "RowAges") -> str:
    """In words; empty if nothing was stored and nothing lacking."""
    parts = []
    if ages.p50_s is not None and ages.p95_s is not None and ages.p99_s is not None:
        parts.append(
            f"rows were {_span(ages.p50_s)} old (half), {_span(ages.p95_s)} (95 %), {_span(ages.p99_s)} (99 %)"
        )
    parts += [f"{100 * share:.1f} % of answers had {escape(reason)}" for reason, share in ages.lacking.items()]
    return "; ".join(parts)


def _span(seconds: float) -> str:
    """
    >>> _span(59.4), _span(5400), _span(3e5)
    ('59 s', '90 min', '3.5 days')
    """
    for limit, length, unit in ((120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds / 86_400:.1f} days"
