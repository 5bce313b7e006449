"""ModelInferRequest to query and answer to ModelInferResponse, held against tritonclient's own messages."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf.descriptor import FieldDescriptor
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from tritonclient.grpc import InferInput, InferResult, service_pb2
from tritonclient.grpc._utils import _get_inference_request

from serving.errors import QueryRefused
from serving.gateway.grpc.layouts import layout_of, pieces_of, response_of
from serving.gateway.grpc.methods import HEALTH, INFERENCE, RANKING
from serving.gateway.grpc.models import NOT_SERVED
from serving.gateway.grpc.tensors import CONTENTS, read_infer, write_infer
from serving.gateway.oip_request import ParsedInfer
from serving.gateway.protos import health_pb2, open_inference_pb2, ranking_pb2
from serving.gateway.protos.open_inference_pb2 import ModelInferRequest
from serving.infer import InferAnswer, InferQuery
from serving.settings import GatewaySettings
from serving.tensors import Tensor
from tests.serving.oip_tensors import as_tensor, same, typed_values, values_of

ROOT = Path(__file__).resolve().parents[2]
PROTOS = ROOT / "serving" / "gateway" / "protos"
SETTINGS = GatewaySettings(Path("events"), Path("plans"), ("worker",))


def a_request(inputs: list[InferInput], **changes: Any) -> ModelInferRequest:
    """What tritonclient sends, as our message."""
    told: dict[str, Any] = dict.fromkeys(("outputs", "timeout", "parameters"))
    told |= {"model_version": "", "request_id": "", "sequence_id": 0, "sequence_start": False, "sequence_end": False}
    message = _get_inference_request(model_name="m", inputs=inputs, priority=0, **(told | changes))
    return ModelInferRequest.FromString(message.SerializeToString())


def raw_input(name: str, datatype: str, values: NDArray[Any]) -> InferInput:
    return InferInput(name, list(values.shape), datatype).set_data_from_numpy(values)


def plain(query: InferQuery) -> tuple[Any, ...]:
    """What a query asks for, comparable."""
    inputs = [(one.name, one.datatype, one.shape, bytes(one.data)) for one in query.inputs]
    return query.model, query.version, query.id, query.outputs, inputs, query.unit, query.priority


# the messages


def test_our_messages_have_the_clients_names_numbers_and_types() -> None:
    ours, theirs = open_inference_pb2.DESCRIPTOR, service_pb2.DESCRIPTOR
    partly = {"ModelConfig", "ModelInput", "ModelOutput", "ModelVersionPolicy", "ModelDynamicBatching"}
    compared = 0

    def compare(mine: Any, other: Any) -> None:
        nonlocal compared
        if mine.name not in partly:
            assert {field.name for field in mine.fields} == {field.name for field in other.fields}, mine.full_name
        for field in mine.fields:
            twin = other.fields_by_name[field.name]
            assert signature(field) == signature(twin), field.full_name
            compared += 1
        for nested in mine.nested_types:
            compare(nested, other.nested_types_by_name[nested.name])

    def signature(field: FieldDescriptor) -> tuple[Any, ...]:
        of = field.message_type or field.enum_type
        one_of = field.containing_oneof.name if field.containing_oneof else None
        return field.number, field.type, field.is_repeated, field.is_packed, of.full_name if of else None, one_of

    for name, message in ours.message_types_by_name.items():
        compare(message, theirs.pool.FindMessageTypeByName(f"inference.{name}"))
    assert compared > 100
    values = theirs.pool.FindEnumTypeByName("inference.DataType").values
    assert [(one.name, one.number) for one in ours.enum_types_by_name["DataType"].values] == [
        (one.name, one.number) for one in values
    ]


def test_every_method_of_the_clients_service_is_served_or_refused_with_a_reason() -> None:
    [service] = open_inference_pb2.DESCRIPTOR.services_by_name.values()
    theirs = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods
    assert {one.name for one in theirs} == {one.name for one in service.methods} | NOT_SERVED.keys()
    for method in service.methods:
        twin = next(one for one in theirs if one.name == method.name)
        assert (method.client_streaming, method.server_streaming) == (twin.client_streaming, twin.server_streaming)
        assert method.input_type.full_name == twin.input_type.full_name
        assert method.output_type.full_name == twin.output_type.full_name


def test_the_services_are_named_as_in_their_protos() -> None:
    named = [file.DESCRIPTOR.services_by_name for file in (open_inference_pb2, ranking_pb2, health_pb2)]
    assert [service.full_name for services in named for service in services.values()] == [INFERENCE, RANKING, HEALTH]


def test_the_generated_modules_are_those_of_their_protos(tmp_path: Path) -> None:
    """If not: deploy/scripts/protos."""
    script, environment = (
        ROOT / "deploy" / "scripts" / "protos",
        {**os.environ, "BIN": str(Path(sys.executable).parent)},
    )

    subprocess.run([script, tmp_path], cwd=ROOT, env=environment, check=True)

    made = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert made == {path.name: path.read_text() for path in PROTOS.glob("*_pb2.py*")}


# requests


@given(typed_values())
def test_raw_tensors_are_what_the_client_had(typed: tuple[str, NDArray[Any]]) -> None:
    datatype, values = typed

    parsed = read_infer(a_request([raw_input("x", datatype, values)]), SETTINGS)

    [tensor] = parsed.query.inputs
    expected = as_tensor("x", datatype, values)
    assert (tensor.name, tensor.datatype, tensor.shape) == ("x", datatype, values.shape)
    assert bytes(tensor.data) == bytes(expected.data)


@given(st.sampled_from(sorted(CONTENTS)).flatmap(lambda kind: st.tuples(st.just(kind), values_of(kind))))
def test_typed_contents_are_what_the_client_had(typed: tuple[str, NDArray[Any]]) -> None:
    datatype, values = typed
    request = ModelInferRequest(model_name="m")
    given_input = request.inputs.add(name="x", datatype=datatype, shape=values.shape)
    getattr(given_input.contents, CONTENTS[datatype]).extend(values.reshape(-1).tolist())

    [tensor] = read_infer(request, SETTINGS).query.inputs

    assert tensor.shape == values.shape
    assert same(tensor.array(), values)


@pytest.mark.parametrize("datatype", ["FP16", "BF16"])
def test_datatypes_without_contents_must_be_raw(datatype: str) -> None:
    request = ModelInferRequest(model_name="m")
    request.inputs.add(name="x", datatype=datatype, shape=[1]).contents.fp32_contents.append(1.0)

    with pytest.raises(QueryRefused, match=rf"input 'x': {datatype} has no contents of its own, send it in raw_"):
        read_infer(request, SETTINGS)


@given(value=st.integers(-(1 << 31), (1 << 31) - 1), datatype=st.sampled_from(["INT8", "INT16", "UINT8", "UINT16"]))
def test_a_number_is_kept_or_refused_never_wrapped(value: int, datatype: str) -> None:
    request = ModelInferRequest(model_name="m")
    one = request.inputs.add(name="x", datatype=datatype, shape=[1])
    getattr(one.contents, CONTENTS[datatype]).append(abs(value) if datatype[0] == "U" else value)
    sent = abs(value) if datatype[0] == "U" else value
    limits = np.iinfo(datatype.lower())

    if limits.min <= sent <= limits.max:
        assert read_infer(request, SETTINGS).query.inputs[0].array().tolist() == [sent]
    else:
        with pytest.raises(QueryRefused, match=f"input 'x': a value beyond {datatype}, expected {limits.min} to"):
            read_infer(request, SETTINGS)


def test_parameters_are_read_and_unknown_ones_ignored() -> None:
    parameters = {"unit": "user-7", "colour": "green", "priority": 3}
    request = a_request([raw_input("x", "FP32", np.ones(1, np.float32))], parameters={"unit": "user-7", "colour": "g"})
    request.parameters["priority"].uint64_param = 3
    request.parameters["timeout"].int64_param = 1500

    query = read_infer(request, SETTINGS).query

    assert (query.unit, query.priority, query.deadline_ms) == (parameters["unit"], 3, 2)


# remembered layouts


@st.composite
def requests(draw: st.DrawFn) -> ModelInferRequest:
    """Requests of which many are plain and some are not."""
    inputs = [
        raw_input(name, *draw(typed_values()))
        for name in draw(st.lists(st.sampled_from("xyz"), min_size=1, max_size=3))
    ]
    request = a_request(inputs, request_id=draw(st.sampled_from(["", "seven", "é" * 100])))
    for name in draw(st.lists(st.sampled_from("ab"), max_size=2)):
        request.outputs.add(name=name)
    if draw(st.booleans()):
        request.model_version = draw(st.sampled_from(["", "3", "new"]))
    if draw(st.integers(0, 5)) == 0:
        request.parameters["unit"].string_param = "u"
    if draw(st.integers(0, 5)) == 0:
        request.raw_input_contents.append(b"1234")
    elif draw(st.integers(0, 5)) == 0:
        request.raw_input_contents[0] += b"1234"
    if draw(st.integers(0, 5)) == 0:
        request.inputs[0].shape.append(2)
    return request


def by_layout(message: bytes) -> InferQuery | None:
    """The query as the shorter way reads it."""
    pieces = pieces_of(message)
    layout = layout_of(pieces[0]) if pieces else None
    return layout.query(pieces[1].decode(), pieces[2], 1000) if pieces and layout else None


@given(requests())
def test_a_remembered_layout_gives_the_query_that_protobuf_gives(request: ModelInferRequest) -> None:
    short = by_layout(request.SerializeToString())

    try:
        long = read_infer(request, SETTINGS).query
    except QueryRefused:
        assert short is None
    else:
        assert short is None or plain(short) == plain(long)


def test_a_request_like_tritonclients_has_a_layout() -> None:
    values = np.ones((100, 136), np.float32)
    request = a_request([raw_input("features", "FP32", values)], request_id="7")

    query = by_layout(request.SerializeToString())

    assert query is not None
    assert (query.model, query.id, query.inputs[0].shape) == ("m", "7", (100, 136))


@given(st.lists(typed_values(), max_size=3), st.sampled_from(["", "seven", "é" * 200]))
def test_a_remembered_response_is_the_one_that_protobuf_writes(
    outputs: list[tuple[str, NDArray[Any]]], request_id: str
) -> None:
    tensors = [as_tensor(f"y{place}", datatype, values) for place, (datatype, values) in enumerate(outputs)]
    answer = InferAnswer("m", 7, request_id, tensors)

    written = write_infer(ParsedInfer(InferQuery("m", []), (), True), answer)

    assert type(written).FromString(response_of(answer)) == written


@given(st.lists(typed_values(), min_size=1, max_size=3))
def test_the_client_reads_what_the_model_gave(outputs: list[tuple[str, NDArray[Any]]]) -> None:
    tensors = [as_tensor(f"y{place}", datatype, values) for place, (datatype, values) in enumerate(outputs)]

    result = InferResult(service_pb2.ModelInferResponse.FromString(response_of(InferAnswer("m", 1, "", tensors))))

    for place, (_, values) in enumerate(outputs):
        assert same(result.as_numpy(f"y{place}"), values)


def test_data_that_a_worker_reuses_is_copied_into_the_response() -> None:
    block = bytearray(np.ones(2, "<f4").tobytes())
    response = response_of(InferAnswer("m", 1, "", [Tensor("y", "FP32", (2,), memoryview(block))]))

    block[:] = bytes(8)

    assert np.frombuffer(
        service_pb2.ModelInferResponse.FromString(response).raw_output_contents[0], "<f4"
    ).tolist() == [1.0, 1.0]
