"""The codec of inference requests and responses, against tritonclient's own serialisation."""

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from serving.errors import QueryRefused
from serving.gateway.infer_head import read_head
from serving.gateway.json_tensors import bf16_of
from serving.gateway.oip_request import ParsedInfer, read_infer
from serving.gateway.oip_response import write_infer
from serving.infer import InferAnswer
from serving.settings import GatewaySettings
from serving.tensors import DATATYPES, Tensor
from tests.serving.oip_tensors import (
    an_output,
    as_input,
    as_tensor,
    request_body,
    response_of,
    same,
    typed_values,
    values_of,
)

SETTINGS = GatewaySettings(Path("/nowhere"), Path("/nowhere"), ("worker.sock",), max_json_bytes=1 << 20)
MATRIX = np.arange(6, dtype=np.float32).reshape(2, 3)


def read(body: bytes, header_length: int | None = None) -> ParsedInfer:
    return read_infer("ranker", None, body, header_length, SETTINGS)


def a_head(*inputs: dict[str, Any], **fields: Any) -> bytes:
    return json.dumps({"inputs": list(inputs), **fields}).encode()


def an_input(data: Any = None, **fields: Any) -> dict[str, Any]:
    given = {"name": "x", "datatype": "FP32", "shape": [2], **fields}
    return given if data is None else {**given, "data": data}


def values_in(*inputs: dict[str, Any]) -> list[Any]:
    values: list[Any] = read(a_head(*inputs)).query.inputs[0].array().tolist()
    return values


# requests


@given(st.lists(typed_values(), min_size=1, max_size=4))
def test_what_tritonclient_sends_in_binary_is_read_bit_for_bit(given_values: list[tuple[str, NDArray[Any]]]) -> None:
    inputs = [as_input(f"x{i}", *one) for i, one in enumerate(given_values)]

    parsed = read(*request_body(inputs))

    assert [tensor.name for tensor in parsed.query.inputs] == [f"x{i}" for i in range(len(inputs))]
    for tensor, (datatype, values) in zip(parsed.query.inputs, given_values, strict=True):
        sent = as_tensor(tensor.name, datatype, values)
        assert (tensor.datatype, tensor.shape, bytes(tensor.data)) == (datatype, values.shape, bytes(sent.data))
    assert parsed.binary


@pytest.mark.parametrize("datatype", [name for name in DATATYPES if name != "BF16"])
@pytest.mark.parametrize("copies", [1, 200])
def test_what_tritonclient_sends_as_json_is_read_value_for_value(datatype: str, copies: int) -> None:
    """Small heads and large ones take different parsers."""

    @settings(max_examples=20, deadline=None)
    @given(values_of(datatype, text=True))
    def read_back(values: NDArray[Any]) -> None:
        many = np.concatenate([values] * copies) if copies > 1 else values
        body, header_length = request_body([as_input("x", datatype, many, binary=False)])
        [tensor] = read(body, header_length).query.inputs
        assert same(tensor.array(), many)

    read_back()


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=6, max_size=6))
def test_nested_data_is_read_as_flat_data_is(values: list[float]) -> None:
    nested = [[values[:3], values[3:]]]
    flat = values_in(an_input(values, shape=[1, 2, 3]))

    assert values_in(an_input(nested, shape=[1, 2, 3])) == flat
    large = [nested[0] for _ in range(1000)]
    assert values_in(an_input(large, shape=[1000, 2, 3])) == flat * 1000


def test_binary_and_json_inputs_stand_in_one_request() -> None:
    texts = np.array([b"query", "größe".encode()], dtype=object)
    inputs = [
        as_input("a", "FP32", MATRIX),
        as_input("b", "BYTES", texts, binary=False),
        as_input("c", "FP32", -MATRIX),
    ]

    parsed = read(*request_body(inputs))

    assert [tensor.array().tolist() for tensor in parsed.query.inputs] == [
        MATRIX.tolist(),
        texts.tolist(),
        (-MATRIX).tolist(),
    ]


