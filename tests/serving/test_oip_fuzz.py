"""Whatever bytes arrive, the parser refuses them or gives a query that says what they say."""

import contextlib
import json
import math
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from serving.compression import decompressed
from serving.errors import QueryRefused
from serving.gateway.oip_request import ParsedInfer, read_infer
from serving.settings import GatewaySettings
from serving.tensors import DATATYPES, Tensor, check_tensor
from tests.serving.oip_gateway import PLAN, Served, inputs_of, post, serve
from tests.serving.oip_gateway import check as check_answer
from tests.serving.oip_tensors import as_input, request_body, typed_values
from tests.serving.test_infer import two_inputs

LIMIT_BYTES = 1 << 16
SETTINGS = GatewaySettings(Path("/nowhere"), Path("/nowhere"), ("worker.sock",), max_json_bytes=LIMIT_BYTES)

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
anything = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
)
numbers = st.sampled_from([0, 1, 4, 8, -1, 2**31, 2**62, 2**64, 1e9, 1e400, float("nan")]) | st.integers()


def mostly(likely: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """What is likely, else anything: enough of both gets through to what comes next."""
    return st.integers(0, 15).flatmap(lambda chance: anything if chance == 15 else likely)


def maybe(*likely: Any) -> st.SearchStrategy[Any]:
    """Mostly one of these."""
    return mostly(st.sampled_from(likely))


parameters = st.fixed_dictionaries(
    {},
    optional={
        "binary_data": maybe(True, False),
        "binary_data_output": maybe(True, False),
        "classification": mostly(st.integers(0, 5)),
        "shared_memory_offset": numbers,
        "priority": mostly(st.integers(-1, 256)),
        "timeout": mostly(st.integers(-1, 2**70)),
        "unit": maybe("u", ""),
        "sequence_id": maybe(0, ""),
        "other": anything,
    },
)
places = st.fixed_dictionaries(
    {},
    optional={
        "binary_data_size": numbers,
        "shared_memory_region": maybe("r"),
        "shared_memory_byte_size": numbers,
    },
)


@st.composite
def an_input(draw: st.DrawFn) -> Any:
    """An input whose data often fits."""
    datatype = draw(maybe(*DATATYPES))
    shape = draw(mostly(st.lists(st.integers(0, 3), max_size=3)))
    fits = isinstance(shape, list) and all(isinstance(size, int) and 0 <= size <= 3 for size in shape)
    count = math.prod(shape) if fits else 1
    element: st.SearchStrategy[Any] = st.integers(0, 1)
    if datatype == "BYTES":
        element = st.text(max_size=4)
    elif datatype == "BOOL":
        element = st.booleans()
    elif datatype in ("FP16", "FP32", "FP64", "BF16"):
        element = st.floats(width=16)
    given = {"name": draw(maybe("x", "y", "z")), "datatype": datatype, "shape": shape}
    if draw(st.integers(0, 3)) < 3:
        given["data"] = draw(mostly(st.lists(mostly(element), min_size=count, max_size=count)))
    else:
        given["parameters"] = draw(mostly(places))
    return given


outputs = st.fixed_dictionaries({"name": maybe("s", "t")}, optional={"parameters": mostly(parameters)})
heads = st.fixed_dictionaries(
    {"inputs": mostly(st.lists(mostly(an_input()), max_size=3))},
    optional={
        "outputs": mostly(st.lists(mostly(outputs), max_size=2)),
        "id": mostly(st.text(max_size=5)),
        "parameters": mostly(parameters),
    },
)
lengths = st.none() | st.integers(-2, 400) | st.integers()


def read(body: bytes, header_length: int | None) -> ParsedInfer | None:
    """What was read, None if it was refused; whatever else is raised is a bug."""
    try:
        return read_infer("ranker", None, body, header_length, SETTINGS)
    except QueryRefused as error:
        json.dumps({"error": str(error)}).encode()
        return None


def check(parsed: ParsedInfer | None) -> None:
    """A query that the next room can rely on: its tensors are what they claim to be."""
    if parsed is None:
        return
    query = parsed.query
    query.id.encode()
    assert query.deadline_ms >= 1
    assert 0 <= query.priority <= 255
    assert len({tensor.name for tensor in query.inputs}) == len(query.inputs)
    for tensor in query.inputs:
        check_tensor(tensor)
        values = tensor.array()
        assert values.shape == tensor.shape
        assert bytes(Tensor.of(tensor.name, tensor.datatype, values).data) == bytes(tensor.data)


@given(st.binary(max_size=200), lengths)
@example(b"\xef\xbb\xbf{}", None)
@example("{}".encode("utf-16"), None)
def test_arbitrary_bytes_are_refused_or_read(body: bytes, header_length: int | None) -> None:
    check(read(body, header_length))


@settings(max_examples=400)
@given(heads, st.binary(max_size=16), st.booleans(), st.sampled_from([0, 5000]))
def test_arbitrary_heads_are_refused_or_read(head: Any, tail: bytes, binary: bool, padding: int) -> None:
    text = json.dumps(head).encode() + b" " * padding  # large heads have another parser

    check(read(text + tail if binary else text, len(text) if binary else None))


@settings(max_examples=250)
@given(heads)
def test_both_parsers_read_the_same(head: Any) -> None:
    text = json.dumps(head).encode()
    small, large = read(text, None), read(text + b" " * 5000, None)

    assert (small is None) == (large is None)
    if small is not None and large is not None:
        assert [(t.name, t.datatype, t.shape, bytes(t.data)) for t in small.query.inputs] == [
            (t.name, t.datatype, t.shape, bytes(t.data)) for t in large.query.inputs
        ]
        small.query.inputs = large.query.inputs = []
        assert small == large


@settings(max_examples=250)
@given(st.lists(typed_values(), min_size=1, max_size=2), st.data())
def test_damaged_requests_are_refused_or_read(given_values: list[Any], data: st.DataObject) -> None:
    body, header_length = request_body([as_input(f"x{i}", *one) for i, one in enumerate(given_values)])
    damaged = bytearray(body)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, max(0, len(damaged) - 1)))
        kind = data.draw(st.sampled_from(["flip", "cut", "add"]))
        if kind == "cut":
            del damaged[at : at + data.draw(st.integers(1, 8))]
        elif kind == "add":
            damaged[at:at] = data.draw(st.binary(min_size=1, max_size=8))
        elif damaged:
            damaged[at] = data.draw(st.integers(0, 255))
    moved = header_length if header_length is None else header_length + data.draw(st.integers(-2, 2))

    check(read(bytes(damaged), moved))


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serve(two_inputs(), PLAN) as served:
        yield served


