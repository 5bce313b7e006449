"""How long a batch takes, learned from those that ran: what a deadline is held against."""

from collections.abc import Collection
from dataclasses import dataclass

MEMORY = 32  # batches: an older one weighs less than e**-1
LEAST_BATCHES = 8
FRESH_S = 2.0
OUTLIER = 4.0
MOST_WRONG = 0.5

Line = tuple[float, float]
"""Seconds of a batch apart from its rows, and seconds of a row."""

UNKNOWN: Line = (0.0, 0.0)


@dataclass(slots=True)
class BatchTime:
    """Seconds of a batch as a line over its rows, fitted by least squares that forget.

    Knows nothing (`expected_s` is 0, so nothing is refused) before `LEAST_BATCHES` batches; again
    when the last one is older than `FRESH_S`, since a worker that refused everything would never
    learn that it has become faster; and while it is wrong by more than half on average, as for a
    model whose time rows do not tell. A batch counts for at most `OUTLIER` times what was expected
    of it, so that one pause of the process does not condemn the queries after.
    """

    batches: int = 0
    fixed_s: float = 0.0
    per_row_s: float = 0.0
    last_s: float = 0.0
    wrong_by: float = 0.0  # share of the larger of expected and measured, a moving average
    _weight: float = 0.0
    _rows: float = 0.0
    _seconds: float = 0.0
    _rows_rows: float = 0.0
    _rows_seconds: float = 0.0

    def observe(self, rows: int, took_s: float, now_s: float) -> None:
        """A batch of so many rows took so long and ended now."""
        if self.batches >= LEAST_BATCHES:
            foreseen_s = self.fixed_s + self.per_row_s * rows
            took_s = min(took_s, OUTLIER * foreseen_s)
            if (larger_s := max(took_s, foreseen_s)) > 0:
                self.wrong_by += (abs(took_s - foreseen_s) / larger_s - self.wrong_by) * 4 / MEMORY
        keep = 1.0 - 1.0 / MEMORY
        self._weight = self._weight * keep + 1.0
        self._rows = self._rows * keep + rows
        self._seconds = self._seconds * keep + took_s
        self._rows_rows = self._rows_rows * keep + rows * rows
        self._rows_seconds = self._rows_seconds * keep + rows * took_s
        self.batches, self.last_s = self.batches + 1, now_s
        self._fit()

    def expected_s(self, rows: int, now_s: float) -> float:
        """Seconds that a batch of so many rows would take, 0 if that is not known."""
        fixed_s, per_row_s = self.line(now_s)
        return fixed_s + per_row_s * rows

    def line(self, now_s: float) -> Line:
        """What `expected_s` reads from; UNKNOWN if it knows nothing."""
        if self.batches < LEAST_BATCHES or now_s - self.last_s > FRESH_S or self.wrong_by > MOST_WRONG:
            return UNKNOWN
        return self.fixed_s, self.per_row_s

    def _fit(self) -> None:
        """A line that rises and starts above zero. Batches of one size say nothing of a fixed part:
        they count as proportional to their rows."""
        spread = self._weight * self._rows_rows - self._rows * self._rows
        mean_s, mean_rows = self._seconds / self._weight, self._rows / self._weight
        if spread <= 1e-9 * self._weight * self._rows_rows:
            self.fixed_s, self.per_row_s = 0.0, mean_s / max(mean_rows, 1.0)
            return
        slope = (self._weight * self._rows_seconds - self._rows * self._seconds) / spread
        self.per_row_s = min(max(slope, 0.0), mean_s / mean_rows)
        self.fixed_s = max(0.0, mean_s - self.per_row_s * mean_rows)


class BatchTimes:
    """One `BatchTime` for every slot, a loaded version of a worker."""

    def __init__(self) -> None:
        self._of: dict[int, BatchTime] = {}

    def of(self, slot: int) -> BatchTime:
        """What is known of this slot's batches."""
        found = self._of.get(slot)
        if found is None:
            found = self._of[slot] = BatchTime()
        return found

    def keep(self, slots: Collection[int]) -> None:
        """Forgets all others: a slot never comes again."""
        self._of = {slot: known for slot, known in self._of.items() if slot in slots}