def test_a_binary_input_is_a_view_of_the_body() -> None:
    body, header_length = request_body([as_input("x", "FP32", MATRIX)])

    data = read(body, header_length).query.inputs[0].data

    assert isinstance(data, memoryview)
    assert data.obj is body


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_bf16_is_the_nearest_and_of_two_equally_near_the_even_one(value: float) -> None:
    bits = int(bf16_of(np.array([value]))[0])

    largest = Fraction(float(np.array(0x7F7F, np.uint16).view(ml_dtypes.bfloat16)))
    if bits & 0x7FFF == 0x7F80:
        assert abs(Fraction(value)) >= largest + Fraction(2) ** 119  # half a unit beyond the largest
        return
    neighbours = [near for near in (bits - 1, bits, bits + 1) if near >= 0 and near & 0x7FFF < 0x7F80]
    distances = {
        near: abs(Fraction(float(np.array(near, np.uint16).view(ml_dtypes.bfloat16))) - Fraction(value))
        for near in neighbours
    }
    least = min(distances.values())
    assert distances[bits] == least
    if list(distances.values()).count(least) > 1:
        assert bits & 1 == 0


@pytest.mark.parametrize("between", ["1.00390625000001", "1.0039062500000000001", "1.003906249999"])
def test_bf16_is_rounded_once(between: str) -> None:
    """Next to a tie: float32 in between would make it one."""
    tensor = read(
        b'{"inputs":[{"name":"x","datatype":"BF16","shape":[1],"data":[%b]}]}' % between.encode()
    ).query.inputs[0]

    assert tensor.array().item() == (0x3F81 if float(between) > 1.00390625 else 0x3F80)


@pytest.mark.parametrize("datatype", ["FP16", "FP32", "FP64", "BF16"])
@pytest.mark.parametrize("padding", ["", " " * 5000])
def test_nan_and_infinity_are_numbers_to_those_who_send_floats(datatype: str, padding: str) -> None:
    body = a_head(an_input([float("nan"), float("-inf")], datatype=datatype)) + padding.encode()

    values = read(body).query.inputs[0].array()

    floats = values.view(ml_dtypes.bfloat16).astype(np.float32) if datatype == "BF16" else values
    assert np.isnan(floats[0])
    assert floats[1] == -np.inf


def test_parameters_become_deadline_priority_and_unit_and_unknown_ones_are_ignored() -> None:
    known = {"timeout": 2_000_001, "priority": 3, "unit": "user-7", "whatever": {"a": [1]}}

    query = read(a_head(an_input([1, 2]), id="r9", parameters=known)).query

    assert (query.deadline_ms, query.priority, query.unit, query.id) == (2001, 3, "user-7", "r9")


@pytest.mark.parametrize(("timeout", "deadline_ms"), [(0, 1000), (1, 1), (10**12, 60_000)])
def test_a_timeout_is_bounded_by_what_a_query_may_ask_for(timeout: int, deadline_ms: int) -> None:
    body, header_length = request_body([as_input("x", "FP32", MATRIX)], timeout=timeout)

    assert read(body, header_length).query.deadline_ms == deadline_ms


def test_outputs_are_wanted_as_they_are_asked_for() -> None:
    outputs = [an_output("a"), an_output("b", binary_data=False), an_output("c", class_count=3)]

    parsed = read(*request_body([as_input("x", "FP32", MATRIX)], outputs=outputs))

    assert parsed.query.outputs == ("a", "b", "c")
    assert [(wish.binary, wish.classes) for wish in parsed.wishes] == [(True, 0), (False, 0), (True, 3)]


# refusals