@settings(max_examples=60, deadline=None)
@given(heads, st.binary(max_size=16), st.data())
def test_no_request_breaks_gateway_or_worker(served: Served, head: Any, tail: bytes, data: st.DataObject) -> None:
    """Wild heads, and requests that the model would take but for a few bytes."""
    text, body = json.dumps(head).encode(), bytearray(request_body(inputs_of())[0])
    at = data.draw(st.integers(0, len(body) - 1))
    body[at : at + data.draw(st.integers(0, 3))] = tail
    length = str(request_body(inputs_of())[1])

    for path in ("tensors", "tensors/versions/1"):
        assert post(served, f"/v2/models/{path}/infer", text, {})[0] in (200, 400)
        headers = {"Inference-Header-Content-Length": length}
        assert post(served, f"/v2/models/{path}/infer", bytes(body), headers)[0] in (200, 400)

    with served.client() as client:
        check_answer(client.infer("tensors", inputs_of()))


@given(heads)
def test_what_a_request_claims_costs_no_memory(head: Any) -> None:
    text = json.dumps(head).encode()
    tracemalloc.start()
    try:
        read(text, None)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak_bytes < 1 << 20


@given(st.binary(max_size=200), st.sampled_from([b"gzip", b"deflate", b"x-gzip", b"br"]))
def test_arbitrary_compressed_bodies_are_refused_or_unpacked(body: bytes, encoding: bytes) -> None:
    with contextlib.suppress(QueryRefused):
        assert len(decompressed(body, encoding, 1000)) <= 1000
