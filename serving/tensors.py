"""Tensors as they travel: the Open Inference Protocol's datatypes, in raw little-endian bytes.

BF16 has no numpy type: its values are `uint16` bit patterns. BYTES elements are variable, each a
little-endian u32 length and that many bytes.

Source: Open Inference Protocol v2, tensor data and binary tensor data extension.
"""

import math
import struct
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from serving.errors import QueryRefused

MAX_DIMENSIONS = 32
DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype("?"),
    "UINT8": np.dtype("u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
    "BF16": np.dtype("<u2"),
}
DATATYPES = (*DTYPES, "BYTES")
_LENGTH = struct.Struct("<I")


class Tensor(msgspec.Struct):
    """One named tensor. shape: no dynamic dimensions; data: C order, see the module.

    data of a fixed datatype may be a view of a buffer that its owner reuses after the answer.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: bytes | memoryview

    @property
    def elements(self) -> int:
        """How many values it has; 1 for a scalar."""
        return math.prod(self.shape)

    def array(self) -> NDArray[Any]:
        """The values, sharing memory with `data`; BYTES as an object array of `bytes`."""
        if self.datatype == "BYTES":
            values = np.empty(self.elements, dtype=object)
            values[:] = split_bytes(self.name, self.data, self.elements)
            return values.reshape(self.shape)
        return np.frombuffer(self.data, DTYPES[self.datatype]).reshape(self.shape)

    @staticmethod
    def of(name: str, datatype: str, values: NDArray[Any]) -> "Tensor":
        """The tensor of these values, copied if they are not in order. BYTES: an object array of `bytes`."""
        if datatype == "BYTES":
            return Tensor(name, datatype, values.shape, join_bytes(values.reshape(-1).tolist()))
        ordered = np.ascontiguousarray(values, dtype=DTYPES[datatype])
        return Tensor(name, datatype, values.shape, ordered.reshape(-1).view(np.uint8).data)


def check_tensor(tensor: Tensor) -> None:
    """Raises QueryRefused, naming the tensor and the rule, unless its data is what datatype and shape say."""
    name, shape = tensor.name, list(tensor.shape)
    if tensor.datatype not in DATATYPES:
        raise QueryRefused(f"input {name!r}: datatype {tensor.datatype!r}, expected one of {', '.join(DATATYPES)}")
    if len(shape) > MAX_DIMENSIONS or any(size < 0 for size in shape):
        raise QueryRefused(f"input {name!r}: shape {shape}, expected at most {MAX_DIMENSIONS} sizes of 0 or more")
    if tensor.datatype == "BYTES":
        split_bytes(name, tensor.data, tensor.elements)
        return
    expected = tensor.elements * DTYPES[tensor.datatype].itemsize
    if len(tensor.data) != expected:
        raise QueryRefused(
            f"input {name!r}: {len(tensor.data)} bytes, expected {expected} for {tensor.datatype} of shape {shape}"
        )
    if tensor.datatype == "BOOL" and expected and np.frombuffer(tensor.data, np.uint8).max() > 1:
        raise QueryRefused(f"input {name!r}: a BOOL byte is neither 0 nor 1")


def split_bytes(name: str, data: bytes | memoryview, count: int) -> list[bytes]:
    """The elements of a BYTES tensor. Raises QueryRefused if there are not exactly `count` of them."""
    raw, at = bytes(data), 0
    elements: list[bytes] = []
    while at + _LENGTH.size <= len(raw) and len(elements) < count:
        start = at + _LENGTH.size
        at = start + _LENGTH.unpack_from(raw, at)[0]
        if at > len(raw):
            break
        elements.append(raw[start:at])
    if len(elements) != count or at != len(raw):
        raise QueryRefused(
            f"input {name!r}: {len(raw)} bytes do not hold exactly {count} BYTES elements, "
            "each a little-endian u32 length and its bytes"
        )
    return elements


def join_bytes(elements: Sequence[bytes]) -> bytes:
    """The data of a BYTES tensor.

    >>> split_bytes("x", join_bytes([b"ab", b""]), 2)
    [b'ab', b'']
    """
    return b"".join(part for element in elements for part in (_LENGTH.pack(len(element)), element))
