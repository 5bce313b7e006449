"""Inference over REST: the real, unmodified tritonclient against a real gateway and worker."""

import asyncio
import gzip
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tritonclient.http.aio
from numpy.typing import NDArray
from tritonclient.http import InferenceServerClient, InferInput
from tritonclient.utils import InferenceServerException

from serving.tensors import DATATYPES
from tests.serving.http_gateway import MAX_CANDIDATES
from tests.serving.oip_gateway import EVERY, PLAN, ROWS, Served, check, every_datatype, inputs_of, matrices, post, serve
from tests.serving.oip_tensors import NUMPY, an_output, as_input, same
from tests.serving.test_infer import two_inputs
from tests.serving.workbench import PATIENCE_S


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serve(two_inputs(), PLAN) as served:
        yield served


@pytest.fixture(scope="module")
def every() -> Iterator[Served]:
    with serve(every_datatype(), EVERY) as served:
        yield served


@pytest.fixture
def client(served: Served) -> Iterator[InferenceServerClient]:
    with served.client() as client:
        yield client


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("rows", [1, 2, 900])
def test_several_inputs_and_outputs_in_binary_and_as_json(
    client: InferenceServerClient, rows: int, binary: bool
) -> None:
    check(client.infer("tensors", inputs_of(rows, binary=binary)), rows)

    asked = [an_output("larger", binary_data=binary), an_output("sum", binary_data=not binary)]
    result = client.infer("tensors", inputs_of(rows, binary=binary), outputs=asked)
    check(result, rows)
    assert [one["name"] for one in result.get_response()["outputs"]] == ["larger", "sum"]


@pytest.mark.parametrize("binary_outputs", [True, False])
def test_every_datatype_goes_through_a_model_and_back(every: Served, binary_outputs: bool) -> None:
    random = np.random.default_rng(3)
    texts = np.empty(ROWS, dtype=object)
    texts[:] = [b"", b"query", "größe".encode(), b"a\0b"]
    values: dict[str, NDArray[Any]] = {"BYTES": texts, "BOOL": random.integers(0, 2, ROWS).astype(bool)}
    for name in DATATYPES:
        if name not in values:
            values[name] = (random.integers(0, 100, ROWS) / (8 if "F" in name else 1)).astype(NUMPY[name])
    inputs = [as_input(f"in_{name.lower()}", name, given) for name, given in values.items()]
    outputs = [an_output(f"out_{name.lower()}", binary_data=binary_outputs) for name in DATATYPES]

    with every.client() as client:
        result = client.infer("every", inputs, outputs=outputs)

    for name, given in values.items():
        doubled = (given.astype(np.float64) * 2).astype(given.dtype) if "F" in name else given
        assert same(result.as_numpy(f"out_{name.lower()}"), doubled), name


def test_the_answer_names_id_model_and_version(client: InferenceServerClient) -> None:
    for version in ("", "1"):
        answer = client.infer("tensors", inputs_of(), model_version=version, request_id="r-7 ö").get_response()
        assert (answer["id"], answer["model_name"], answer["model_version"]) == ("r-7 ö", "tensors", "1")


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
@pytest.mark.parametrize("rows", [2, 900])
@pytest.mark.parametrize("binary", [True, False])
def test_compression_goes_both_ways(client: InferenceServerClient, algorithm: str, rows: int, binary: bool) -> None:
    result = client.infer(
        "tensors",
        inputs_of(rows, binary=binary),
        request_compression_algorithm=algorithm,
        response_compression_algorithm=algorithm,
    )

    check(result, rows)


def test_an_answer_is_compressed_when_it_was_asked_for(served: Served) -> None:
    body, length = InferenceServerClient.generate_request_body(inputs_of(900))
    headers = {"Inference-Header-Content-Length": str(length), "Accept-Encoding": "gzip"}

    status, answered, raw = post(served, "/v2/models/tensors/infer", body, headers)

    assert (status, answered["content-encoding"]) == (200, "gzip")
    assert len(raw) < len(gzip.decompress(raw))


def test_classification_gives_the_largest_values_of_each_row(client: InferenceServerClient) -> None:
    left, right = matrices()
    result = client.infer("tensors", inputs_of(), outputs=[an_output("sum", class_count=2)])

    found = result.as_numpy("sum")
    assert found.shape == (2, 2)
    for row, texts in zip(left + right, found, strict=True):
        order = np.argsort(-row)[:2]
        assert [text.decode() for text in texts] == [f"{row[at]:f}:{at}" for at in order]


