"""Tensor requests on the wire between gateway and worker.

`INFER` asks for one request's outputs, `INFERRED` answers by its number. Tensors are named by
their place in the version's manifest. Their bytes lie in the connection's arena, one after the
other at multiples of 64, or in the frame itself where there is no arena or no room in it. A worker
answers into the request's own block if the outputs are large and fit.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Annotated

import msgspec

from registry.contracts.manifest import TensorSpec
from serving.arena import ALIGNMENT_BYTES
from serving.frames import U8, U16, U32, BrokenFrame, Kind, decoded, large_message, message
from serving.tensors import MAX_DIMENSIONS, Tensor

INLINE = -1
"""Instead of a block's start: the tensors are in the frame."""
MAX_OUTPUTS = 64
ALL_OUTPUTS = (1 << MAX_OUTPUTS) - 1

_Size = Annotated[int, msgspec.Meta(ge=0)]
_Start = Annotated[int, msgspec.Meta(ge=INLINE)]
_Shape = Annotated[tuple[_Size, ...], msgspec.Meta(max_length=MAX_DIMENSIONS)]


class _Tensor(msgspec.Struct, array_like=True, gc=False):
    """place: in the manifest. data: in the frame (read as a view of it), or how many bytes lie in the block."""

    place: _Size
    shape: _Shape
    data: memoryview | _Size


class _Infer(msgspec.Struct, array_like=True, gc=False):
    """An InferRequest on the wire."""

    number: U32
    slot: U16
    inputs: list[_Tensor]
    wanted: int
    deadline_us: U32
    priority: U8
    start: _Start
    size: _Size


class _Inferred(msgspec.Struct, array_like=True, gc=False):
    """An InferredReply on the wire."""

    number: U32
    outputs: list[_Tensor]
    start: _Start
    queue_us: float
    gather_us: float
    device_us: float


_infer_decoder = msgspec.msgpack.Decoder(_Infer)
_inferred_decoder = msgspec.msgpack.Decoder(_Inferred)


class InferRequest(msgspec.Struct):
    """One request for a worker. inputs: all of the manifest's, in its order.

    wanted: bit i asks for output i. start: of the block that holds the inputs, or INLINE.
    deadline_us: from now.
    """

    number: int
    slot: int
    inputs: list[Tensor]
    wanted: int
    deadline_us: int
    priority: int = 0
    start: int = INLINE
    size: int = 0

    def place(self, memory: memoryview, start: int, size: int) -> None:
        """Copies the inputs into a block."""
        self.start, self.size = start, size
        _lay_out(memory, start, self.inputs)

    def encode(self) -> bytes | bytearray:
        """The frame's bytes."""
        inline = self.start == INLINE
        told = _Infer(
            self.number,
            self.slot,
            _told(enumerate(self.inputs), inline),
            self.wanted,
            self.deadline_us,
            self.priority,
            self.start,
            self.size,
        )
        return large_message(Kind.INFER, told) if inline else message(Kind.INFER, told)

    @staticmethod
    def decode(
        body: bytes, specs_of: Callable[[int], Sequence[TensorSpec] | None], memory: memoryview | None
    ) -> "InferRequest":
        """specs_of: a slot's input specs, None if there is no such slot (the inputs are then left out).

        Raises BrokenFrame if counts, sizes or places do not add up.
        """
        told = decoded(_infer_decoder, body)
        specs = specs_of(told.slot)
        inputs: list[Tensor] = []
        if specs is not None:
            if len(told.inputs) != len(specs):
                raise BrokenFrame(f"an INFER frame has {len(told.inputs)} tensors, the version {len(specs)}")
            inputs = [tensor for _, tensor in _tensors(told.inputs, specs, told.start, told.size, memory)]
        return InferRequest(
            told.number, told.slot, inputs, told.wanted, told.deadline_us, told.priority, told.start, told.size
        )


class InferredReply(msgspec.Struct):
    """One answer. outputs: the wanted ones by their place in the manifest.

    start: of the block that holds them, or INLINE.
    """

    number: int
    outputs: list[tuple[int, Tensor]]
    start: int = INLINE
    queue_us: float = 0.0
    gather_us: float = 0.0
    device_us: float = 0.0

    def encode(self, memory: memoryview | None = None) -> bytes:
        """The frame's bytes; outputs with a block are copied into the arena's memory."""
        if self.start != INLINE and memory is not None:
            _lay_out(memory, self.start, [tensor for _, tensor in self.outputs])
        outputs = _told(self.outputs, self.start == INLINE)
        return message(
            Kind.INFERRED,
            _Inferred(self.number, outputs, self.start, self.queue_us, self.gather_us, self.device_us),
        )

    @staticmethod
    def decode(
        body: bytes, specs_of: Callable[[int], tuple[Sequence[TensorSpec], int]], memory: memoryview | None
    ) -> "InferredReply":
        """specs_of: output specs of the version asked by a number, and its block's bytes.

        Raises BrokenFrame if counts, sizes or places do not add up.
        """
        told = decoded(_inferred_decoder, body)
        specs, size = specs_of(told.number)
        outputs = _tensors(told.outputs, specs, told.start, size, memory)
        return InferredReply(told.number, outputs, told.start, told.queue_us, told.gather_us, told.device_us)


def _padded(size: int) -> int:
    return -(-size // ALIGNMENT_BYTES) * ALIGNMENT_BYTES


def _lay_out(memory: memoryview, start: int, tensors: Iterable[Tensor]) -> None:
    """Copies tensors into a block, one after the other, as `block_bytes` counts them."""
    for tensor in tensors:
        memory[start : start + len(tensor.data)] = tensor.data
        start += _padded(len(tensor.data))


def block_bytes(tensors: Iterable[Tensor]) -> int:
    """What a block must hold for these tensors."""
    return sum([_padded(len(tensor.data)) for tensor in tensors])


def _told(tensors: Iterable[tuple[int, Tensor]], inline: bool) -> list[_Tensor]:
    if inline:
        return [_Tensor(place, tensor.shape, memoryview(tensor.data)) for place, tensor in tensors]
    return [_Tensor(place, tensor.shape, len(tensor.data)) for place, tensor in tensors]


def _tensors(
    told: Sequence[_Tensor], specs: Sequence[TensorSpec], start: int, size: int, memory: memoryview | None
) -> list[tuple[int, Tensor]]:
    """By their place. Their data is in the frame, or in the block [start, start + size)."""
    at = end = 0  # no block: nothing lies there
    if start != INLINE:
        if memory is None:
            raise BrokenFrame("a frame points into an arena that this connection has not")
        at, end = start, min(start + size, len(memory))
    tensors = []
    for one in told:
        place, data = one.place, one.data
        if place >= len(specs):
            raise BrokenFrame(f"tensor {place}: the version has {len(specs)}")
        if isinstance(data, int):
            stop = at + data
            if stop > end or memory is None:
                raise BrokenFrame("a tensor reaches beyond its frame or block")
            data, at = memory[at:stop], -(-stop // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
        spec = specs[place]
        tensors.append((place, Tensor(spec.name, spec.datatype, one.shape, data)))
    return tensors
