"""The ids of a query, with the C that reads them and without: the same bytes, hashes and refusals."""

import random
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from registry.contracts import ids as ids_module
from serving.errors import QueryRefused
from serving.gateway.schema import _read_ids

LIKELY = st.one_of(st.text(st.characters(), max_size=3), st.sampled_from(["a", "é", "x" * 256, "é" * 200, "y" * 257]))


class Names(list[str]):
    pass


def told(ids: list[str]) -> Any:
    try:
        blob, hashes = _read_ids("candidates", ids)
    except QueryRefused as refused:
        return str(refused)
    assert hashes.dtype == np.uint64
    return blob, hashes.tolist()


def told_without_c(ids: list[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    with monkeypatch.context() as without:
        without.setattr(ids_module, "_join_ids", None)
        return told(ids)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(ids=st.lists(st.one_of(st.text(st.characters(), max_size=120), LIKELY), min_size=1, max_size=20))
def test_ids_are_read_or_refused_the_same_with_c_and_without(ids: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert told(ids) == told_without_c(ids, monkeypatch)


@pytest.mark.parametrize(
    ("ids", "refused"),
    [
        (["a", "b"], ""),
        (["x" * 240, "é" * 120, "😀" * 60], ""),
        (["x" * 241, "é" * 121, "😀" * 256, "x" * 256], ""),
        (Names(["a", "b"]), ""),
        (["a", ""], "candidates[1]="),
        (["a", "x" * 257], "candidates[1]="),
        (["a", "b\n"], "candidates[1]="),
        (["a\x00b", "c"], "candidates[0]="),
        (["a", "\ud800"], "candidates[1]: expected text that UTF-8 can encode"),
        (["a", "b", "a"], "candidates: 'a' stands there twice"),
        (["x" * 250, "b", "x" * 250], "stands there twice"),
    ],
)
def test_what_c_leaves_to_python_is_read_or_refused_by_its_rules(
    ids: list[str], refused: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = told(ids)

    assert found == told_without_c(ids, monkeypatch)
    assert (refused in found) if refused else found == ("\x00".join(ids).encode(), [*map(ids_module.hash64, ids)])


def test_ten_thousand_ids_are_read_the_same_with_c_and_without(monkeypatch: pytest.MonkeyPatch) -> None:
    ids = [f"item-{i:07}" for i in range(10_000)]
    random.Random(0).shuffle(ids)

    assert told(ids) == told_without_c(ids, monkeypatch)
    repeated = [*ids[:-1], ids[17]]
    assert told(repeated) == told_without_c(repeated, monkeypatch)
    assert repr(ids[17]) in told(repeated)
