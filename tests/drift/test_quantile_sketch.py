"""The sketch keeps its stated rank error however rows come and parts are merged, and reads no bytes but its own."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from drift.errors import UnreadableSketch
from drift.sketches.quantiles import QuantileSketch, rank_error

Rows = NDArray[np.float32]
K = 64
SHAPES: dict[str, Callable[[np.random.Generator, int], NDArray[np.float64]]] = {
    "normal": lambda rng, n: rng.normal(size=n),
    "heavy": lambda rng, n: np.exp(3 * rng.normal(size=n)),
    "ascending": lambda rng, n: np.arange(n, dtype=np.float64),
    "mostly zero": lambda rng, n: np.where(rng.random(n) < 0.7, 0.0, rng.exponential(size=n)),
}


def rows_of(seed: int, count: int) -> Rows:
    rng = np.random.default_rng(seed)
    return np.stack([shape(rng, count) for shape in SHAPES.values()], axis=1).astype(np.float32)


def sketched(rows: Rows, batch: int = 500, k: int = K) -> QuantileSketch:
    sketch = QuantileSketch(rows.shape[1], k)
    for start in range(0, len(rows), batch):
        sketch.update(rows[start : start + batch])
    return sketch


def errors(sketch: QuantileSketch, rows: Rows) -> NDArray[np.float64]:
    """How far off the rank of each quantile is that is asked, as a share; (quantities, asked)."""
    found = np.empty((rows.shape[1], 49))
    for quantity, column in enumerate(rows.T.astype(np.float64)):
        asked = np.quantile(column, np.linspace(0.02, 0.98, 49))
        values, weights = sketch.sample(quantity)
        reached = np.concatenate([[0.0], np.cumsum(weights)]) / weights.sum()
        here = reached[np.searchsorted(values, asked, side="right")]
        found[quantity] = np.abs(here - np.searchsorted(np.sort(column), asked, side="right") / len(column))
    return found


def test_ranks_keep_the_stated_error_in_99_of_100_cases() -> None:
    found = np.concatenate([errors(sketched(rows_of(seed, 20_000)), rows_of(seed, 20_000)) for seed in range(10)])

    assert np.quantile(found, 0.99) < rank_error(K)


@pytest.mark.parametrize("parts", [2, 40])
def test_merged_sketches_keep_the_stated_error_whatever_the_tree(parts: int) -> None:
    rows = rows_of(3, 40_000)
    pieces = [sketched(piece) for piece in np.array_split(rows, parts)]
    in_turn = pieces[0]
    for piece in pieces[1:]:
        in_turn = in_turn.merge(piece)
    while len(pieces) > 1:
        pairs = [one.merge(other) for one, other in zip(pieces[::2], pieces[1::2], strict=False)]
        pieces = pairs + pieces[len(pairs) * 2 :]

    for merged in (in_turn, pieces[0]):
        assert merged.rows == len(rows)
        assert np.quantile(errors(merged, rows), 0.99) < rank_error(K)


def test_memory_does_not_grow_with_traffic() -> None:
    sketch, rows = QuantileSketch(4, K), rows_of(0, 2_000)
    for _ in range(200):
        sketch.update(rows)

    assert sketch.rows == 400_000
    assert sketch.kept < 4 * K


@given(st.lists(st.lists(st.integers(-5, 5), max_size=30), max_size=8), st.integers(1, 4))
def test_few_values_are_all_kept(batches: list[list[int]], halves: int) -> None:
    """Up to k of them nothing is thrown away: quantiles are those of the values."""
    sketches = [QuantileSketch(1, 256), QuantileSketch(1, 256)]
    for place, batch in enumerate(batches):
        sketches[place % halves % 2].update(np.array(batch, dtype=np.float32)[:, None])
    merged, values = sketches[0].merge(sketches[1]), sorted(value for batch in batches for value in batch)

    kept, weights = merged.sample(0)

    assert kept.tolist() == values
    assert (weights == 1).all()


def test_merging_commutes_in_what_is_kept() -> None:
    one, other = sketched(rows_of(1, 3_000)), sketched(rows_of(2, 5_000))

    for quantity in range(len(SHAPES)):
        there, back = one.merge(other).sample(quantity), other.merge(one).sample(quantity)
        assert there[0].tolist() == back[0].tolist()
        assert there[1].tolist() == back[1].tolist()


def test_the_same_rows_are_the_same_sketch() -> None:
    assert sketched(rows_of(5, 9_000)).encode() == sketched(rows_of(5, 9_000)).encode()


def test_missing_values_leave_the_ranks_of_the_others_alone() -> None:
    rng = np.random.default_rng(4)
    rows = rng.normal(size=(30_000, 1)).astype(np.float32)
    holed = np.where(rng.random(rows.shape) < 0.4, np.float32(np.nan), rows)
    median = sketched(holed, k=200).quantiles([0.5])[0, 0]

    known = np.sort(holed[np.isfinite(holed)])
    assert abs(np.searchsorted(known, median) / len(known) - 0.5) < rank_error(200) / 0.6


def test_a_quantity_that_is_all_missing_has_no_quantiles() -> None:
    sketch = sketched(np.array([[np.nan, 1.0], [np.inf, 2.0]], dtype=np.float32))

    assert np.isnan(sketch.quantiles([0.1, 0.9])[0]).all()
    assert sketch.quantiles([0.1, 0.9])[1].tolist() == [1.0, 2.0]
    assert np.isnan(QuantileSketch(3).quantiles([0.5])).all()


def test_drawn_rows_stand_for_those_that_were_not() -> None:
    """One of eight, drawn at random, at level 3: half of the rows stand for the other distribution."""
    rng = np.random.default_rng(8)
    first, drawn = rng.uniform(0, 1, size=(8_000, 1)), rng.uniform(1, 2, size=(1_000, 1))
    sketch = QuantileSketch(1, 200)
    sketch.update(first.astype(np.float32))
    sketch.update(drawn.astype(np.float32), level=3)

    assert sketch.rows == 16_000
    assert sketch.quantiles([0.25, 0.5, 0.75])[0] == pytest.approx([0.5, 1.0, 1.5], abs=3 * rank_error(200))


@given(st.integers(0, 2_000), st.integers(8, 300))
def test_decoding_is_the_inverse_of_encoding(count: int, k: int) -> None:
    sketch = sketched(rows_of(count, count), k=k) if count else QuantileSketch(4, k)
    again = QuantileSketch.decode(sketch.encode())

    assert again.encode() == sketch.encode()
    again.update(rows_of(1, 300))
    sketch.update(rows_of(1, 300))
    assert again.encode() == sketch.encode()


SOUND = sketched(rows_of(1, 2_000)).encode()


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_or_read_never_worse(raw: bytes) -> None:
    with pytest.raises(UnreadableSketch):
        QuantileSketch.decode(raw)


@settings(max_examples=300)
@given(st.integers(0, 60), st.binary(min_size=1, max_size=8))
def test_damaged_bytes_are_refused_or_read_never_worse(at: int, put: bytes) -> None:
    raw = SOUND[:at] + put + SOUND[at + len(put) :]
    try:
        sketch = QuantileSketch.decode(raw)
    except UnreadableSketch:
        return
    assert sketch.quantiles([0.5]).shape == (sketch.quantities, 1)
    assert QuantileSketch.decode(sketch.encode()).rows == sketch.rows


@pytest.mark.parametrize("cut", [1, 12, 40, 400])
def test_cut_bytes_are_refused(cut: int) -> None:
    with pytest.raises(UnreadableSketch):
        QuantileSketch.decode(SOUND[:-cut])


def test_sketches_of_other_sizes_do_not_merge() -> None:
    with pytest.raises(ValueError, match="does not merge"):
        QuantileSketch(2).merge(QuantileSketch(3))
    with pytest.raises(ValueError, match="does not merge"):
        QuantileSketch(2, 100).merge(QuantileSketch(2, 200))
    with pytest.raises(ValueError, match=r"expected \(rows, 2\)"):
        QuantileSketch(2).update(np.zeros((5, 3), dtype=np.float32))
