"""From ModelInferRequest to a query, from an answer to ModelInferResponse: pure, and on the hot path.

The rules, and the words they are refused in, are those of the REST form (`oip_request`).

Source: Open Inference Protocol v2, gRPC; classification, system shared memory and parameters extensions.
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import msgspec
import numpy as np

from serving.classification import top_classes
from serving.errors import QueryRefused
from serving.gateway.infer_head import InputParameters, OutputHead, OutputParameters, RequestParameters
from serving.gateway.oip_request import (
    MAX_TENSORS,
    OutputWish,
    ParsedInfer,
    apply_parameters,
    check_distinct,
    check_shape,
    tensor_of_region,
    wish_of,
)
from serving.gateway.protos.open_inference_pb2 import (
    InferParameter,
    InferTensorContents,
    ModelInferRequest,
    ModelInferResponse,
)
from serving.infer import InferAnswer, InferQuery
from serving.regions import Regions
from serving.settings import GatewaySettings
from serving.tensors import DTYPES, Tensor, check_tensor, join_bytes

CONTENTS = {
    "BOOL": "bool_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
"""Where the elements of a datatype are if they are not raw; FP16 and BF16 have no such place."""

Parameters = TypeVar("Parameters", InputParameters, OutputParameters, RequestParameters)
_Given = ModelInferRequest.InferInputTensor


def version_of(version: str) -> int | None:
    """The number in a request; None if it leaves the choice to the server. Raises QueryRefused."""
    if not version:
        return None
    if not (version.isascii() and version.isdigit() and len(version) < 10):
        raise QueryRefused(f"version={version[:32]!r}: expected a number")
    return int(version)


def read_infer(request: ModelInferRequest, settings: GatewaySettings, regions: Regions | None = None) -> ParsedInfer:
    """The query in a request. regions: None where shared memory is off.

    Raises QueryRefused, naming the tensor or field and the rule.
    """
    given = request.inputs
    if len(given) > MAX_TENSORS or len(request.outputs) > MAX_TENSORS:
        raise QueryRefused(f"inputs and outputs: expected at most {MAX_TENSORS} each")
    inputs = _inputs(given, request.raw_input_contents, regions)
    if len(inputs) > 1:
        check_distinct("input", [tensor.name for tensor in inputs])
    query = InferQuery(
        request.model_name,
        inputs,
        version=version_of(request.model_version),
        id=request.id,
        deadline_ms=settings.default_deadline_ms,
    )
    if request.parameters:
        apply_parameters(_parameters("parameters", request.parameters, RequestParameters), query, settings)
    wishes: tuple[OutputWish, ...] = ()
    if request.outputs:
        wishes = tuple([_wish(output, regions) for output in request.outputs])
        query.outputs = tuple([wish.name for wish in wishes])
        check_distinct("output", query.outputs)
    return ParsedInfer(query, wishes, binary=True)


def write_infer(parsed: ParsedInfer, answer: InferAnswer, batchable: bool = False) -> ModelInferResponse:
    """The response. batchable: of the version that answered, for those who asked for classes.

    Raises QueryRefused if an output cannot be given as it was asked for.
    """
    response = ModelInferResponse(model_name=answer.model, model_version=str(answer.version), id=answer.id)
    outputs, raw = response.outputs, response.raw_output_contents
    wishes: Sequence[OutputWish | None] = parsed.wishes or (None,) * len(answer.outputs)
    for tensor, wish in zip(answer.outputs, wishes, strict=True):
        if wish is not None and wish.classes:
            tensor = top_classes(tensor, wish.classes, batchable)
        written = outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        if wish is None or wish.place is None:
            raw.append(bytes(tensor.data))
            continue
        wish.place.write(tensor.data)
        written.parameters["shared_memory_region"].string_param = wish.place.region
        written.parameters["shared_memory_byte_size"].int64_param = len(tensor.data)
        raw.append(b"")  # clients find an output's bytes by its place among the outputs
    return response


def _inputs(given: Sequence[_Given], raw: Sequence[bytes], regions: Regions | None) -> list[Tensor]:
    inputs: list[Tensor] = []
    used, there = 0, len(raw)
    for one in given:
        tensor = Tensor(one.name, one.datatype, tuple(one.shape), b"")
        check_shape(tensor)
        typed = one.HasField("contents")
        if one.parameters and "shared_memory_region" in one.parameters:
            if typed:
                raise QueryRefused(f"input {tensor.name!r}: expected one of contents and shared_memory_region")
            where = _parameters(f"input {tensor.name!r}", one.parameters, InputParameters)
            inputs.append(tensor_of_region(tensor, where, regions))
        elif there:
            if typed:
                raise QueryRefused(f"input {tensor.name!r}: contents beside raw_input_contents, expected only one")
            if used == there:
                raise QueryRefused(f"input {tensor.name!r}: no data, raw_input_contents has only {there} entries")
            tensor.data = raw[used]
            used += 1
            check_tensor(tensor)
            inputs.append(tensor)
        elif typed or not tensor.elements:
            tensor.data = _typed(tensor, one.contents)
            inputs.append(tensor)
        else:
            raise QueryRefused(
                f"input {tensor.name!r}: no data, expected contents, raw_input_contents or a shared memory region"
            )
    if used < there:
        raise QueryRefused(f"raw_input_contents: {there} entries, expected {used}, one for each input of this form")
    return inputs


def _typed(tensor: Tensor, contents: InferTensorContents) -> bytes | memoryview:
    """The data of an input whose elements are fields of the message."""
    name, datatype = tensor.name, tensor.datatype
    place = CONTENTS.get(datatype)
    if place is None:
        raise QueryRefused(f"input {name!r}: {datatype} has no contents of its own, send it in raw_input_contents")
    values = getattr(contents, place)
    if len(values) != tensor.elements:
        raise QueryRefused(
            f"input {name!r}: {len(values)} values in {place}, "
            f"expected {tensor.elements} for {datatype} of shape {list(tensor.shape)}"
        )
    if datatype == "BYTES":
        return join_bytes(values)
    dtype = DTYPES[datatype]
    wide = np.array(values, dtype=np.int64 if dtype.itemsize < 4 and datatype != "BOOL" else dtype)
    if wide.dtype != dtype:
        limits = np.iinfo(dtype)
        if wide.size and not (limits.min <= wide.min() and wide.max() <= limits.max):
            raise QueryRefused(f"input {name!r}: a value beyond {datatype}, expected {limits.min} to {limits.max}")
        wide = wide.astype(dtype)
    return wide.tobytes()


def _wish(output: ModelInferRequest.InferRequestedOutputTensor, regions: Regions | None) -> OutputWish:
    if not output.parameters:
        return OutputWish(output.name, binary=True)
    parameters = _parameters(f"output {output.name!r}", output.parameters, OutputParameters)
    return wish_of(OutputHead(output.name, parameters), True, regions)


def _parameters(field: str, given: Mapping[str, InferParameter], kind: type[Parameters]) -> Parameters:
    """The parameters that are known; others are ignored. Raises QueryRefused for one of another type."""
    known: dict[str, Any] = {}
    for name in kind.__struct_fields__:
        if name in given:
            value = given[name]
            choice = value.WhichOneof("parameter_choice")
            known[name] = None if choice is None else getattr(value, choice)
    try:
        return msgspec.convert(known, kind)
    except msgspec.ValidationError as error:
        rule, _, path = str(error).partition(" - at `$.")
        raise QueryRefused(f"{field}.{path.rstrip('`')}: {rule[:1].lower()}{rule[1:]}") from error