def test_async_requests_over_threads_get_their_own_answers(served: Served) -> None:
    with InferenceServerClient(served.gateway.address, concurrency=4) as client:
        waiting = [client.async_infer("tensors", inputs_of(seed=seed)) for seed in range(20)]
        for seed, one in enumerate(waiting):
            check(one.get_result(timeout=PATIENCE_S), seed=seed)


def test_the_asyncio_client_works(served: Served) -> None:
    async def scenario() -> None:
        async with tritonclient.http.aio.InferenceServerClient(served.gateway.address) as client:
            assert await client.is_server_live()
            assert await client.is_model_ready("tensors")
            results = await asyncio.gather(*[client.infer("tensors", inputs_of(seed=seed)) for seed in range(10)])
            for seed, result in enumerate(results):
                check(result, seed=seed)
            for algorithm in ("gzip", "deflate"):
                packed = await client.infer(
                    "tensors",
                    inputs_of(binary=False),
                    request_compression_algorithm=algorithm,
                    response_compression_algorithm=algorithm,
                )
                check(packed)
            with pytest.raises(InferenceServerException, match="no such model"):
                await client.infer("nobody", inputs_of())

    asyncio.run(scenario())


# refusals


@pytest.mark.parametrize(
    ("model", "version", "inputs", "error"),
    [
        ("nobody", "", inputs_of(), r"\[404\].*nobody"),
        ("tensors", "9", inputs_of(), r"\[404\].*9"),
        ("tensors", "0x1", inputs_of(), r"\[400\] version='0x1': expected a number"),
        ("tensors", "", inputs_of()[:1], r"\[400\] input 'left': missing"),
        ("tensors", "", [*inputs_of(), as_input("more", "FP32", np.zeros(1, np.float32))], r"\[400\] input 'more'"),
        ("tensors", "", [inputs_of()[0], as_input("left", "FP64", np.zeros((2, 3)))], r"\[400\] input 'left'.*FP64"),
        (
            "tensors",
            "",
            [inputs_of()[0], as_input("left", "FP32", np.zeros((2, 4), np.float32))],
            r"\[400\] input 'left'.*\[2, 4\]",
        ),
        ("tensors", "", inputs_of(rows=MAX_CANDIDATES + 1), rf"\[400\].*{MAX_CANDIDATES + 1}"),
        ("tensors", "", [*inputs_of(), inputs_of()[0]], r"\[400\] input 'right': given twice"),
    ],
)
def test_what_does_not_fit_is_refused_with_status_tensor_and_rule(
    client: InferenceServerClient, model: str, version: str, inputs: list[InferInput], error: str
) -> None:
    with pytest.raises(InferenceServerException, match=error):
        client.infer(model, inputs, model_version=version)

    check(client.infer("tensors", inputs_of()))


def test_an_unknown_output_and_a_sequence_are_refused(client: InferenceServerClient) -> None:
    with pytest.raises(InferenceServerException, match=r"\[400\] output 'nothing'"):
        client.infer("tensors", inputs_of(), outputs=[an_output("nothing")])
    with pytest.raises(InferenceServerException, match=r"\[400\] parameters.sequence_id"):
        client.infer("tensors", inputs_of(), sequence_id=5)


@pytest.mark.parametrize(
    ("headers", "body", "status", "error"),
    [
        ({"Inference-Header-Content-Length": "x"}, b"{}", 400, "Inference-Header-Content-Length"),
        ({"Inference-Header-Content-Length": "99"}, b"{}", 400, "Inference-Header-Content-Length=99"),
        ({"Content-Encoding": "br"}, b"{}", 415, "expected gzip or deflate"),
        ({"Content-Encoding": "gzip"}, b"{}", 400, "not in content-encoding gzip"),
        ({"Content-Encoding": "gzip"}, gzip.compress(bytes(65 << 20)), 413, "after decompression"),
    ],
)
def test_lying_headers_are_refused(
    served: Served, headers: dict[str, str], body: bytes, status: int, error: str
) -> None:
    answered, _, raw = post(served, "/v2/models/tensors/infer", body, headers)

    assert answered == status
    assert error in json.loads(raw)["error"]
