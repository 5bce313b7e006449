"""Segments are declared, few, and cover every ranking."""

import math

import msgspec
import numpy as np
import pytest

from drift.windows.reference import Reference
from drift.windows.segments import Segments, parse_segments
from registry.contracts.events import RankingEvent
from tests.drift.traffic import COLUMNS, PROFILE, rankings

REFERENCE = Reference.of(PROFILE)
OF_QUERY = COLUMNS.index("of_query")


def with_value(value: float) -> RankingEvent:
    (event,) = rankings(seed=5, lists=1)
    matrix = event.feature_matrix().copy()
    matrix[:, OF_QUERY] = value
    return msgspec.structs.replace(event, features=matrix.astype("<f4").tobytes())


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (-math.inf, "other"),
        (1.5, "of_query<2"),
        (2.0, "2<=of_query<4"),
        (3.99, "2<=of_query<4"),
        (4.0, "4<=of_query"),
        (math.nan, "other"),
    ],
)
def test_bounds_belong_to_the_part_above_them(value: float, name: str) -> None:
    segments = Segments("codesearch", "of_query", bounds=(2.0, 4.0))

    assert segments.of([with_value(value)], REFERENCE) == [name]
    assert name in segments.names


def test_values_without_a_part_are_other() -> None:
    segments = Segments("codesearch", "of_query", values=(1.0, 2.0))

    found = segments.of([with_value(value) for value in (1.0, 2.0, 3.0)], REFERENCE)

    assert found == ["of_query=1", "of_query=2", "other"]


def test_how_many_were_ranked_divides_without_any_profile() -> None:
    segments = Segments("codesearch", "ranking:candidates", bounds=(10.0,))
    few, many = (msgspec.structs.replace(with_value(0.0), candidates=candidates) for candidates in (9, 10))

    assert segments.of([few, many], None) == ["ranking:candidates<10", "10<=ranking:candidates"]


@pytest.mark.parametrize("reference", [None, REFERENCE])
def test_what_nothing_is_known_of_is_other(reference: Reference | None) -> None:
    segments = Segments("codesearch", "of_query" if reference is None else "no_such_feature", bounds=(0.0,))

    assert segments.of([with_value(1.0)], reference) == ["other"]


def test_a_ranking_that_does_not_fit_is_other() -> None:
    unfit = msgspec.structs.replace(with_value(1.0), features=b"")

    assert Segments("codesearch", "of_query", bounds=(0.0,)).of([unfit], REFERENCE) == ["other"]


@pytest.mark.parametrize(
    "text",
    [
        "codesearch",
        "codesearch:length",
        "codesearch:length<a",
        ":length<2",
        "codesearch:<2",
        "codesearch:length<4<2",
        "codesearch:length<nan",
        "codesearch:length<2,codesearch:length<3",
        "codesearch:length=1|1",
        "codesearch:length<1<2<3<4<5<6<7<8",
    ],
)
def test_what_is_declared_wrongly_is_refused_and_named(text: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        parse_segments(text)


def test_at_most_eight_parts_and_other_can_be_declared() -> None:
    declared = parse_segments("codesearch:length<" + "<".join(map(str, range(7))))["codesearch"]

    assert len(declared.names) == 9
    assert len(set(declared.names)) == 9
    assert np.unique(parse_segments("shop:country=1|2")["shop"].names).tolist() == ["country=1", "country=2", "other"]
