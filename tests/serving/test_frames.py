"""The wire between gateway and worker: what goes in comes out, and garbage is called garbage."""

import math
import struct
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from serving.features.tier import NOTHING_FETCHED, Fetched
from serving.frames import (
    MAX_FRAME_BYTES,
    NO_VALUES,
    WIRE,
    BrokenFrame,
    FailedReply,
    FrameBuffer,
    Kind,
    LoadedVersion,
    PrefetchRequest,
    RankedReply,
    ScoreRequest,
    WorkerState,
    decode_state,
    encode_state,
)

U16, U32 = st.integers(0, 2**16 - 1), st.integers(0, 2**32 - 1)
FLOAT32, FLOAT64 = st.floats(width=32), st.floats()
ITEM_ID = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), min_size=1, max_size=5)
DECODERS: dict[Kind, Callable[[bytes], Any]] = {
    Kind.SCORE: ScoreRequest.decode,
    Kind.RANKED: RankedReply.decode,
    Kind.FAILED: FailedReply.decode,
    Kind.STATE: decode_state,
}


@st.composite
def score_requests(draw: st.DrawFn) -> ScoreRequest:
    ids = draw(st.lists(ITEM_ID, min_size=1, max_size=8))
    in_query, in_candidates = draw(st.integers(0, 3)), draw(st.integers(0, 3))
    return ScoreRequest(
        number=draw(U32),
        slot=draw(U16),
        top_k=draw(U16),
        deadline_us=draw(U32),
        hashes=draw(arrays(np.uint64, len(ids))),
        ids="\x00".join(ids).encode(),
        query_columns=draw(arrays(np.uint16, in_query)),
        query_values=draw(arrays(np.float32, in_query)),
        candidate_columns=draw(arrays(np.uint16, in_candidates)),
        candidate_values=draw(arrays(np.float32, (in_candidates, len(ids)))) if in_candidates else NO_VALUES,
        priority=draw(st.integers(0, 255)),
    )


@st.composite
def ranked_replies(draw: st.DrawFn) -> RankedReply:
    shown, columns = draw(st.integers(0, 8)), draw(st.integers(0, 4))
    return RankedReply(
        number=draw(U32),
        order=draw(arrays(np.uint32, shown)),
        scores=draw(arrays(np.float32, shown)),
        features=draw(arrays(np.float32, (shown, columns))).tobytes(),
        missing_rows=draw(U32),
        stale_rows=draw(U32),
        tier_away=draw(st.booleans()),
        queue_us=draw(FLOAT32),
        features_us=draw(FLOAT32),
        device_us=draw(FLOAT32),
        score_mean=draw(FLOAT64),
        score_std=draw(FLOAT64),
        margin=draw(FLOAT64),
        entropy=draw(FLOAT64),
        row_age_s=draw(FLOAT32),
        fetched=draw(
            st.one_of(
                st.just(NOTHING_FETCHED), st.builds(Fetched, st.integers(1, 2**32 - 1), st.floats(0, 1e9, width=32))
            )
        ),
    )


failed_replies = st.builds(FailedReply, U32, U16, st.text(st.characters(exclude_categories=["Cs"])))
names = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=8), max_size=4).map(tuple)
loaded_versions = st.builds(LoadedVersion, U16, st.text("abc"), U32, st.text("01"), st.text("01"), names, names)
states = st.builds(WorkerState, st.text("abc"), U32, st.booleans(), st.lists(loaded_versions, max_size=3).map(tuple))
encoded_frames = st.one_of(
    score_requests().map(ScoreRequest.encode),
    ranked_replies().map(RankedReply.encode),
    states.map(encode_state),
    failed_replies.map(FailedReply.encode),
)


def only_frame(encoded: bytes) -> tuple[Kind, bytes]:
    """The one frame that the bytes are."""
    [frame] = FrameBuffer().feed(encoded)
    return frame


def assert_same(decoded: Any, given: Any) -> None:
    """Field by field, NaN equal to itself, arrays of the same type and shape."""
    for name in given.__struct_fields__:
        before, after = getattr(given, name), getattr(decoded, name)
        if isinstance(before, np.ndarray):
            assert (before.dtype, before.shape) == (after.dtype, after.shape), name
            np.testing.assert_array_equal(before, after)
        else:
            both_nan = isinstance(before, float) and math.isnan(before) and math.isnan(after)
            assert both_nan or before == after, name


@given(score_requests())
def test_a_score_request_survives_the_wire(request: ScoreRequest) -> None:
    kind, body = only_frame(request.encode())

    assert kind is Kind.SCORE
    assert_same(ScoreRequest.decode(body), request)


@given(score_requests())
def test_a_prefetch_survives_the_wire_and_one_that_is_out_of_step_is_refused(request: ScoreRequest) -> None:
    prefetch = PrefetchRequest(request.slot, request.hashes, request.ids)

    kind, body = only_frame(prefetch.encode())

    assert kind is Kind.PREFETCH
    assert_same(PrefetchRequest.decode(body), prefetch)
    for broken in (
        body[:-1],
        body + b"x",
        body[:5],
        PrefetchRequest(0, request.hashes, request.ids + b"\x00").encode(),
    ):
        with pytest.raises(BrokenFrame):
            PrefetchRequest.decode(broken)


