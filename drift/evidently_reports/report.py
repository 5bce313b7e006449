"""A day's report: Evidently's page and figures over some lists of the day and of its reference, our own beside them.

Making one imports Evidently and pandas: seconds and hundreds of MB, for a process of its own.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version as installed
from typing import Any

import msgspec
import numpy as np

from drift.days.confidence import ENTROPY, MARGIN
from drift.errors import ReportRefused
from drift.evidently_reports.about import MadeReport, ReportAbout, ReportFigures
from drift.evidently_reports.figures import ComparedQuantity, figures_of
from drift.evidently_reports.head import head_of, title_of
from drift.evidently_reports.laid_out import laid_out
from drift.evidently_reports.page import locked
from drift.evidently_reports.sample import Lists
from drift.moments import FloatArray
from registry.contracts.profile import Distribution, ReferenceProfile

DRAWN = "wasserstein"
BESIDE = ("psi", "ks")
"""Methods of Evidently's: the one whose figures are drawn, and those whose numbers stand beside it."""


@dataclass(frozen=True, slots=True)
class Column:
    """A quantity's values, nan where one is missing. of_lists: one a list, else one a row. reference: what our figures
    compare with; then: the same as values."""

    now: FloatArray
    then: FloatArray
    reference: FloatArray | Distribution
    of_lists: bool = False


def make_report(
    about: ReportAbout, features: Sequence[str], day: Lists, reference: Lists | ReferenceProfile, most_drawn: int
) -> MadeReport:
    """The report. about: what is known of it before it is made. features: names, in the order of the values'
    columns. most_drawn: quantities that Evidently draws: those of alarms first, then those that moved most.

    The same lists give the same figures; ids inside of Evidently's page differ each time. Raises ReportRefused.
    """
    try:
        import evidently.metrics  # noqa: F401 - seconds
    except ImportError as error:
        raise ReportRefused(f"Evidently is not installed ({error}): pip install '.[reports]' in the clone") from error
    columns = _columns(features, day, reference)
    figures = tuple(figures_of(name, column.reference, column.now) for name, column in columns.items())
    chosen = _chosen(about, figures, most_drawn)
    shown, beside = (_run(metrics, columns, chosen) for metrics in (_shown(columns, chosen), _beside(chosen)))
    metrics = [metric for snapshot in (shown, beside) for metric in json.loads(snapshot.json())["metrics"]]
    about = msgspec.structs.replace(about, drawn=tuple(chosen), evidently=installed("evidently"))
    page = locked(shown.get_html_str(as_iframe=False), title_of(about), head_of(about, figures))
    about = msgspec.structs.replace(about, scripts=page.scripts)
    return MadeReport(about, page.html, ReportFigures(about, figures, tuple(metrics)))


def _columns(features: Sequence[str], day: Lists, reference: Lists | ReferenceProfile) -> dict[str, Column]:
    now, of_lists = _finite(day.values), {MARGIN: day.margin, ENTROPY: day.entropy}
    if isinstance(reference, Lists):
        then, then_lists = _finite(reference.values), {MARGIN: reference.margin, ENTROPY: reference.entropy}
        columns = {name: Column(now[:, place], then[:, place], then[:, place]) for place, name in enumerate(features)}
        return columns | {
            name: Column(of_lists[name], values, values, of_lists=True) for name, values in then_lists.items()
        }
    columns = {
        name: Column(now[:, place], laid_out(profiled, len(now), seed=place), profiled)
        for place, (name, profiled) in enumerate(zip(features, reference.features, strict=True))
    }
    return columns | {
        name: Column(of_lists[name], laid_out(profiled, len(day)), profiled, of_lists=True)
        for name, profiled in ((MARGIN, reference.margin), (ENTROPY, reference.entropy))
    }


def _finite(values: np.ndarray[Any, np.dtype[np.float32]]) -> FloatArray:
    exact = values.astype(np.float64)
    return np.where(np.isfinite(exact), exact, np.nan)


def _chosen(about: ReportAbout, figures: Sequence[ComparedQuantity], most: int) -> list[str]:
    """Quantities to draw; none that has no values on one of the sides, as there is nothing to compare."""
    known = {one.quantity: one.wasserstein for one in figures if one.wasserstein is not None}
    alarmed = [alarm.quantity for record in about.records for alarm in record.alarms if alarm.quantity in known]
    return list(dict.fromkeys([*alarmed, *sorted(known, key=lambda name: -known[name])]))[:most]


def _shown(columns: Mapping[str, Column], chosen: Sequence[str]) -> list[Any]:
    from evidently.metrics import MissingValueCount, ValueDrift

    metrics: list[Any] = []
    for name in chosen:
        metrics.append(ValueDrift(column=_column(name), method=DRAWN))
        column = columns[name]
        if not column.of_lists and (np.isnan(column.now).any() or np.isnan(column.then).any()):
            metrics.append(MissingValueCount(column=_column(name)))
    return metrics


def _beside(chosen: Sequence[str]) -> list[Any]:
    from evidently.metrics import ValueDrift

    return [ValueDrift(column=_column(name), method=method) for name in chosen for method in BESIDE]


def _run(metrics: list[Any], columns: Mapping[str, Column], chosen: Sequence[str]) -> Any:
    """Evidently's snapshot. A value of a list stands in one row of it, so that it counts once."""
    import pandas as pd
    from evidently import DataDefinition, Dataset, Report

    definition = DataDefinition(numerical_columns=[_column(name) for name in chosen])

    def dataset(side: Mapping[str, FloatArray]) -> Any:
        rows = max(map(len, side.values()), default=0)
        values = {_column(name): _spread(side[name], rows) for name in chosen}
        return Dataset.from_pandas(pd.DataFrame(values), data_definition=definition)

    now, then = ({name: getattr(column, side) for name, column in columns.items()} for side in ("now", "then"))
    return Report(metrics).run(dataset(now), dataset(then))


def _spread(values: FloatArray, rows: int) -> FloatArray:
    if len(values) == rows:
        return values
    spread = np.full(rows, np.nan)
    spread[np.arange(len(values)) * rows // len(values)] = values
    return spread


def _column(name: str) -> str:
    """The name as Evidently may write it into a script: nothing in it ends one or begins another."""
    return name.replace("<", "\u2039").replace("\u2028", " ").replace("\u2029", " ")
