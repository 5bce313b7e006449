"""Tensors on the wire: in the frame or in the arena, what goes in comes out."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.contracts.manifest import TensorSpec
from serving.arena import Arena
from serving.frames import BrokenFrame, FrameBuffer, Kind, decode_arena, decode_cancel, encode_arena, encode_cancel
from serving.statistics import VersionStatistics, decode_statistics, encode_statistics
from serving.tensor_frames import INLINE, InferredReply, InferRequest, block_bytes
from serving.tensors import DTYPES, Tensor, join_bytes

SPECS = (TensorSpec("a", "FP32", (-1, -1)), TensorSpec("words", "BYTES", (-1,)), TensorSpec("n", "INT64", ()))
U64 = st.integers(0, 2**64 - 1)


@st.composite
def tensors_of(draw: st.DrawFn, spec: TensorSpec) -> Tensor:
    shape = tuple(draw(st.integers(0, 5)) for _ in spec.shape)
    tensor = Tensor(spec.name, spec.datatype, shape, b"")
    if spec.datatype == "BYTES":
        data = join_bytes(draw(st.lists(st.binary(max_size=9), min_size=tensor.elements, max_size=tensor.elements)))
    else:
        size = tensor.elements * DTYPES[spec.datatype].itemsize
        data = draw(st.binary(min_size=size, max_size=size))
    return Tensor(spec.name, spec.datatype, shape, data)


@st.composite
def infer_requests(draw: st.DrawFn) -> InferRequest:
    return InferRequest(
        number=draw(st.integers(0, 2**32 - 1)),
        slot=draw(st.integers(0, 2**16 - 1)),
        inputs=[draw(tensors_of(spec)) for spec in SPECS],
        wanted=draw(U64),
        deadline_us=draw(st.integers(0, 2**32 - 1)),
        priority=draw(st.integers(0, 255)),
    )


def body_of(encoded: bytes) -> bytes:
    [(_, body)] = FrameBuffer().feed(encoded)
    return body


def plain(tensor: Tensor) -> tuple[Any, ...]:
    return (tensor.name, tensor.datatype, tensor.shape, bytes(tensor.data))


@given(infer_requests(), st.booleans())
def test_a_request_arrives_as_it_was_sent(request: InferRequest, in_arena: bool) -> None:
    arena = Arena(1 << 16)
    if in_arena:
        size = block_bytes(request.inputs)
        start = arena.take(max(1, size))
        assert start is not None
        request.place(arena.memory, start, size)

    arrived = InferRequest.decode(body_of(request.encode()), lambda slot: SPECS, arena.memory)

    assert [plain(tensor) for tensor in arrived.inputs] == [plain(tensor) for tensor in request.inputs]
    for name in ("number", "slot", "wanted", "deadline_us", "priority", "start", "size"):
        assert getattr(arrived, name) == getattr(request, name)
    del arrived
    arena.close()


@given(infer_requests(), st.sets(st.integers(0, 2)), st.booleans())
def test_an_answer_arrives_as_it_was_sent(request: InferRequest, places: set[int], in_arena: bool) -> None:
    arena = Arena(1 << 16)
    outputs = [(place, request.inputs[place]) for place in sorted(places)]
    size = block_bytes(tensor for _, tensor in outputs)
    start = arena.take(max(1, size)) if in_arena else INLINE
    assert start is not None
    reply = InferredReply(request.number, outputs, start, 1.5, 2.5, 3.5)

    arrived = InferredReply.decode(body_of(reply.encode(arena.memory)), lambda number: (SPECS, size), arena.memory)

    assert [(place, plain(t)) for place, t in arrived.outputs] == [(place, plain(t)) for place, t in outputs]
    assert (arrived.number, arrived.queue_us, arrived.gather_us, arrived.device_us) == (request.number, 1.5, 2.5, 3.5)
    del arrived
    arena.close()


def test_a_request_for_a_slot_that_is_gone_is_read_without_its_tensors() -> None:
    request = InferRequest(7, 3, [Tensor("a", "FP32", (1, 1), b"\x00" * 4)], 1, 1000)

    arrived = InferRequest.decode(body_of(request.encode()), lambda slot: None, None)

    assert (arrived.number, arrived.inputs) == (7, [])


@given(infer_requests(), st.data())
def test_a_damaged_request_is_called_broken_or_stays_inside_its_bounds(
    request: InferRequest, data: st.DataObject
) -> None:
    body = bytearray(body_of(request.encode()))
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    damaged = bytes(body[: data.draw(st.integers(0, len(body)))])

    try:
        arrived = InferRequest.decode(damaged, lambda slot: SPECS, None)
    except BrokenFrame:
        return
    assert sum(len(tensor.data) for tensor in arrived.inputs) <= len(damaged)


def test_a_block_beyond_the_arena_is_called_broken() -> None:
    arena = Arena(4096)
    request = InferRequest(1, 1, [Tensor("a", "FP32", (10, 10), b"\x00" * 400)], 1, 1000, 0, 4000, 400)

    with pytest.raises(BrokenFrame, match="beyond"):
        InferRequest.decode(body_of(request.encode()), lambda slot: SPECS[:1], arena.memory)
    arena.close()


def test_a_tensor_in_a_block_of_a_request_that_has_none_is_called_broken() -> None:
    arena = Arena(4096)
    placed = InferRequest(1, 1, [Tensor("a", "FP32", (1, 1), b"\x00" * 4)], 1, 1000, 0, 64, 64)
    told = msgspec.msgpack.decode(body_of(placed.encode()))
    told[InferRequest.__struct_fields__.index("start")] = INLINE
    for size in (1, 4, 4096):
        told[InferRequest.__struct_fields__.index("inputs")][0][2] = size
        with pytest.raises(BrokenFrame, match="beyond"):
            InferRequest.decode(msgspec.msgpack.encode(told), lambda slot: SPECS[:1], arena.memory)
    arena.close()


@pytest.mark.parametrize(
    ("decode", "kind"), [(decode_arena, Kind.ARENA), (decode_cancel, Kind.CANCEL), (decode_statistics, Kind.STATISTICS)]
)
def test_garbage_is_called_broken(decode: Callable[[bytes], Any], kind: Kind) -> None:
    with pytest.raises(BrokenFrame):
        decode(b"\xc1\x00\x00")


def test_small_frames_carry_what_they_say() -> None:
    assert decode_arena(body_of(encode_arena(1 << 40))) == 1 << 40
    assert decode_cancel(body_of(encode_cancel(77))) == 77


def test_statistics_arrive_as_they_were_counted() -> None:
    counted = VersionStatistics("m", 3)
    counted.batch(requests=4, failed=1, rows=300, queue_us=30.0, gather_us=5.0, device_us=7.0, answer_us=2.0)
    counted.answered(requests=4, done=3, answer_us=1.0)

    assert decode_statistics(body_of(encode_statistics([counted]))) == [counted]
    assert (counted.success.count, counted.failed.count, counted.inferences, counted.executions) == (3, 1, 300, 1)
    assert counted.batches[4].device.ns == 7000
    assert (counted.answer.count, counted.answer.ns) == (3, 9000)
    assert (counted.batches[4].answer.count, counted.batches[4].answer.ns) == (1, 3000)
    assert counted.success.ns == 30_000 + 3 * (5000 + 7000 + 3000)
