"""Laws of feature views: the fingerprint sees every change, and rows come back as they went in."""

from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.contracts.errors import ContractError, CorruptRecord
from registry.contracts.features import (
    Column,
    FeatureView,
    StorageType,
    missing_columns,
    pack_rows,
    row_key,
    unpack_rows,
)
from tests.builders import NOW_MS, a_view

values_of: dict[StorageType, st.SearchStrategy[float]] = {
    "float32": st.floats(width=32, allow_nan=False, allow_infinity=False),
    "float16": st.floats(width=16, allow_nan=False, allow_infinity=False),
    "int16": st.integers(-(2**15), 2**15 - 1).map(float),
    "uint8": st.integers(0, 255).map(float),
}


@st.composite
def columns(draw: st.DrawFn) -> Column:
    dtype = draw(st.sampled_from(sorted(values_of)))
    return Column(
        name=draw(st.text(min_size=1, max_size=8)),
        source=draw(st.sampled_from(["row", "query", "candidate"])),
        dtype=dtype,
        default=draw(values_of[dtype]),
        freshness_s=draw(st.none() | st.floats(0, 1e6)),
    )


views = st.builds(
    FeatureView,
    name=st.from_regex(r"[A-Za-z0-9._-]{1,64}", fullmatch=True),
    entity=st.text(max_size=8),
    columns=st.lists(columns(), min_size=1, max_size=6, unique_by=lambda column: column.name).map(tuple),
)


@st.composite
def stored(draw: st.DrawFn) -> tuple[FeatureView, Any]:
    view = draw(views)
    width = [column.dtype for column in view.of_source("row")]
    rows = draw(st.lists(st.tuples(*(values_of[dtype] for dtype in width)), max_size=5))
    return view, np.array(rows, dtype=np.float32).reshape(len(rows), len(width))


@given(stored(), st.integers(0, 2**48))
def test_rows_come_back_as_they_went_in(given_: tuple[FeatureView, Any], updated_ms: int) -> None:
    view, values = given_
    unpacked = unpack_rows(view, pack_rows(view, values, updated_ms))

    np.testing.assert_array_equal(unpacked.values, values)
    assert unpacked.updated_ms.tolist() == [updated_ms] * len(values)


@given(stored(), st.data())
def test_which_values_are_missing_comes_back_row_by_row(given_: tuple[FeatureView, Any], data: st.DataObject) -> None:
    view, values = given_
    lacking = np.array(data.draw(st.lists(st.booleans(), min_size=values.size, max_size=values.size)), dtype=bool)
    values[lacking.reshape(values.shape)] = np.nan

    rows = pack_rows(view, values, NOW_MS)
    unpacked = unpack_rows(view, rows)

    incomplete = np.isnan(values).any(axis=1)
    sizes = view.row_dtype.itemsize + view.missing_bytes * incomplete
    assert [len(row) for row in rows] == sizes.tolist()
    assert (unpacked.missing is None) == (not incomplete.any())
    if unpacked.missing is not None:
        np.testing.assert_array_equal(missing_columns(unpacked.missing, values.shape[1]), np.isnan(values))
    defaults = view.defaults[view.positions("row")]
    np.testing.assert_array_equal(unpacked.values, np.where(np.isnan(values), defaults, values))


@given(views)
def test_a_missing_value_becomes_the_default(view: FeatureView) -> None:
    missing = np.full((1, len(view.of_source("row"))), np.nan, dtype=np.float32)

    expected = np.array([[column.default for column in view.of_source("row")]], dtype=np.float32)
    np.testing.assert_array_equal(unpack_rows(view, pack_rows(view, missing, NOW_MS)).values, expected)


@given(views)
def test_a_view_survives_json_with_its_fingerprint(view: FeatureView) -> None:
    again = FeatureView.from_json(msgspec.json.decode(msgspec.json.encode(view.to_json())))

    assert again == view
    assert again.fingerprint == view.fingerprint
    assert len(bytes.fromhex(view.fingerprint)) == 8


@pytest.mark.parametrize(
    "change",
    [
        {"name": "width"},
        {"source": "candidate"},
        {"dtype": "float16"},
        {"default": 2.0},
        {"freshness_s": 60.0},
    ],
)
def test_every_property_of_a_column_is_in_the_fingerprint(change: dict[str, Any]) -> None:
    view = a_view()
    first, *others = view.columns
    changed = replace(view, columns=(msgspec.structs.replace(first, **change), *others))

    assert changed.fingerprint != view.fingerprint


