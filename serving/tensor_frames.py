"""Tensor requests on the wire between gateway and worker.

`INFER` asks for one request's outputs, `INFERRED` answers by its number. Tensors are named by
their place in the version's manifest. Their bytes lie in the connection's arena, one after the
other at multiples of 64, or in the frame itself where there is no arena or no room in it. A worker
answers into the request's own block if the outputs are large and fit.
"""

import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from registry.contracts.manifest import TensorSpec
from serving.arena import ALIGNMENT_BYTES
from serving.frames import BrokenFrame, Kind, frame
from serving.tensors import MAX_DIMENSIONS, Tensor

INLINE = 0xFFFF_FFFF_FFFF_FFFF
"""Instead of a block's start: the tensors are in the frame."""
MAX_OUTPUTS = 64
ALL_OUTPUTS = (1 << MAX_OUTPUTS) - 1

# number, slot, priority, tensors, deadline_us, wanted outputs (a bit each), block start, block bytes
_INFER = struct.Struct("<IHBBIQQQ")
# number, tensors, block start, queue_us, gather_us, device_us
_INFERRED = struct.Struct("<IBQfff")
# place in the manifest, dimensions, bytes
_TENSOR = struct.Struct("<BBQ")
_SIZES = [struct.Struct(f"<{dimensions}Q") for dimensions in range(MAX_DIMENSIONS + 1)]
_TENSOR_AND_SIZES = [struct.Struct(f"<BBQ{dimensions}Q") for dimensions in range(MAX_DIMENSIONS + 1)]


@dataclass(slots=True)
class InferRequest:
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

    def encode(self) -> bytes:
        """The frame's bytes."""
        head = _INFER.pack(
            self.number,
            self.slot,
            self.priority,
            len(self.inputs),
            self.deadline_us,
            self.wanted,
            self.start,
            self.size,
        )
        return frame(Kind.INFER, head, *_tensor_parts(enumerate(self.inputs), self.start == INLINE))

    @staticmethod
    def decode(
        body: bytes, specs_of: Callable[[int], Sequence[TensorSpec] | None], memory: memoryview | None
    ) -> "InferRequest":
        """specs_of: a slot's input specs, None if there is no such slot (the inputs are then left out).

        Raises BrokenFrame if counts, sizes or places do not add up.
        """
        try:
            number, slot, priority, count, deadline_us, wanted, start, size = _INFER.unpack_from(body)
            specs = specs_of(slot)
            inputs: list[Tensor] = []
            if specs is not None:
                if count != len(specs):
                    raise BrokenFrame(f"an INFER frame has {count} tensors, the version {len(specs)}")
                inputs = [t for _, t in _read_tensors(body, _INFER.size, count, specs, start, size, memory)]
        except struct.error as error:
            raise BrokenFrame("an INFER frame is shorter than its counts say") from error
        return InferRequest(number, slot, inputs, wanted, deadline_us, priority, start, size)


@dataclass(slots=True)
class InferredReply:
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
        head = _INFERRED.pack(self.number, len(self.outputs), self.start, self.queue_us, self.gather_us, self.device_us)
        if self.start != INLINE and memory is not None:
            _lay_out(memory, self.start, [tensor for _, tensor in self.outputs])
        return frame(Kind.INFERRED, head, *_tensor_parts(self.outputs, self.start == INLINE))

    @staticmethod
    def decode(
        body: bytes, specs_of: Callable[[int], tuple[Sequence[TensorSpec], int]], memory: memoryview | None
    ) -> "InferredReply":
        """specs_of: output specs of the version asked by a number, and its block's bytes.

        Raises BrokenFrame if counts, sizes or places do not add up.
        """
        try:
            number, count, start, queue_us, gather_us, device_us = _INFERRED.unpack_from(body)
            specs, size = specs_of(number)
            outputs = _read_tensors(body, _INFERRED.size, count, specs, start, size, memory)
        except struct.error as error:
            raise BrokenFrame("an INFERRED frame is shorter than its counts say") from error
        return InferredReply(number, outputs, start, queue_us, gather_us, device_us)


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


def _tensor_parts(tensors: Iterable[tuple[int, Tensor]], inline: bool) -> list[bytes | memoryview]:
    heads: list[bytes | memoryview] = []
    data: list[bytes | memoryview] = []
    for place, tensor in tensors:
        dimensions = len(tensor.shape)
        heads.append(_TENSOR_AND_SIZES[dimensions].pack(place, dimensions, len(tensor.data), *tensor.shape))
        if inline:
            data.append(tensor.data)
    return heads + data


def _read_tensors(
    body: bytes,
    at: int,
    count: int,
    specs: Sequence[TensorSpec],
    start: int,
    size: int,
    memory: memoryview | None,
) -> list[tuple[int, Tensor]]:
    """Heads first, then the data: in the frame, or in the block [start, start + size)."""
    heads = []
    for _ in range(count):
        place, dimensions, length = _TENSOR.unpack_from(body, at)
        if place >= len(specs) or dimensions > MAX_DIMENSIONS:
            raise BrokenFrame(f"tensor {place} of {dimensions} dimensions: the version has {len(specs)} tensors")
        sizes = _SIZES[dimensions]
        at += _TENSOR.size
        heads.append((place, sizes.unpack_from(body, at), length))
        at += sizes.size
    if start == INLINE:
        source, end, step = memoryview(body), len(body), 1
    elif memory is None:
        raise BrokenFrame("a frame points into an arena that this connection has not")
    else:
        source, at, end, step = memory, start, min(start + size, len(memory)), ALIGNMENT_BYTES
    tensors = []
    for place, shape, length in heads:
        if at + length > end:
            raise BrokenFrame("a tensor reaches beyond its frame or block")
        spec = specs[place]
        tensors.append((place, Tensor(spec.name, spec.datatype, shape, source[at : at + length])))
        at += -(-length // step) * step
    return tensors
