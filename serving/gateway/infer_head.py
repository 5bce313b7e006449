"""The JSON head of an inference request: its text into records, numbers straight into arrays.

A head is small beside binary data and large when it carries the data itself. The small one costs
least through a typed decoder. Of a large one the FP32 arrays are cut out (`float_arrays`), which
leaves a small one; where that cannot be, simdjson reads it and makes no object per number.

Source: Open Inference Protocol v2, inference request; binary tensor data, classification, system
shared memory and parameters extensions.
"""

import json
import math
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
import numpy as np
import simdjson

from serving.errors import QueryRefused
from serving.gateway.float_arrays import without_floats
from serving.gateway.json_tensors import FLOATS
from serving.tensors import DTYPES

_LARGE_BYTES = 4096
_KEPT_BYTES = 1 << 20  # of the text that the kept parser has room for; its buffers are some nine times that


class InputParameters(msgspec.Struct, gc=False):
    """Where an input's data is if not in `data`. Others than these are ignored."""

    binary_data_size: int | None = None
    shared_memory_region: str | None = None
    shared_memory_offset: int = 0
    shared_memory_byte_size: int | None = None


class InputHead(msgspec.Struct, gc=False):
    """data: None if there is none, else a list or a flat array of numbers (see `tensor_of_json`)."""

    name: str
    datatype: str
    shape: list[int]
    parameters: InputParameters | None = None
    data: Any = None


class OutputParameters(msgspec.Struct, gc=False):
    """How an output is wanted. classification: so many classes instead of the values."""

    binary_data: bool | None = None
    classification: int = 0
    shared_memory_region: str | None = None
    shared_memory_offset: int = 0
    shared_memory_byte_size: int | None = None


class OutputHead(msgspec.Struct, gc=False):
    """An output that is wanted."""

    name: str
    parameters: OutputParameters | None = None


class RequestParameters(msgspec.Struct, gc=False):
    """timeout: microseconds, 0 for the default. unit: whose arm is sticky (ours)."""

    binary_data_output: bool = False
    priority: int = 0
    timeout: int = 0
    unit: str = ""
    sequence_id: int | str = 0


class RequestHead(msgspec.Struct, gc=False):
    """One request without its binary data."""

    inputs: list[InputHead]
    outputs: list[OutputHead] = []
    id: str = ""
    parameters: RequestParameters | None = None


_decoder = msgspec.json.Decoder(RequestHead)
_parser = simdjson.Parser()


def read_head(text: bytes, max_json_bytes: int) -> RequestHead:
    """The records in a head. Raises QueryRefused, naming the field and the rule."""
    if len(text) > max_json_bytes:
        raise QueryRefused(
            f"body: {len(text)} bytes of JSON, expected at most {max_json_bytes}: send tensors as binary data"
        )
    try:
        if len(text) <= _LARGE_BYTES:
            if not text.isascii():
                text.decode()  # names that it does not know, the decoder does not look at
            return _decoder.decode(text)
        return _by_parts(text) or msgspec.convert(_large(text), RequestHead)
    except msgspec.ValidationError as error:
        raise _refused(error) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, _NotPlain):
        pass
    return _unusual(text)


def _by_parts(text: bytes) -> RequestHead | None:
    """The head with its FP32 arrays read apart; None if it is not plainly one of those."""
    parts = without_floats(text)
    if parts is None or len(parts[0]) > _LARGE_BYTES or not parts[0].isascii():
        return None
    rest, arrays = parts
    try:
        head = _decoder.decode(rest)
    except (msgspec.DecodeError, RecursionError):
        return None  # the other reader says why
    for given in head.inputs:
        if type(given.data) is int and given.datatype == "FP32":
            given.data = arrays.pop(given.data, given.data)
    return None if arrays else head


class _NotPlain(Exception):
    """simdjson does not read this: NaN, numbers beyond 64 bits, or no JSON at all."""


def _large(text: bytes) -> dict[str, Any]:
    """The head as plain values, `data` of numeric inputs as arrays. Raises _NotPlain.

    No exception leaves with a piece of the document: the parser takes no other text until all are gone.
    """
    parser = _parser if len(text) <= _KEPT_BYTES else simdjson.Parser()
    try:
        return _plain(parser.parse(text))
    except (ValueError, TypeError, RuntimeError, MemoryError, RecursionError):  # what its errors become in Python
        pass
    raise _NotPlain


def _plain(document: Any) -> dict[str, Any]:
    if not isinstance(document, simdjson.Object):
        raise TypeError
    head: dict[str, Any] = {}
    for name in _known(document, RequestHead.__struct_fields__):
        value = document[name]
        if name == "inputs" and isinstance(value, simdjson.Array):
            head[name] = [_plain_input(one) for one in value]
        else:
            head[name] = _value(value)
    return head


def _plain_input(given: Any) -> Any:
    if not isinstance(given, simdjson.Object):
        return _value(given)
    plain = {
        name: given[name] if name == "data" else _value(given[name])
        for name in _known(given, InputHead.__struct_fields__)
    }
    data = plain.get("data")
    if isinstance(data, simdjson.Array):
        plain["data"] = _values(data, plain.get("datatype"))
    return plain


def _values(data: simdjson.Array, datatype: Any) -> Any:
    """The elements of a tensor: numbers as a flat array."""
    if datatype in FLOATS:
        return np.frombuffer(data.as_buffer(of_type="d"), np.float64)
    if datatype == "UINT64":
        return np.frombuffer(data.as_buffer(of_type="u"), np.uint64)
    if datatype in DTYPES and datatype != "BOOL":
        return np.frombuffer(data.as_buffer(of_type="i"), np.int64)
    return data.as_list()


def _known(given: simdjson.Object, known: Sequence[str]) -> Iterable[str]:
    """The known fields that are there: looking for one that is not costs as much as an exception does,
    and one for each that a client thinks up would be a scan for each."""
    return {key: None for key in given if key in known}


def _value(value: Any) -> Any:
    if isinstance(value, simdjson.Array):
        return value.as_list()
    return value.as_dict() if isinstance(value, simdjson.Object) else value


def _unusual(text: bytes) -> RequestHead:
    """Slower and with more words: NaN and Infinity, and what exactly is wrong with the rest."""
    try:
        head = msgspec.convert(json.loads(text.decode(), parse_float=_finite), RequestHead)
        "".join([head.id, *(one.name for one in head.inputs), *(one.name for one in head.outputs)]).encode()
        return head
    except msgspec.ValidationError as error:
        raise _refused(error) from error
    except RecursionError as error:
        raise QueryRefused("body: nested too deeply, expected arrays no deeper than a tensor's dimensions") from error
    except ValueError as error:
        raise QueryRefused(f"body: not JSON ({error})") from error


def _finite(text: str) -> float:
    if math.isinf(value := float(text)):
        raise ValueError(f"number {text[:32]} is out of range")
    return value


def _refused(error: msgspec.ValidationError) -> QueryRefused:
    rule, _, path = str(error).partition(" - at `")
    field = path.rstrip("`").removeprefix("$").lstrip(".") or "body"
    return QueryRefused(f"{field}: {rule[:1].lower()}{rule[1:]}")
