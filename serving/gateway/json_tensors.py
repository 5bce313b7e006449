"""Tensor data as JSON: numbers, booleans and strings, flat or nested, to bytes and back.

FP16 and BF16 travel as numbers too. NaN and Infinity are taken and given as the bare words that
Triton's clients and servers use, although strict JSON knows neither.

Source: Open Inference Protocol v2, tensor data.
"""

import json
import math
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from serving.errors import QueryRefused
from serving.tensors import DTYPES, Tensor, join_bytes, split_bytes

FLOATS = frozenset({"FP16", "FP32", "FP64", "BF16"})
_INT_LIMITS = {
    name: (int(np.iinfo(dtype).min), int(np.iinfo(dtype).max))
    for name, dtype in DTYPES.items()
    if dtype.kind in "iu" and name != "BF16"
}
_BF16_NAN = 0x7FC0


def tensor_of_json(name: str, datatype: str, shape: tuple[int, ...], data: Any) -> Tensor:
    """The tensor of an input's `data`.

    data: what stood there: a list, nested or flat, or a flat array of numbers (float64, int64 or
    uint64, as `datatype` asks, or the float32 of FP32 itself). Nothing is allocated for what the
    shape merely claims.

    Raises QueryRefused, naming tensor and rule, if count, kind or range of the elements is not what
    datatype and shape say.
    """
    values = data if isinstance(data, np.ndarray) else _flat(name, data)
    expected = math.prod(shape)
    if len(values) != expected:
        raise QueryRefused(
            f"input {name!r}: {len(values)} elements in data, expected {expected} for shape {list(shape)}"
        )
    if datatype == "BYTES":
        return Tensor(name, datatype, shape, join_bytes([_text(name, value) for value in values]))
    if datatype == "BOOL":
        return Tensor(name, datatype, shape, bytes(_of_kind(name, datatype, values, {bool}, "true or false")))
    if datatype in FLOATS:
        narrow = _narrow(name, datatype, _floats(name, datatype, values))
    else:
        narrow = _integers(name, datatype, values)
    return Tensor(name, datatype, shape, narrow.view(np.uint8).data)


def json_of_tensor(tensor: Tensor) -> bytes:
    """Its elements as a flat JSON array.

    Raises QueryRefused if BYTES are not UTF-8: JSON cannot carry them.
    """
    if tensor.datatype == "BYTES":
        return _json_of_bytes(tensor)
    values = tensor.array().reshape(-1)
    if tensor.datatype == "BF16":
        values = (values.astype("<u4") << 16).view("<f4")
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        return json.dumps(values.tolist(), separators=(",", ":")).encode()
    return orjson.dumps(np.ascontiguousarray(values), option=orjson.OPT_SERIALIZE_NUMPY)


def bf16_of(values: NDArray[np.float64]) -> NDArray[np.uint16]:
    """The nearest BF16 bit patterns, ties to even.

    >>> [hex(bits) for bits in bf16_of(np.array([1.0, 1.00390625, 1.01171875]))]
    ['0x3f80', '0x3f80', '0x3f82']
    """
    with np.errstate(over="ignore"):
        single = values.astype("<f4")
    bits = single.view("<u4")
    # a value rounded twice could fall on a tie that it was not: the first rounding goes to the odd neighbour
    inexact = (single != values) & np.isfinite(single) & (bits & 1 == 0)
    odd = np.where(np.abs(single) > np.abs(values), bits - 1, bits + 1)
    bits = np.where(inexact, odd, bits).astype("<u4")
    rounded = ((bits + (0x7FFF + ((bits >> 16) & 1))) >> 16).astype("<u2")
    return np.where(np.isnan(values), np.uint16(_BF16_NAN), rounded).astype("<u2")


def _flat(name: str, data: Any) -> list[Any]:
    """The elements of nested lists, in order; without recursion, whatever the depth."""
    if not isinstance(data, list):
        raise QueryRefused(f"input {name!r}: data is no array")
    if list not in set(map(type, data)):
        return data
    elements: list[Any] = []
    waiting = [iter(data)]
    while waiting:
        for value in waiting[-1]:
            if isinstance(value, list):
                waiting.append(iter(value))
                break
            elements.append(value)
        else:
            waiting.pop()
    return elements


def _of_kind(name: str, datatype: str, values: Any, kinds: set[type], rule: str) -> Any:
    if not set(map(type, values)) <= kinds:
        at = next(i for i, value in enumerate(values) if type(value) not in kinds)
        raise QueryRefused(f"input {name!r}: element {at} of data is no {datatype}, expected {rule}")
    return values


def _text(name: str, value: Any) -> bytes:
    if not isinstance(value, str):
        raise QueryRefused(f"input {name!r}: an element of data is no string; BYTES as JSON are strings")
    try:
        return value.encode()
    except UnicodeEncodeError as error:
        raise QueryRefused(f"input {name!r}: a string in data is not Unicode text") from error


def _floats(name: str, datatype: str, values: Any) -> NDArray[np.float64]:
    if isinstance(values, np.ndarray):
        return values
    try:
        return np.array(_of_kind(name, datatype, values, {int, float}, "numbers"), dtype=np.float64)
    except OverflowError as error:
        raise _out_of_range(name, datatype) from error


def _narrow(name: str, datatype: str, values: NDArray[np.float64]) -> NDArray[Any]:
    """In the datatype's precision, unless they are already. What becomes infinite by that is out of range."""
    if datatype == "FP64" or values.dtype == np.float32:
        return values
    if datatype == "BF16":
        bits = bf16_of(values)
        overflown = (bits & 0x7FFF == 0x7F80) & np.isfinite(values)
        narrow: NDArray[Any] = bits
    else:
        with np.errstate(over="ignore"):
            narrow = values.astype(DTYPES[datatype])
        if np.isfinite(narrow).all():
            return narrow
        overflown = np.isinf(narrow) & np.isfinite(values)
    if overflown.any():
        raise _out_of_range(name, datatype)
    return narrow


def _integers(name: str, datatype: str, values: Any) -> NDArray[Any]:
    least, most = _INT_LIMITS[datatype]
    if not isinstance(values, np.ndarray):
        values = _of_kind(name, datatype, values, {int}, "whole numbers")
    if len(values) and not (least <= min_of(values) and max_of(values) <= most):
        raise _out_of_range(name, datatype, f", expected {least} to {most}")
    return np.asarray(values, dtype=DTYPES[datatype])


def min_of(values: Any) -> int:
    """Of an array or a list."""
    return int(values.min()) if isinstance(values, np.ndarray) else min(values)


def max_of(values: Any) -> int:
    """Of an array or a list."""
    return int(values.max()) if isinstance(values, np.ndarray) else max(values)


def _out_of_range(name: str, datatype: str, rule: str = "") -> QueryRefused:
    return QueryRefused(f"input {name!r}: a number in data is outside {datatype}'s range{rule}")


def _json_of_bytes(tensor: Tensor) -> bytes:
    elements = split_bytes(tensor.name, tensor.data, tensor.elements)
    try:
        return orjson.dumps([element.decode() for element in elements])
    except UnicodeDecodeError as error:
        raise QueryRefused(
            f"output {tensor.name!r}: an element is not UTF-8, which JSON cannot carry: ask for it with binary_data"
        ) from error
