"""From an answer to a response body: JSON, or a JSON head and the tensors' bytes.

Source: Open Inference Protocol v2, inference response; binary tensor data, classification and
system shared memory extensions.
"""

import functools
from collections.abc import Sequence

import msgspec

from serving.classification import top_classes
from serving.gateway.json_tensors import json_of_tensor
from serving.gateway.oip_request import OutputWish, ParsedInfer
from serving.infer import InferAnswer

_encode = msgspec.json.encode
_ALL_JSON, _ALL_BINARY = OutputWish(""), OutputWish("", binary=True)


def write_infer(parsed: ParsedInfer, answer: InferAnswer, batchable: bool = False) -> tuple[bytes, int | None]:
    """The body, and how many bytes of it are JSON: None if all.

    batchable: of the version that answered, for those who asked for classes.
    Raises QueryRefused if an output cannot be given as it was asked for.
    """
    outputs = answer.outputs
    if parsed.all_binary and not answer.id:
        head = _binary_head(
            answer.model, answer.version, *[(t.name, t.datatype, t.shape, len(t.data)) for t in outputs]
        )
        return b"".join((head, *[tensor.data for tensor in outputs])), len(head)
    wishes = parsed.wishes or (_ALL_BINARY if parsed.binary else _ALL_JSON,) * len(answer.outputs)
    heads: list[bytes] = []
    binary: list[bytes | memoryview] = []
    for tensor, wish in zip(answer.outputs, wishes, strict=True):
        if wish.classes:
            tensor = top_classes(tensor, wish.classes, batchable)
        named = _named(tensor.name, tensor.datatype, tensor.shape)
        if wish.place is not None:
            wish.place.write(tensor.data)
            where = _encode(wish.place.region), len(tensor.data)
            heads.append(
                b'{%b,"parameters":{"shared_memory_region":%b,"shared_memory_byte_size":%d}}' % (named, *where)
            )
        elif wish.binary:
            binary.append(tensor.data)
            heads.append(_binary_output(named, len(tensor.data)))
        else:
            heads.append(b'{%b,"data":%b}' % (named, json_of_tensor(tensor)))
    head = _head(answer.id, answer.model, answer.version, heads)
    if not binary:
        return head, None
    return b"".join((head, *binary)), len(head)


@functools.lru_cache(maxsize=1024)
def _binary_head(model: str, version: int, *outputs: tuple[str, str, tuple[int, ...], int]) -> bytes:
    """Of an answer without an id, all of whose outputs (name, datatype, shape, bytes) are binary."""
    heads = [_binary_output(_named(name, datatype, shape), size) for name, datatype, shape, size in outputs]
    return _head("", model, version, heads)


def _head(request_id: str, model: str, version: int, outputs: Sequence[bytes]) -> bytes:
    given = b'"id":%b,' % _encode(request_id) if request_id else b""
    return b'{%b"model_name":%b,"model_version":"%d","outputs":[%b]}' % (
        given,
        _text(model),
        version,
        b",".join(outputs),
    )


def _binary_output(named: bytes, size: int) -> bytes:
    return b'{%b,"parameters":{"binary_data_size":%d}}' % (named, size)


@functools.lru_cache(maxsize=256)
def _text(name: str) -> bytes:
    return _encode(name)


@functools.lru_cache(maxsize=1024)
def _named(name: str, datatype: str, shape: tuple[int, ...]) -> bytes:
    return b'"name":%b,"datatype":%b,"shape":%b' % (_encode(name), _encode(datatype), _encode(shape))
