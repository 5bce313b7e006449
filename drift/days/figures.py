"""What is shown of a closed day beside what it is decided on: bins, spreads, categories, how old rows were."""

from collections.abc import Collection
from dataclasses import dataclass

import msgspec

from drift.windows.reference import Reference
from drift.windows.shapes import CategoryShift, Shape, categories_of, row_ages_of, shapes_of
from drift.windows.window import Window
from registry.contracts.drift import MOST_FIGURES, QuantityFigures, RowAges, ShiftRecord

DIGITS = 6


@dataclass(frozen=True, slots=True)
class DayFigures:
    """Of one family's quantities; categories and row_ages with the features alone."""

    shapes: tuple[Shape, ...]
    categories: tuple[CategoryShift, ...] = ()
    row_ages: RowAges | None = None

    @staticmethod
    def of(day: Window, reference: Reference, names: Collection[str]) -> "DayFigures":
        """names: of the quantities that are watched together."""
        shapes = tuple(shape for shape in shapes_of(day, reference) if shape.quantity in names)
        categories = tuple(one for one in categories_of(day, reference) if one.quantity in names)
        of_features = any(name in names for name in reference.columns)
        return DayFigures(shapes, categories, row_ages_of(day) if of_features else None)

    def in_record(self, record: ShiftRecord) -> ShiftRecord:
        """The record with those that differ most."""
        by_name = {one.quantity: one for one in self.categories}
        figures = [_figures(shape, by_name.get(shape.quantity)) for shape in self.shapes]
        figures.sort(key=lambda one: (-max(one.wasserstein, abs(one.spread), one.jensen_shannon or 0.0), one.quantity))
        return msgspec.structs.replace(record, figures=tuple(figures[:MOST_FIGURES]), row_ages=self.row_ages)


def _figures(shape: Shape, categories: CategoryShift | None) -> QuantityFigures:
    """Rounded: in which order parts of a day were added up is no part of what it was like."""
    figures = QuantityFigures(
        quantity=shape.quantity,
        psi=round(shape.psi - shape.psi_by_chance, DIGITS),
        ks=round(shape.ks, DIGITS),
        wasserstein=round(shape.wasserstein, DIGITS),
        spread=round(shape.spread, DIGITS),
    )
    if categories is None:
        return figures
    return msgspec.structs.replace(
        figures,
        jensen_shannon=round(categories.jensen_shannon, DIGITS),
        new_share=round(categories.new_share, DIGITS),
        newcomers=categories.newcomers,
    )