DEEP = "[" * 100_000
REFUSED: dict[str, tuple[bytes, str, str]] = {
    "no JSON": (b"features", "body", "not JSON"),
    "empty": (b"", "body", "not JSON"),
    "no object": (b"[1]", "body", "expected `object`"),
    "not UTF-8": (b'{"inputs":[{"name":"\xff"}]}', "body", "not JSON"),
    "no inputs field": (b"{}", "body", "missing required field `inputs`"),
    "no name": (b'{"inputs":[{"datatype":"FP32","shape":[1],"data":[1]}]}', "inputs[0]", "`name`"),
    "name is a number": (a_head(an_input([1, 2], name=5)), "inputs[0].name", "expected `str`"),
    "inputs is a number": (b'{"inputs":5}', "inputs", "expected `array`"),
    "shape is text": (a_head(an_input([1, 2], shape="2")), "inputs[0].shape", "expected `array`"),
    "shape is negative": (a_head(an_input([1, 2], shape=[-2])), "'x'", "sizes of 0 or more"),
    "shape is huge": (a_head(an_input([1, 2], shape=[2**31 - 1, 2**31 - 1])), "'x'", "elements"),
    "shape is huge and empty": (a_head(an_input([], shape=[0, 2**40])), "'x'", "elements"),
    "33 dimensions": (a_head(an_input([1], shape=[1] * 33)), "'x'", "33 dimensions, expected at most 32"),
    "20,000 dimensions": (a_head(an_input([1], shape=[2**62] * 20_000)), "'x'", "20000 dimensions"),
    "unknown datatype": (a_head(an_input([1, 2], datatype="FP8")), "'x'", "datatype 'FP8'"),
    "no data": (a_head(an_input()), "'x'", "no data"),
    "data is null": (b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1],"data":null}]}', "'x'", "no data"),
    "data is a number": (a_head(an_input(7)), "'x'", "no array"),
    "too few": (a_head(an_input([1])), "'x'", "1 elements in data, expected 2 for shape [2]"),
    "too many": (a_head(an_input([1, 2, 3])), "'x'", "3 elements in data, expected 2"),
    "too many, large": (a_head(an_input([1.5] * 5000)), "'x'", "5000 elements in data, expected 2"),
    "text among numbers": (a_head(an_input([1, "2"])), "'x'", "element 1 of data is no FP32"),
    "text among many numbers": (a_head(an_input(["a"] + [1] * 4999, shape=[5000])), "'x'", "element 0 of data"),
    "null among numbers": (a_head(an_input([1, None])), "'x'", "element 1 of data is no FP32"),
    "a boolean among numbers": (a_head(an_input([1, True])), "'x'", "element 1"),
    "a number among booleans": (a_head(an_input([True, 1], datatype="BOOL")), "'x'", "true or false"),
    "a number among strings": (a_head(an_input(["a", 1], datatype="BYTES")), "'x'", "strings"),
    "a fraction among integers": (a_head(an_input([1, 2.5], datatype="INT32")), "'x'", "whole numbers"),
    "fractions among many": (a_head(an_input([1.5] * 2000, datatype="INT8", shape=[2000])), "'x'", "whole numbers"),
    "NaN among integers": (b'{"inputs":[{"name":"x","datatype":"INT8","shape":[1],"data":[NaN]}]}', "'x'", "whole"),
    "300 as INT8": (a_head(an_input([1, 300], datatype="INT8")), "'x'", "outside INT8's range, expected -128 to 127"),
    "-1 as UINT64": (a_head(an_input([1, -1], datatype="UINT64")), "'x'", "outside UINT64's range"),
    "2**64 as UINT64": (a_head(an_input([1, 2**64], datatype="UINT64")), "'x'", "outside UINT64's range"),
    "2**63 as INT64": (a_head(an_input([2**63] * 2000, datatype="INT64", shape=[2000])), "'x'", "INT64's range"),
    "300 as UINT8, many": (a_head(an_input([300] * 2000, datatype="UINT8", shape=[2000])), "'x'", "UINT8's range"),
    "1e39 as FP32": (a_head(an_input([1, 1e39])), "'x'", "outside FP32's range"),
    "70000 as FP16": (a_head(an_input([1, 70000], datatype="FP16")), "'x'", "outside FP16's range"),
    "1e39 as BF16": (a_head(an_input([1, 1e39], datatype="BF16")), "'x'", "outside BF16's range"),
    "1e400": (b'{"inputs":[{"name":"x","datatype":"FP64","shape":[1],"data":[1e400]}]}', "", "out of range"),
    "a huge integer": (a_head(an_input([1, 10**400], datatype="FP64")), "'x'", "outside FP64's range"),
    "lone surrogate": (a_head(an_input(["\ud800", "b"], datatype="BYTES")), "", "not"),
    "lone surrogate, many": (
        a_head(an_input(["\ud800"] * 2000, datatype="BYTES", shape=[2000])),
        "'x'",
        "not Unicode text",
    ),
    "lone surrogate as id": (a_head(an_input([1, 2]), id="\ud800" * 1000), "body", "not JSON"),
    "deeply nested data": (f'{{"inputs":[{{"name":"x","data":{DEEP}'.encode(), "body", "nested too deeply"),
    "deeply nested, closed": (
        f'{{"inputs":[{{"name":"x","datatype":"FP32","shape":[1],"data":{DEEP}{"]" * 100_000}}}]}}'.encode(),
        "body",
        "nested too deeply",
    ),
    "repeated input": (a_head(an_input([1, 2]), an_input([1, 2])), "'x'", "given twice"),
    "repeated output": (a_head(an_input([1, 2]), outputs=[{"name": "s"}, {"name": "s"}]), "'s'", "given twice"),
    "65 inputs": (a_head(*[an_input([1, 2], name=str(i)) for i in range(65)]), "inputs", "at most 64"),
    "negative classification": (
        a_head(an_input([1, 2]), outputs=[{"name": "s", "parameters": {"classification": -1}}]),
        "'s'",
        "classification=-1",
    ),
    "sequence": (a_head(an_input([1, 2]), parameters={"sequence_id": 7}), "sequence_id", "no state"),
    "sequence by name": (a_head(an_input([1, 2]), parameters={"sequence_id": "s"}), "sequence_id", "no state"),
    "priority": (a_head(an_input([1, 2]), parameters={"priority": 256}), "priority=256", "1 (first) to 255 (last)"),
    "negative timeout": (a_head(an_input([1, 2]), parameters={"timeout": -1}), "timeout=-1", "microseconds"),
    "timeout as text": (a_head(an_input([1, 2]), parameters={"timeout": "1"}), "parameters.timeout", "expected `int`"),
    "unit": (a_head(an_input([1, 2]), parameters={"unit": "\n"}), "parameters.unit", "control characters"),
    "region while off": (
        a_head(an_input(parameters={"shared_memory_region": "r", "shared_memory_byte_size": 8})),
        "'x'",
        "SLUICE_SHARED_MEMORY_REGIONS=1",
    ),
    "too much JSON": (a_head(an_input([1.25] * 300_000)), "body", "expected at most 1048576: send tensors as binary"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_bad_request_is_refused_naming_tensor_and_rule(name: str) -> None:
    body, tensor, rule = REFUSED[name]

    with pytest.raises(QueryRefused) as refused:
        read(body)

    assert tensor in str(refused.value)
    assert rule in str(refused.value)


LYING: dict[str, tuple[dict[str, Any], bytes, int, str]] = {
    "cut short": ({"binary_data_size": 8}, b"1234", 0, "binary_data_size=8, but 4 bytes are left"),
    "negative size": ({"binary_data_size": -8}, b"12345678", 0, "binary_data_size=-8"),
    "wrong size": ({"binary_data_size": 4}, b"1234", 0, "4 bytes, expected 8 for FP32 of shape [2]"),
    "left over": ({"binary_data_size": 8}, b"123456789", 0, "1 bytes after the last tensor"),
    "head too short": ({"binary_data_size": 8}, b"12345678", -1, "not JSON"),
    "head too long": ({"binary_data_size": 8}, b"12345678", 1, "not JSON"),
    "head longer than all": ({"binary_data_size": 8}, b"12345678", 1000, "Inference-Header-Content-Length="),
    "no head": ({"binary_data_size": 8}, b"12345678", -1000, "Inference-Header-Content-Length="),
    "size as text": ({"binary_data_size": "8"}, b"12345678", 0, "expected `int"),
    "huge size": ({"binary_data_size": 2**63}, b"12345678", 0, "8 bytes are left"),
}


@pytest.mark.parametrize("name", LYING)
def test_lengths_that_lie_are_refused(name: str) -> None:
    parameters, data, off_by, rule = LYING[name]
    head = a_head(an_input(parameters=parameters))
    length = len(head) + off_by if abs(off_by) < 1000 else max(0, off_by)

    with pytest.raises(QueryRefused, match=rule.replace("[", r"\[")):
        read(head + data, length)


@pytest.mark.parametrize(
    ("datatype", "data", "rule"),
    [
        ("BOOL", b"\0\2", "neither 0 nor 1"),
        ("BYTES", b"\1\0\0\0a", "do not hold exactly 2 BYTES elements"),
        ("BYTES", b"\xff\xff\xff\xff" + b"\0" * 4, "do not hold exactly 2 BYTES elements"),
        ("FP8", b"12", "datatype 'FP8'"),
    ],
)
def test_binary_data_that_is_not_its_datatypes_is_refused(datatype: str, data: bytes, rule: str) -> None:
    head = a_head(an_input(datatype=datatype, parameters={"binary_data_size": len(data)}))

    with pytest.raises(QueryRefused, match=f"'x'.*{rule}"):
        read(head + data, len(head))


def test_binary_data_without_its_header_is_refused() -> None:
    body, _ = request_body([as_input("x", "FP32", MATRIX)])
    head = a_head(an_input(parameters={"binary_data_size": 8}))

    with pytest.raises(QueryRefused, match="needs the header Inference-Header-Content-Length"):
        read(head)
    with pytest.raises(QueryRefused, match="body: not JSON"):
        read(body)


def test_data_in_two_places_is_refused() -> None:
    head = a_head(an_input([1, 2], parameters={"binary_data_size": 8}))

    with pytest.raises(QueryRefused, match=r"'x'.*expected one of"):
        read(head + bytes(8), len(head))


def test_a_refused_request_leaves_the_parser_free_for_the_next() -> None:
    errors = []
    for _ in range(3):
        with pytest.raises(QueryRefused) as refused:
            read(REFUSED["text among many numbers"][0])
        errors.append(refused.value)  # with its traceback
        assert read(a_head(an_input([1.5] * 2000, shape=[2000]))).query.inputs[0].elements == 2000


def test_the_kept_parser_is_not_used_for_bodies_larger_than_it_keeps() -> None:
    values = np.arange(60_000, dtype=np.float64)
    text = a_head(an_input(values.tolist(), datatype="FP64", shape=[60_000])) + b" " * (1 << 20)

    head = read_head(text, len(text))

    assert np.array_equal(head.inputs[0].data, values)


# responses


def written(outputs: list[Tensor], binary: bool, answer_id: str = "") -> tuple[bytes, int | None]:
    head = a_head(an_input([1, 2]), id=answer_id, parameters={"binary_data_output": binary})
    return write_infer(read(head), InferAnswer("ranker", 7, answer_id, outputs))


@given(st.lists(typed_values(text=True), min_size=1, max_size=4), st.booleans(), st.text(max_size=5))
def test_tritonclient_reads_the_outputs(given_values: list[tuple[str, NDArray[Any]]], binary: bool, name: str) -> None:
    outputs = [as_tensor(f"{name}{i}", *one) for i, one in enumerate(given_values)]

    body, header_length = written(outputs, binary, answer_id=name)

    result = response_of(body, header_length)
    assert (header_length is None) == (not binary)
    for tensor, (_, values) in zip(outputs, given_values, strict=True):
        assert same(result.as_numpy(tensor.name), values)
    assert result.get_response().get("id", "") == name
    assert (result.get_response()["model_name"], result.get_response()["model_version"]) == ("ranker", "7")


def test_each_output_comes_as_it_was_asked_for() -> None:
    outputs = [an_output("a"), an_output("b", binary_data=False), an_output("c", class_count=2, binary_data=False)]
    parsed = read(*request_body([as_input("x", "FP32", MATRIX)], outputs=outputs))
    tensors = [Tensor.of(name, "FP32", MATRIX) for name in "abc"]

    body, header_length = write_infer(parsed, InferAnswer("ranker", 1, "", tensors), batchable=True)

    result = response_of(body, header_length)
    assert header_length is not None
    assert body[header_length:] == MATRIX.tobytes()
    assert result.get_output("b")["data"] == [0, 1, 2, 3, 4, 5]
    assert result.get_output("c") == {
        "name": "c",
        "datatype": "BYTES",
        "shape": [2, 2],
        "data": ["2.000000:2", "1.000000:1", "5.000000:2", "4.000000:1"],
    }


def test_bytes_that_are_no_text_are_refused_as_json_and_given_in_binary() -> None:
    outputs = [Tensor.of("s", "BYTES", np.array([b"\xff"], dtype=object))]

    with pytest.raises(QueryRefused, match=r"output 's': an element is not UTF-8.*binary_data"):
        written(outputs, binary=False)
    assert response_of(*written(outputs, binary=True)).as_numpy("s").tolist() == [b"\xff"]
