"""What the Open Inference Protocol tells of server and models, by the real tritonclient; and what it leaves out."""

import http.client
import json
from collections.abc import Iterator

import pytest
from google.protobuf import json_format
from tritonclient.grpc import model_config_pb2
from tritonclient.http import InferenceServerClient
from tritonclient.utils import InferenceServerException

from tests.serving.http_gateway import MAX_CANDIDATES
from tests.serving.oip_gateway import EVERY, PLAN, Served, check, every_datatype, inputs_of, post, serve
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


def test_health_and_server_metadata(client: InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    described = client.get_server_metadata()
    assert described["name"] == "sluice"
    assert {"binary_tensor_data", "classification", "statistics", "system_shared_memory"} <= set(
        described["extensions"]
    )


def test_readiness_is_the_status_code(client: InferenceServerClient) -> None:
    assert client.is_model_ready("tensors")
    assert client.is_model_ready("tensors", "1")
    assert not client.is_model_ready("tensors", "2")
    assert not client.is_model_ready("nobody")


@pytest.mark.parametrize("version", ["", "1"])
def test_metadata_and_configuration_are_the_manifests(client: InferenceServerClient, version: str) -> None:
    metadata = client.get_model_metadata("tensors", version)
    config = client.get_model_config("tensors", version)

    assert (metadata["name"], metadata["versions"]) == ("tensors", ["1"])
    assert metadata["inputs"][0] == {"name": "left", "datatype": "FP32", "shape": [-1, 3]}
    assert [one["name"] for one in metadata["outputs"]] == ["sum", "larger"]
    assert config["max_batch_size"] == MAX_CANDIDATES
    assert config["input"][0] == {"name": "left", "data_type": "TYPE_FP32", "dims": [3]}
    assert config["output"][1] == {"name": "larger", "data_type": "TYPE_INT32", "dims": [3]}


def test_the_configuration_is_one_that_triton_knows(client: InferenceServerClient, every: Served) -> None:

    with every.client() as other:
        for config in (client.get_model_config("tensors"), other.get_model_config("every")):
            parsed = json_format.ParseDict(config, model_config_pb2.ModelConfig())
            assert parsed.name == config["name"]


def test_statistics_count_what_was_answered(client: InferenceServerClient, served: Served) -> None:
    def successes() -> int:
        [stats] = client.get_inference_statistics("tensors")["model_stats"]
        count: int = stats["inference_stats"]["success"]["count"]
        return count

    before = successes()
    for _ in range(3):
        client.infer("tensors", inputs_of(5))
    served.gateway.until(lambda: successes() >= before + 3)

    [stats] = client.get_inference_statistics("tensors", "1")["model_stats"]
    assert client.get_inference_statistics()["model_stats"] == [stats]
    assert stats["inference_count"] >= 15
    assert stats["execution_count"] >= 3
    spent = stats["inference_stats"]
    assert spent["compute_infer"]["ns"] > 0
    assert spent["compute_output"]["ns"] > 0
    assert spent["compute_output"]["count"] == spent["success"]["count"]
    parts = ("queue", "compute_input", "compute_infer", "compute_output")
    assert spent["success"]["ns"] == sum(spent[part]["ns"] for part in parts)
    assert all(batch["compute_output"]["ns"] > 0 for batch in stats["batch_stats"])
    assert sum(batch["compute_infer"]["count"] for batch in stats["batch_stats"]) == stats["execution_count"]


def test_a_model_is_unloaded_and_loaded_again_when_told(client: InferenceServerClient) -> None:
    held = {"name": "tensors", "version": "1", "state": "READY", "reason": ""}
    assert client.get_model_repository_index() == [held]

    client.unload_model("tensors")
    assert client.get_model_repository_index() == [{**held, "state": "UNAVAILABLE", "reason": "unloaded"}]
    assert not client.is_model_ready("tensors")
    with pytest.raises(InferenceServerException, match=r"\[\d+\].*tensors"):
        client.infer("tensors", inputs_of())

    client.load_model("tensors")
    assert client.get_model_repository_index() == [held]
    check(client.infer("tensors", inputs_of()))


def test_what_cannot_be_loaded_is_refused(client: InferenceServerClient) -> None:
    with pytest.raises(InferenceServerException, match=r"\[404\].*nobody"):
        client.load_model("nobody")
    with pytest.raises(InferenceServerException, match=r"\[501\].*registry"):
        client.load_model("tensors", config="{}")


@pytest.mark.parametrize(
    ("path", "status", "error"),
    [
        ("/v2/trace/setting", 501, "trace settings are not served"),
        ("/v2/models/tensors/trace/setting", 501, "trace settings are not served"),
        ("/v2/logging", 501, "SLUICE_LOG_LEVEL"),
        ("/v2/models/tensors/generate", 404, "no such route"),
        ("/v2/repository/index", 400, "body:"),
        ("/v2/systemsharedmemory/region/r/register", 501, "SLUICE_SHARED_MEMORY_REGIONS=1"),
        ("/v2/models/tensors/infer", 400, "body: expected `object`"),
    ],
)
def test_what_is_not_served_says_so(served: Served, path: str, status: int, error: str) -> None:
    answered, _, body = post(served, path, b"[", {})

    assert answered == status
    assert json.loads(body).keys() == {"error"}
    assert error in json.loads(body)["error"]


def test_the_routes_are_documented(served: Served) -> None:
    connection = http.client.HTTPConnection(served.gateway.address, timeout=PATIENCE_S)
    connection.request("GET", "/openapi.json")
    document = json.loads(connection.getresponse().read())
    connection.close()

    for path in ("/v2/models/{model}/infer", "/v2/models/{model}/versions/{version}/infer"):
        operation = document["paths"][path]["post"]
        assert operation["requestBody"]["content"].keys() == {"application/json", "application/octet-stream"}
    assert {"/v2", "/v2/models/{model}/config", "/v2/repository/index"} <= document["paths"].keys()
