"""Requests like those seen before, read without protobuf: only their tensors are new.

A client that asks one model again and again sends the same bytes around its raw tensors, and its
request id. Those bytes are read once; the tensors are views of the message.

Source: Protocol Buffers, encoding.
"""

import functools
import math
from dataclasses import dataclass

from google.protobuf.message import DecodeError

from serving.errors import QueryRefused
from serving.gateway.grpc.tensors import version_of
from serving.gateway.oip_request import MAX_TENSORS, check_distinct
from serving.gateway.protos.open_inference_pb2 import ModelInferRequest, ModelInferResponse
from serving.infer import InferAnswer, InferQuery
from serving.tensors import DTYPES, MAX_DIMENSIONS, Tensor

REMEMBERED_BYTES = 2048

_LENGTH_DELIMITED = 2
_ID_TAG = ModelInferRequest.ID_FIELD_NUMBER << 3 | _LENGTH_DELIMITED
_RAW_TAG = ModelInferRequest.RAW_INPUT_CONTENTS_FIELD_NUMBER << 3 | _LENGTH_DELIMITED
_ANSWERS_ID_TAG = bytes((ModelInferResponse.ID_FIELD_NUMBER << 3 | _LENGTH_DELIMITED,))
_ANSWERS_RAW_TAG = bytes((ModelInferResponse.RAW_OUTPUT_CONTENTS_FIELD_NUMBER << 3 | _LENGTH_DELIMITED,))
_MAX_VARINT_BYTES = 5
_ITEM_BYTES = {name: dtype.itemsize for name, dtype in DTYPES.items() if name != "BOOL"}  # whose values are looked at

Pieces = tuple[bytes, bytes, list[memoryview]]
"""A request's bytes without id and raw tensors, its id, its raw tensors."""


@dataclass(frozen=True, slots=True)
class Layout:
    """What the remembered bytes say. inputs: name, datatype, shape and bytes of each, in order."""

    model: str
    version: int | None
    inputs: tuple[tuple[str, str, tuple[int, ...], int], ...]
    outputs: tuple[str, ...]

    def query(self, id: str, raw: list[memoryview], deadline_ms: int) -> InferQuery | None:
        """The query with these tensors; None if they are not what the layout needs."""
        if len(raw) != len(self.inputs):
            return None
        inputs: list[Tensor] = []
        for (name, datatype, shape, size), data in zip(self.inputs, raw, strict=True):
            if len(data) != size:
                return None
            inputs.append(Tensor(name, datatype, shape, data))
        return InferQuery(self.model, inputs, self.outputs, self.version, id, deadline_ms=deadline_ms)


def pieces_of(message: bytes | memoryview) -> Pieces | None:
    """A ModelInferRequest taken apart; None if it is not plainly a sequence of fields with lengths.

    >>> message = ModelInferRequest(model_name="m", id="a", raw_input_contents=[b"12"]).SerializeToString()
    >>> rest, id, raw = pieces_of(message)
    >>> ModelInferRequest.FromString(rest).model_name, id, [bytes(one) for one in raw]
    ('m', b'a', [b'12'])
    """
    view, at, end = memoryview(message), 0, len(message)
    rest: list[memoryview] = []
    raw: list[memoryview] = []
    id = b""
    while at < end:
        start, tag = at, view[at]
        if tag & 0x87 != _LENGTH_DELIMITED:  # a field beyond 15, or of another wire type
            return None
        at += 1
        size = shift = 0
        while True:
            if at >= end or shift == 7 * _MAX_VARINT_BYTES:
                return None
            byte = view[at]
            at += 1
            size |= (byte & 0x7F) << shift
            if byte < 0x80:
                break
            shift += 7
        beyond = at + size
        if beyond > end:
            return None
        if tag == _RAW_TAG:
            raw.append(view[at:beyond])
        elif tag == _ID_TAG:
            id = bytes(view[at:beyond])
        else:
            rest.append(view[start:beyond])
        at = beyond
    return b"".join(rest), id, raw


@functools.lru_cache(maxsize=256)
def layout_of(rest: bytes) -> Layout | None:
    """The layout of a request without id and raw tensors; None if it needs a closer look.

    That is: parameters of any kind, typed contents, tensors whose bytes have rules of their own
    (BOOL, BYTES), empty ones, and whatever is wrong.
    """
    try:
        request = ModelInferRequest.FromString(rest)
        version = version_of(request.model_version)
        check_distinct("input", [given.name for given in request.inputs])
        check_distinct("output", [wanted.name for wanted in request.outputs])
    except (DecodeError, QueryRefused):
        return None
    if request.parameters or not 1 <= len(request.inputs) <= MAX_TENSORS or len(request.outputs) > MAX_TENSORS:
        return None
    if any(wanted.parameters for wanted in request.outputs):
        return None
    inputs = []
    for given in request.inputs:
        shape, item_bytes = tuple(given.shape), _ITEM_BYTES.get(given.datatype, 0)
        if given.parameters or given.HasField("contents") or not item_bytes:
            return None
        if len(shape) > MAX_DIMENSIONS or any(size < 1 for size in shape):
            return None
        inputs.append((given.name, given.datatype, shape, math.prod(shape) * item_bytes))
    return Layout(request.model_name, version, tuple(inputs), tuple([wanted.name for wanted in request.outputs]))


def response_of(answer: InferAnswer) -> bytes:
    """The ModelInferResponse of an answer whose outputs are all wanted as they are."""
    outputs = answer.outputs
    named = tuple([(tensor.name, tensor.datatype, tensor.shape) for tensor in outputs])
    parts: list[bytes | memoryview] = [_response_head(answer.model, answer.version, named)]
    if answer.id:
        id = answer.id.encode()
        parts += (_ANSWERS_ID_TAG, _varint(len(id)), id)
    for tensor in outputs:
        parts += (_ANSWERS_RAW_TAG, _varint(len(tensor.data)), tensor.data)
    return b"".join(parts)


@functools.lru_cache(maxsize=1024)
def _response_head(model: str, version: int, named: tuple[tuple[str, str, tuple[int, ...]], ...]) -> bytes:
    """All of a response but its id and its data: fields may follow one another in any order."""
    head = ModelInferResponse(model_name=model, model_version=str(version))
    for name, datatype, shape in named:
        head.outputs.add(name=name, datatype=datatype, shape=shape)
    return head.SerializeToString()


def _varint(number: int) -> bytes:
    parts = []
    while number >= 0x80:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes((*parts, number))
