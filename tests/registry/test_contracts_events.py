"""Laws of events: what is written is read, by newer and older readers too; garbage is only refused."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.contracts.errors import ContractError, CorruptRecord, UnknownSchema
from registry.contracts.events import (
    SCHEMA,
    Click,
    Event,
    Exposure,
    MirrorEvent,
    RankingEvent,
    WatchedRanking,
    decode_event,
    decode_events,
    encode_event,
    join_events,
    split_events,
    split_mirrors,
    watched_ranking,
    watched_rankings,
)
from tests.builders import a_click, a_mirror, a_ranking, an_exposure

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
numbers = st.integers(0, 2**53)
models = st.from_regex(r"[a-z0-9][a-z0-9_-]{0,63}", fullmatch=True)
arms = st.from_regex(r"[a-z_]{1,32}", fullmatch=True)
reals = st.floats(allow_nan=False)


@st.composite
def rankings(draw: st.DrawFn) -> RankingEvent:
    items = tuple(draw(st.lists(texts, max_size=4)))
    columns = draw(st.integers(0, 3))
    return RankingEvent(
        SCHEMA,
        *(draw(texts), draw(numbers), draw(models), draw(numbers), draw(arms), draw(numbers)),
        *(draw(texts), draw(texts), draw(numbers), items),
        draw(st.binary(min_size=4 * len(items), max_size=4 * len(items))),
        draw(st.binary(min_size=4 * len(items), max_size=4 * len(items))),
        draw(texts),
        draw(st.binary(min_size=4 * len(items) * columns, max_size=4 * len(items) * columns)),
        *(draw(reals), draw(reals), draw(reals), draw(reals)),
        degraded=tuple(draw(st.lists(texts, max_size=2))),
        latency_ms=draw(reals),
        trace_id=draw(texts),
        experiment=draw(texts),
        teams=draw(st.binary(max_size=4)),
        team_version=draw(numbers),
        explored=draw(st.booleans()),
        row_age_s=draw(st.none() | reals),
    )


@st.composite
def mirrors(draw: st.DrawFn) -> MirrorEvent:
    items, mirrored = (tuple(draw(st.lists(texts, max_size=4))) for _ in range(2))
    return MirrorEvent(
        SCHEMA,
        *(draw(texts), draw(texts), draw(models), draw(numbers), draw(numbers), draw(texts)),
        *(draw(numbers), draw(numbers), draw(numbers), items),
        draw(st.binary(min_size=4 * len(items), max_size=4 * len(items))),
        mirrored,
        draw(st.binary(min_size=4 * len(mirrored), max_size=4 * len(mirrored))),
        *(draw(reals), draw(reals), draw(texts)),
    )


def feedback(kind: type[Click] | type[Exposure]) -> st.SearchStrategy[Click | Exposure]:
    places = st.none() | st.integers(1, 1000)
    return st.builds(kind, st.just(SCHEMA), texts, texts, models, texts, places, numbers, numbers, st.booleans())


events: st.SearchStrategy[Event] = rankings() | mirrors() | feedback(Click) | feedback(Exposure)


@given(events)
def test_an_event_comes_back_as_it_was(event: Event) -> None:
    assert decode_event(encode_event(event)) == event


@given(st.lists(events, max_size=5))
def test_a_payload_holds_its_events_in_order(given_: list[Event]) -> None:
    encoded = [encode_event(event) for event in given_]
    payload = join_events(encoded)

    assert split_events(payload) == encoded
    assert decode_events(payload) == given_


@pytest.mark.parametrize(
    ("read", "garbage"),
    [
        (decode_event, b"\x91\xa1\xff"),
        (decode_events, join_events([b"\x91\xa1\xff"])),
        (decode_event, b"\x91" * 100_000),
    ],
    ids=["an event with text that is no UTF-8", "a payload with such an event", "endless nesting"],
)
def test_what_msgspec_does_not_call_an_error_is_refused(read: Callable[[bytes], object], garbage: bytes) -> None:
    with pytest.raises(CorruptRecord):
        read(garbage)


@given(st.binary(max_size=60))
def test_garbage_is_refused_and_nothing_worse(garbage: bytes) -> None:
    for read in (decode_event, decode_events):
        with pytest.raises(ContractError):
            if read(garbage) == []:  # the empty payload, which garbage may happen to be
                raise CorruptRecord
    with suppress(CorruptRecord):
        split_events(garbage)


@given(events, st.integers(0, 200), st.integers(0, 255))
def test_a_changed_byte_is_read_or_refused_and_nothing_worse(event: Event, at: int, byte: int) -> None:
    encoded = encode_event(event)
    with suppress(ContractError):
        decode_event(encoded[:at] + bytes([byte]) + encoded[at + 1 :])


@given(events, st.integers(0, 200))
def test_a_cut_event_is_refused(event: Event, length: int) -> None:
    encoded = encode_event(event)

    with pytest.raises(CorruptRecord):
        decode_event(encoded[: min(length, len(encoded) - 1)])


def as_list(event: Event) -> list[Any]:
    plain: list[Any] = msgspec.msgpack.decode(encode_event(event))
    return plain


@pytest.mark.parametrize("event", [a_ranking(), a_mirror(), a_click(), an_exposure()])
def test_fields_that_a_newer_writer_adds_are_passed_over(event: Event) -> None:
    assert decode_event(msgspec.msgpack.encode([*as_list(event), "new", 7])) == event


@pytest.mark.parametrize(
    ("event", "added"),
    [
        (a_ranking(), 7),
        (a_mirror(mirror_items=(), mirror_scores=b"", latency_ms=0.0, mirror_latency_ms=0.0), 5),
        (a_click(), 1),
        (an_exposure(), 1),
    ],
)
def test_fields_that_an_older_writer_did_not_know_have_their_defaults(event: Event, added: int) -> None:
    assert decode_event(msgspec.msgpack.encode(as_list(event)[:-added])) == event


@pytest.mark.parametrize("event", [a_ranking(), a_mirror(), a_click(), an_exposure()])
def test_a_newer_schema_is_refused_by_name(event: Event) -> None:
    tag, _, *rest = as_list(event)
    newer = msgspec.msgpack.encode([tag, SCHEMA + 1, *rest])

    with pytest.raises(UnknownSchema, match=f"schema {SCHEMA + 1}"):
        decode_event(newer)
    with pytest.raises(UnknownSchema):
        decode_event(msgspec.msgpack.encode([tag, SCHEMA + 1]))  # laid out as we cannot know
    with pytest.raises(UnknownSchema):
        decode_events(join_events([newer]))
    assert split_events(join_events([newer, encode_event(a_click())])) == [newer, encode_event(a_click())]


@pytest.mark.parametrize("schema", [0, -1])
def test_a_schema_that_never_was_is_refused(schema: int) -> None:
    with pytest.raises(UnknownSchema):
        decode_event(encode_event(msgspec.structs.replace(a_click(), schema=schema)))


def test_arrays_are_shaped_by_the_items() -> None:
    event = a_ranking(items=("a", "b"), features=np.arange(6, dtype="<f4").tobytes())

    assert event.score_array().tolist() == [2.0, 1.0]
    assert event.propensity_array().tolist() == [1.0, 1.0]
    assert event.feature_matrix().tolist() == [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]
    assert a_ranking(features=b"").feature_matrix().shape == (2, 0)
    assert a_ranking(items=(), features=b"").feature_matrix().shape == (0, 0)
    assert a_mirror().score_array().tolist() == [2.0, 1.0]
    assert a_mirror().mirror_score_array().tolist() == [0.5, 0.25]
    assert a_mirror(mirror_items=(), mirror_scores=b"").mirror_score_array().shape == (0,)


@given(st.lists(events, max_size=6))
def test_mirror_events_are_found_among_others_and_no_others(given_: list[Event]) -> None:
    payload = join_events([encode_event(event) for event in given_])

    assert [decode_event(one) for one in split_mirrors(payload)] == [e for e in given_ if isinstance(e, MirrorEvent)]


def test_the_word_mirror_in_another_event_is_no_mirror_event() -> None:
    a_click_on_a_mirror = encode_event(a_click(item="mirror"))

    assert split_mirrors(join_events([a_click_on_a_mirror])) == []
    assert split_mirrors(join_events([a_click_on_a_mirror, encode_event(a_mirror())])) == [encode_event(a_mirror())]


def test_a_watched_ranking_says_the_same_of_its_numbers_as_the_event() -> None:
    written = [a_ranking("r1"), a_ranking("r2", ("a", "b", "c"))]
    payload = join_events([encode_event(event) for event in (a_click(), *written, an_exposure(), a_mirror("m1", "r1"))])

    read = watched_rankings(payload)

    passed_over = ("unit", "query_id", "items", "propensities", "trace_id", "experiment", "teams")
    fields = [name for name in WatchedRanking.__struct_fields__ if name not in passed_over]
    assert [[getattr(event, name) for name in fields] for event in read] == [
        [getattr(event, name) for name in fields] for event in written
    ]
    assert [event.shown for event in read] == [event.shown for event in written]


def test_a_watched_ranking_has_the_fields_of_the_event_in_their_order() -> None:
    fields = WatchedRanking.__struct_fields__

    assert RankingEvent.__struct_fields__[: len(fields)] == fields


def test_watched_rankings_refuse_what_events_refuse() -> None:
    newer = msgspec.structs.replace(a_ranking(), schema=99)

    with pytest.raises(UnknownSchema):
        watched_rankings(join_events([encode_event(newer)]))
    with pytest.raises(CorruptRecord):
        watched_rankings(b"no payload")
    with pytest.raises(UnknownSchema):
        watched_ranking(encode_event(newer))
    assert watched_ranking(encode_event(a_click())) is None


@pytest.mark.parametrize("changes", [{"model": "../up"}, {"model": "a\0b"}, {"model": "a\n"}, {"arm": "a/b"}])
def test_an_event_whose_model_or_arm_could_be_a_path_elsewhere_is_refused(changes: dict[str, str]) -> None:
    event = msgspec.structs.replace(a_ranking(), **changes)

    with pytest.raises(CorruptRecord):
        decode_event(encode_event(event))
