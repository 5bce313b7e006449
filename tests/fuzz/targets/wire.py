"""Frames between gateway and worker, and what they carry."""

from collections.abc import Callable
from typing import Any

import numpy as np

from registry.contracts.manifest import TensorSpec
from serving.features.tier import Fetched
from serving.frames import (
    BrokenFrame,
    FailedReply,
    FrameBuffer,
    Kind,
    LoadedVersion,
    PrefetchRequest,
    RankedReply,
    ScoreRequest,
    WorkerState,
    decode_arena,
    decode_cancel,
    decode_state,
    encode_arena,
    encode_cancel,
    encode_state,
)
from serving.statistics import VersionStatistics, decode_statistics, encode_statistics, total
from serving.tensor_frames import InferredReply, InferRequest
from serving.tensors import Tensor, join_bytes
from tests.fuzz.mutation import Form
from tests.fuzz.target import READ, Check, Target, pure, refusal

SPECS = (TensorSpec("a", "FP32", (-1, -1)), TensorSpec("words", "BYTES", (-1,)), TensorSpec("n", "INT64", ()))
ARENA_BYTES = 4096
STATE = WorkerState(
    "worker-0",
    10,
    True,
    (LoadedVersion(0, "m", 1, "0" * 64, "0" * 16, ("a", "b"), ("row", "query"), SPECS[:1], SPECS[2:]),),
)


def _score() -> ScoreRequest:
    return ScoreRequest(
        number=7,
        slot=1,
        top_k=2,
        deadline_us=1000,
        hashes=np.array([1, 2, 3], np.uint64),
        ids=b"a\x00b\x00c",
        query_columns=np.array([2], np.uint16),
        query_values=np.array([0.5], np.float32),
        candidate_columns=np.array([1, 0], np.uint16),
        candidate_values=np.ones((2, 3), np.float32),
    )


def _ranked() -> RankedReply:
    return RankedReply(
        *(7, np.array([1, 0], np.uint32), np.array([2.0, 1.0], np.float32), bytes(24), 1, 0, False),
        *(1.0, 2.0, 3.0, 0.5, 0.5, 0.5, 0.5, 60.0, Fetched(2, 100.0)),
    )


def _tensors() -> list[Tensor]:
    return [
        Tensor("a", "FP32", (2, 2), bytes(16)),
        Tensor("words", "BYTES", (2,), join_bytes([b"one", b""])),
        Tensor("n", "INT64", (), bytes(8)),
    ]


def _bodies(*frames: bytes) -> list[bytes]:
    return [body for _, body in FrameBuffer().feed(b"".join(frames))]


def _body(decode: Callable[[bytes], Any], encode: Callable[[Any], bytes]) -> Check:
    """A body is read or broken; what was read is what its own frame says."""

    def check(data: bytes) -> str:
        try:
            found = decode(data)
        except BrokenFrame as error:
            return refusal(error)
        written = encode(found)
        [(_, again)] = FrameBuffer().feed(written)
        assert encode(decode(again)) == written
        return READ

    return check


def _stream(data: bytes) -> str:
    """However the bytes come in, the same frames leave, and no more is kept than came."""
    whole, pieces = _frames([data]), _frames([data[at : at + 7] for at in range(0, len(data), 7)])
    if isinstance(whole, list) and isinstance(pieces, list):
        assert whole == pieces
        return READ
    assert isinstance(whole, str)
    assert isinstance(pieces, str), "broken as one piece, not in many"
    return whole


def _frames(pieces: list[bytes]) -> list[tuple[Kind, bytes]] | str:
    buffer, found = FrameBuffer(), []
    try:
        for piece in pieces:
            found += list(buffer.feed(piece))
    except BrokenFrame as error:
        return refusal(error)
    return found


def _infer(data: bytes) -> str:
    """A request into a worker with an arena; tensors lie inside of frame or arena."""
    memory = memoryview(bytearray(ARENA_BYTES))
    try:
        request = InferRequest.decode(data, lambda slot: SPECS if slot != 3 else None, memory)
    except BrokenFrame as error:
        return refusal(error)
    for tensor in request.inputs:
        assert len(tensor.data) <= max(len(data), ARENA_BYTES)
    return READ


def _inferred(data: bytes) -> str:
    memory = memoryview(bytearray(ARENA_BYTES))
    try:
        reply = InferredReply.decode(data, lambda number: (SPECS, 1024), memory)
    except BrokenFrame as error:
        return refusal(error)
    for place, tensor in reply.outputs:
        assert tensor.name == SPECS[place].name
        assert len(tensor.data) <= max(len(data), ARENA_BYTES)
    return READ


def _infer_seeds() -> list[bytes]:
    inline = InferRequest(7, 1, _tensors(), 7, 1000, 3)
    placed = InferRequest(8, 1, _tensors(), 1, 1000)
    placed.place(memoryview(bytearray(ARENA_BYTES)), 64, 512)
    return _bodies(inline.encode(), placed.encode())


def _inferred_seeds() -> list[bytes]:
    outputs = list(enumerate(_tensors()))
    inline, placed = InferredReply(7, outputs), InferredReply(7, outputs[:2], 128)
    return _bodies(inline.encode(), placed.encode(memoryview(bytearray(ARENA_BYTES))))


def _statistics(data: bytes) -> str:
    """They are added up, whatever they say."""
    try:
        found = decode_statistics(data)
    except BrokenFrame as error:
        return refusal(error)
    total(found)
    return READ


def _some_statistics() -> bytes:
    statistics = VersionStatistics("m", 1)
    statistics.batch(2, 0, 20, 10.0, 5.0, 30.0)
    return encode_statistics([statistics])


def targets() -> list[Target]:
    """Every kind of frame, and the stream of them."""
    all_frames = [
        *(_score().encode(), _ranked().encode(), FailedReply(7, 503, "away").encode(), encode_state(STATE)),
        *(encode_cancel(7), encode_arena(1 << 20)),
    ]
    bodies: list[tuple[str, Callable[[bytes], Any], Callable[[Any], bytes], list[bytes], Form]] = [
        ("score", ScoreRequest.decode, lambda one: one.encode(), _bodies(_score().encode()), "bytes"),
        ("ranked", RankedReply.decode, lambda one: one.encode(), _bodies(_ranked().encode()), "bytes"),
        ("failed", FailedReply.decode, lambda one: one.encode(), _bodies(FailedReply(7, 503, "ä").encode()), "bytes"),
        ("state", decode_state, encode_state, _bodies(encode_state(STATE)), "msgpack"),
        ("arena", decode_arena, encode_arena, _bodies(encode_arena(1 << 20)), "bytes"),
        ("cancel", decode_cancel, encode_cancel, _bodies(encode_cancel(7)), "bytes"),
        (
            *("prefetch", PrefetchRequest.decode, lambda one: one.encode()),
            *(_bodies(PrefetchRequest(1, np.array([1, 2], np.uint64), b"a\x00b").encode()), "bytes"),
        ),
    ]
    return [
        pure("frames.stream", _stream, lambda: [b"".join(all_frames), *all_frames], share=2.0),
        *(
            pure(f"frames.{name}", _body(decode, encode), lambda seeds=seeds: seeds, form, 0.7)  # type: ignore[misc]
            for name, decode, encode, seeds, form in bodies
        ),
        pure("frames.statistics", _statistics, lambda: _bodies(_some_statistics()), "msgpack"),
        pure("frames.infer", _infer, _infer_seeds),
        pure("frames.inferred", _inferred, _inferred_seeds),
    ]
