"""Open Inference Protocol requests for one float32 matrix, and the scores in their answers."""

import http.client
import struct
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import msgspec
import numpy as np
from numpy.typing import NDArray

from tests.bench.generators import Request

GRPC_METHOD = "/inference.GRPCInferenceService/ModelInfer"
INPUT, OUTPUT = "features", "scores"


def binary(base: str, model: str, matrix: NDArray[np.float32]) -> Request:
    """REST with the binary tensor extension, both ways."""
    head = msgspec.json.encode(
        {
            "inputs": [
                {
                    "name": INPUT,
                    "shape": matrix.shape,
                    "datatype": "FP32",
                    "parameters": {"binary_data_size": matrix.nbytes},
                }
            ],
            "outputs": [{"name": OUTPUT, "parameters": {"binary_data": True}}],
        }
    )
    headers = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(len(head))}
    return Request(f"{base}/v2/models/{model}/infer", head + matrix.tobytes(), headers)


def as_json(base: str, model: str, matrix: NDArray[np.float32]) -> Request:
    """REST, values as JSON numbers with the digits a client's float32 to float64 conversion gives."""
    values = matrix.astype(np.float64).ravel().tolist()
    body = {"inputs": [{"name": INPUT, "shape": matrix.shape, "datatype": "FP32", "data": values}]}
    return Request(f"{base}/v2/models/{model}/infer", msgspec.json.encode(body), {"Content-Type": "application/json"})


def over_grpc(address: str, model: str, matrix: NDArray[np.float32]) -> Request:
    """ModelInfer with raw contents; its answer's size is taken from one that was right."""
    message = _infer_message(model, matrix)
    answer = _call(address, message)
    body = b"\0" + struct.pack(">I", message.ByteSize()) + message.SerializeToString()
    headers = {"content-type": "application/grpc", "te": "trailers"}
    return Request(f"http://{address}{GRPC_METHOD}", body, headers, grpc=True, answer_bytes=5 + answer.ByteSize())


def scores(request: Request, model: str, matrix: NDArray[np.float32]) -> NDArray[np.float32]:
    """One answer's scores. Raises RuntimeError with the server's words if there is none."""
    if request.grpc:
        answer = _call(urlsplit(request.url).netloc, _infer_message(model, matrix))
        return np.frombuffer(answer.raw_output_contents[0], np.float32)
    raw, headers = post(request)
    if length := headers.get("inference-header-content-length"):
        return np.frombuffer(raw[int(length) :], np.float32)
    return np.asarray(msgspec.json.decode(raw)["outputs"][0]["data"], dtype=np.float32).ravel()


def post(request: Request) -> tuple[bytes, Mapping[str, str]]:
    """Body and headers (lower case) of one answer. Raises RuntimeError unless it is a 200."""
    parts = urlsplit(request.url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=30)
    try:
        connection.request("POST", parts.path, request.body, dict(request.headers))
        answer = connection.getresponse()
        raw = answer.read()
    finally:
        connection.close()
    if answer.status != 200:
        raise RuntimeError(f"{request.url} gave {answer.status}: {raw[:300]!r}")
    return raw, {name.lower(): value for name, value in answer.getheaders()}


def _infer_message(model: str, matrix: NDArray[np.float32]) -> Any:
    from tritonclient.grpc import service_pb2

    message = service_pb2.ModelInferRequest(model_name=model)
    message.inputs.add(name=INPUT, datatype="FP32", shape=matrix.shape)
    message.raw_input_contents.append(matrix.tobytes())
    return message


def _call(address: str, message: Any) -> Any:
    import grpc
    from tritonclient.grpc import service_pb2_grpc

    with grpc.insecure_channel(address) as channel:
        return service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(message, timeout=30)
