"""The law of batching, on every model of the suite: company changes nothing.

Scores spread over about one standard deviation. Kernels for many rows add in another order than
those for few, so a batched score equals the score alone within TOLERANCE of it: 3e-6 in float32, and
2**-6 in bfloat16, whose results keep 8 bits (4e-7 and 4e-3 were the worst seen over 60 batches).
What other queries hold, however, changes no bit.
"""

from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from serving.program import TorchProgram
from tests.models import COLUMNS, KINDS, a_ranker

TOLERANCE = {"fp32": 3e-6, "bf16": 2.0**-6}
EVERY_MODEL = pytest.mark.parametrize(("kind", "precision"), [(kind, p) for kind in KINDS for p in TOLERANCE])
Lists = list[NDArray[np.float32]]


@cache
def program_of(kind: str, precision: str) -> TorchProgram:
    return TorchProgram(a_ranker(kind), "cpu", precision)


@st.composite
def ragged(draw: st.DrawFn) -> Lists:
    """1 to 8 lists of 1 to 60 rows."""
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    sizes = draw(st.lists(st.integers(1, 60), min_size=1, max_size=8))
    return [random.standard_normal((size, COLUMNS), dtype=np.float32) for size in sizes]


def scored(program: TorchProgram, lists: Lists) -> Lists:
    """Each list's scores, all lists in one batch."""
    counts = [len(rows) for rows in lists]
    scores = program.score(np.concatenate(lists), np.repeat(np.arange(len(lists)), counts))
    return np.split(scores, np.cumsum(counts)[:-1])


@EVERY_MODEL
@settings(max_examples=30)
@given(lists=ragged())
def test_a_batched_score_equals_the_score_alone(kind: str, precision: str, lists: Lists) -> None:
    program = program_of(kind, precision)

    for rows, together in zip(lists, scored(program, lists), strict=True):
        [alone] = scored(program, [rows])
        np.testing.assert_allclose(together, alone, rtol=TOLERANCE[precision], atol=TOLERANCE[precision])


@EVERY_MODEL
@settings(max_examples=30)
@given(lists=ragged(), data=st.data())
def test_what_another_query_holds_changes_no_bit(kind: str, precision: str, lists: Lists, data: st.DataObject) -> None:
    program = program_of(kind, precision)
    moved = data.draw(st.integers(0, len(lists) - 1))
    factor = data.draw(st.sampled_from([-1.0, 0.0, 1e3, 1e30, np.nan, np.inf]))
    others = [rows * np.float32(factor) if i == moved else rows for i, rows in enumerate(lists)]

    before, after = scored(program, lists), scored(program, others)

    for i in range(len(lists)):
        if i != moved:
            assert before[i].tobytes() == after[i].tobytes()


@EVERY_MODEL
def test_a_query_is_moved_by_its_own_rows(kind: str, precision: str) -> None:
    program = program_of(kind, precision)
    rows = np.random.default_rng(5).standard_normal((20, COLUMNS), dtype=np.float32)

    assert np.abs(scored(program, [rows])[0] - scored(program, [-rows])[0]).max() > 0.1


@pytest.mark.parametrize("precision", TOLERANCE)
def test_a_listwise_score_depends_on_its_list(precision: str) -> None:
    program = program_of("list_attention", precision)
    rows = np.random.default_rng(5).standard_normal((20, COLUMNS), dtype=np.float32)

    [whole] = scored(program, [rows])
    halves = np.concatenate(scored(program, [rows[:10], rows[10:]]))

    assert np.abs(whole - halves).max() > 0.05