@given(ranked_replies())
def test_a_ranked_reply_survives_the_wire(reply: RankedReply) -> None:
    kind, body = only_frame(reply.encode())

    assert kind is Kind.RANKED
    assert_same(RankedReply.decode(body), reply)


@given(failed_replies)
def test_a_failed_reply_survives_the_wire(reply: FailedReply) -> None:
    kind, body = only_frame(reply.encode())

    assert kind is Kind.FAILED
    assert FailedReply.decode(body) == reply


@given(states)
def test_a_workers_state_survives_the_wire(state: WorkerState) -> None:
    kind, body = only_frame(encode_state(state))

    assert kind is Kind.STATE
    assert decode_state(body) == state


def test_a_worker_that_speaks_another_wire_is_told_from_garbage() -> None:
    state = WorkerState("w", 1, True, ())
    other = msgspec.msgpack.encode([WIRE + 1, ["what", "it", "has"]])

    assert msgspec.msgpack.decode(only_frame(encode_state(state))[1])[0] == WIRE
    with pytest.raises(BrokenFrame, match=f"wire {WIRE + 1}, this gateway {WIRE}"):
        decode_state(other)


@given(st.lists(encoded_frames, max_size=5), st.data())
def test_any_cut_of_the_stream_gives_the_same_frames(frames: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(frames)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    buffer = FrameBuffer()

    found = [
        frame
        for start, stop in zip([0, *cuts], [*cuts, len(stream)], strict=True)
        for frame in buffer.feed(stream[start:stop])
    ]

    assert found == [only_frame(frame) for frame in frames]


@given(encoded_frames, st.data())
def test_a_body_that_is_cut_short_is_broken(encoded: bytes, data: st.DataObject) -> None:
    kind, body = only_frame(encoded)

    with pytest.raises(BrokenFrame):
        DECODERS[kind](body[: data.draw(st.integers(0, len(body) - 1))])


@given(encoded_frames, st.binary(min_size=1, max_size=9))
def test_a_body_with_more_at_its_end_is_broken(encoded: bytes, more: bytes) -> None:
    kind, body = only_frame(encoded)

    with pytest.raises(BrokenFrame):
        DECODERS[kind](body + more)


ARRAYS = {"hashes": 8, "query_columns": 2, "query_values": 4, "candidate_columns": 2, "candidate_values": 4}


@given(score_requests(), st.sampled_from(sorted(ARRAYS)), st.data())
def test_an_array_that_is_shorter_than_the_others_say_is_broken(
    request: ScoreRequest, name: str, data: st.DataObject
) -> None:
    _, body = only_frame(request.encode())
    told = msgspec.msgpack.decode(body)
    place = ScoreRequest.__struct_fields__.index(name)
    whole = told[place] + bytes(ARRAYS[name])  # one element more; or fewer bytes than there were
    told[place] = whole[: data.draw(st.integers(0, len(whole)).filter(lambda n: n != len(whole) - ARRAYS[name]))]

    with pytest.raises(BrokenFrame):
        ScoreRequest.decode(msgspec.msgpack.encode(told))


def test_ids_that_are_not_one_a_candidate_are_broken() -> None:
    request = ScoreRequest(
        number=1,
        slot=0,
        top_k=1,
        deadline_us=1,
        hashes=np.arange(3, dtype=np.uint64),
        ids=b"a\x00b",
        query_columns=np.empty(0, dtype=np.uint16),
        query_values=np.empty(0, dtype=np.float32),
        candidate_columns=np.empty(0, dtype=np.uint16),
        candidate_values=NO_VALUES,
    )
    _, body = only_frame(request.encode())

    with pytest.raises(BrokenFrame, match="3 candidates"):
        ScoreRequest.decode(body)


@given(st.sampled_from(list(DECODERS)), st.binary(max_size=200))
def test_garbage_in_a_body_raises_nothing_but_broken_frame(kind: Kind, garbage: bytes) -> None:
    try:
        decoded = DECODERS[kind](garbage)
    except BrokenFrame:
        return
    again = encode_state(decoded) if kind is Kind.STATE else decoded.encode()

    assert only_frame(again)[0] is kind


@given(st.binary(max_size=200))
def test_garbage_in_a_stream_raises_nothing_but_broken_frame(garbage: bytes) -> None:
    try:
        frames = list(FrameBuffer().feed(garbage))
    except BrokenFrame:
        return

    assert all(isinstance(kind, Kind) for kind, _ in frames)


@pytest.mark.parametrize("length", [0, MAX_FRAME_BYTES + 1])
def test_an_impossible_length_is_broken_before_its_bytes_arrive(length: int) -> None:
    with pytest.raises(BrokenFrame, match=f"length {length}"):
        list(FrameBuffer().feed(struct.pack("<IB", length, Kind.RANKED)))


def test_an_unknown_kind_is_broken() -> None:
    with pytest.raises(BrokenFrame, match="kind 99"):
        list(FrameBuffer().feed(struct.pack("<IB", 1, 99)))


def test_a_loaded_version_knows_the_places_of_its_columns_and_which_are_sent() -> None:
    loaded = LoadedVersion(0, "m", 1, "d", "f", ("length", "match", "words"), ("row", "candidate", "query"))

    assert loaded.place == {"length": 0, "match": 1, "words": 2}
    assert loaded.sent == ("match", "words")