def test_a_whole_number_is_the_same_limit_and_default_before_and_after_json() -> None:
    whole = FeatureView("views", "item", (Column("length", default=1, freshness_s=3600),))
    broken = FeatureView("views", "item", (Column("length", default=1.0, freshness_s=3600.0),))

    again = FeatureView.from_json(msgspec.json.decode(msgspec.json.encode(whole.to_json())))

    assert whole.fingerprint == broken.fingerprint == again.fingerprint


def test_name_entity_and_order_are_in_the_fingerprint() -> None:
    view = a_view()
    changed = [
        replace(view, name="other"),
        replace(view, entity="other"),
        replace(view, columns=view.columns[::-1]),
        replace(view, columns=view.columns[:2]),
    ]

    assert len({view.fingerprint, *(other.fingerprint for other in changed)}) == 5


@given(views)
def test_positions_and_sources_cover_the_matrix(view: FeatureView) -> None:
    found = {
        int(place): column
        for source in ("row", "query", "candidate")
        for place, column in zip(view.positions(source), view.of_source(source), strict=True)
    }

    assert tuple(found[place] for place in range(len(view.columns))) == view.columns


@given(stored(), st.data())
def test_a_row_of_another_layout_is_no_row(given_: tuple[FeatureView, Any], data: st.DataObject) -> None:
    view, values = given_
    other = replace(view, entity=view.entity + "x")
    packed = pack_rows(other, values, NOW_MS)

    if packed:
        with pytest.raises(CorruptRecord, match="another layout"):
            unpack_rows(view, pack_rows(view, values, NOW_MS)[1:] + packed)


@given(st.lists(st.binary(max_size=30), min_size=1))
def test_garbage_is_no_row(rows: list[bytes]) -> None:
    with pytest.raises(CorruptRecord):
        unpack_rows(a_view(), rows)


@pytest.mark.parametrize(
    ("dtype", "value"),
    [("uint8", 256.0), ("uint8", -1.0), ("uint8", 0.5), ("int16", 40000.0), ("float16", 1e6), ("float32", np.inf)],
)
def test_a_value_that_does_not_fit_its_storage_is_refused(dtype: StorageType, value: float) -> None:
    view = FeatureView("v", "e", (Column("c", dtype=dtype),))

    with pytest.raises(ContractError, match="'c'"):
        pack_rows(view, np.array([[value]], dtype=np.float32), NOW_MS)


@pytest.mark.parametrize("shape", [(1,), (1, 0), (1, 2), (1, 1, 1)])
def test_rows_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ContractError, match="stores 1 columns"):
        pack_rows(a_view(), np.zeros(shape, dtype=np.float32), NOW_MS)


@pytest.mark.parametrize(
    ("given_columns", "rule"),
    [
        ((), "no columns"),
        ((Column("a"), Column("a")), "repeated or empty"),
        ((Column(""),), "repeated or empty"),
        ((Column("a", default=float("nan")),), "not a finite"),
        ((Column("a", default=1e300),), "not a finite float32"),
        ((Column("a", source="query", default=1e300),), "not a finite float32"),
        ((Column("a", dtype="uint8", default=0.5),), "not a finite uint8"),
    ],
)
def test_a_view_that_makes_no_sense_is_refused(given_columns: tuple[Column, ...], rule: str) -> None:
    with pytest.raises(ContractError, match=rule):
        FeatureView("v", "e", given_columns)


@pytest.mark.parametrize("name", ["", "a:b", "a b", "a" * 65, "é"])
def test_a_view_with_a_name_that_cannot_be_in_a_key_is_refused(name: str) -> None:
    with pytest.raises(ContractError, match="expected 1 to 64"):
        FeatureView(name, "e", (Column("c"),))


@pytest.mark.parametrize("plain", [{}, {"name": "v", "entity": "e", "columns": [{"name": 1}]}, {"columns": 3}])
def test_what_is_no_view_is_refused(plain: dict[str, Any]) -> None:
    with pytest.raises(ContractError, match="not a feature view"):
        FeatureView.from_json(plain)


def test_a_key_names_view_and_item() -> None:
    assert row_key(a_view("stdlib"), "json:loads") == "sluice:row:stdlib:json:loads"
