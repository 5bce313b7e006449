"""A batch's journey: many arrays laid out in one block, so that each direction is a single copy."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from serving.device.streams import Device

ALIGNMENT_BYTES = 64
_TORCH: dict[str, torch.dtype] = {
    "uint8": torch.uint8,
    "int32": torch.int32,
    "int64": torch.int64,
    "float32": torch.float32,
    "float64": torch.float64,
}


@dataclass(frozen=True, slots=True)
class _Part:
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Layout:
    """Where each array lies in a block of `size_bytes`."""

    parts: Mapping[str, _Part]
    size_bytes: int

    @staticmethod
    def of(wanted: Mapping[str, tuple[str, Sequence[int]]]) -> "Layout":
        """By name: dtype and shape. Every array starts at a multiple of 64 bytes.

        >>> Layout.of({"a": ("uint8", (3,)), "b": ("float32", (2, 2))}).size_bytes
        80
        """
        parts: dict[str, _Part] = {}
        at = 0
        for name, (dtype, shape) in wanted.items():
            start = -(-at // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
            at = start + math.prod(shape) * np.dtype(dtype).itemsize
            parts[name] = _Part(np.dtype(dtype), tuple(shape), start, at)
        return Layout(parts, at)

    def on_host(self, block: torch.Tensor) -> dict[str, NDArray[Any]]:
        """Views of a block in host memory."""
        raw: NDArray[np.uint8] = block.numpy()
        return {
            name: raw[part.start : part.stop].view(part.dtype).reshape(part.shape) for name, part in self.parts.items()
        }

    def on_device(self, block: torch.Tensor) -> dict[str, torch.Tensor]:
        """Views of a block in device memory."""
        return {
            name: block[part.start : part.stop].view(_TORCH[part.dtype.name]).view(part.shape)
            for name, part in self.parts.items()
        }


class Holder(Protocol):
    """Whoever uses a slot until its batch is over."""

    def finish(self) -> None:
        """Waits for the batch and lets go of the slot."""
        ...


class Slot:
    """The memory of one batch under way, both ways, on both sides. Grows to what batches need."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self.holder: Holder | None = None
        self.host_in = self.host_out = device.pinned(0)
        self.device_in = self.device_out = device.empty((0,), torch.uint8)

    def grow(self, in_bytes: int, out_bytes: int) -> None:
        """Room for so much. Only while no batch uses the slot."""
        if len(self.host_in) < in_bytes:
            self.host_in, self.device_in = self._pair(in_bytes)
        if len(self.host_out) < out_bytes:
            self.host_out, self.device_out = self._pair(out_bytes)

    def _pair(self, size_bytes: int) -> tuple[torch.Tensor, torch.Tensor]:
        room = 1 << max(12, (size_bytes - 1).bit_length())
        return self._device.pinned(room), self._device.empty((room,), torch.uint8)


class StagingRing:
    """Slots in turn: with two, a batch is staged while the one before computes."""

    def __init__(self, device: Device, depth: int) -> None:
        self._slots = [Slot(device) for _ in range(depth)]
        self._next = 0

    def take(self) -> Slot:
        """The slot that has been used longest ago; its batch is finished first if it still runs."""
        slot = self._slots[self._next]
        self._next = (self._next + 1) % len(self._slots)
        if slot.holder is not None:
            slot.holder.finish()
        return slot
