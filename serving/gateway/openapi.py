"""The hot routes in the OpenAPI document: their schemas come from the types that read the bodies."""

from typing import Any

import msgspec

from serving.flow.deadlines import DEADLINE_HEADER
from serving.gateway.infer_head import RequestHead
from serving.gateway.schema import VERSION_HEADER, FeedbackBody, PrefetchBody, RankAnswer, RankBody


class ErrorAnswer(msgspec.Struct):
    """error: what is wrong and what to do."""

    error: str


class FeedbackAnswer(msgspec.Struct):
    """accepted: how many events are now safe."""

    accepted: int


class PrefetchAnswer(msgspec.Struct):
    """accepted: distinct items that the replicas were told of."""

    accepted: int


class OutputTensor(msgspec.Struct):
    """data: flat; absent if the values follow the JSON (`binary_data_size`) or are in shared memory."""

    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, Any] = {}
    data: list[Any] = []


class InferResponse(msgspec.Struct):
    """model_version: the one that answered. id: the request's."""

    model_name: str
    model_version: str
    outputs: list[OutputTensor]
    id: str = ""


_ERRORS = {
    "400": "A field breaks a rule; the message names both.",
    "413": "The body is larger than the gateway takes.",
    "415": "The body is not application/json.",
    "429": "All permits are out: come back after Retry-After seconds.",
    "500": "The model failed on this query, or a bug did; the log says more.",
    "503": "No replica can answer (rank, prefetch), or events cannot be kept now (feedback).",
}
_INFER_ERRORS = {
    "400": "A tensor or field breaks a rule; the message names both.",
    "404": "No such model or version is served.",
    "413": "The body is larger than the gateway takes, or becomes so when unpacked.",
    "415": "The body is compressed in another way than gzip or deflate.",
    "429": _ERRORS["429"],
    "500": "The model failed on this request, or a bug did; the log says more.",
    "503": "No replica can answer.",
    "504": "The deadline passed.",
}


def with_hot_routes(document: dict[str, Any]) -> dict[str, Any]:
    """The document with the routes that FastAPI does not see."""
    types = (
        *(RankBody, RankAnswer, FeedbackBody, FeedbackAnswer, ErrorAnswer, RequestHead, InferResponse),
        *(PrefetchBody, PrefetchAnswer),
    )
    references, components = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    rank_body, rank_answer, feedback_body, feedback_answer, error, infer_head, inferred, *prefetch = references
    document.setdefault("components", {}).setdefault("schemas", {}).update(components)
    model = {"name": "model", "in": "path", "required": True, "schema": {"type": "string"}}
    asked = {"name": VERSION_HEADER, "in": "header", "required": False, "schema": {"type": "integer"}}
    deadline = {"name": DEADLINE_HEADER, "in": "header", "required": False, "schema": {"type": "integer"}}
    version = {"name": "version", "in": "path", "required": True, "schema": {"type": "integer"}}
    document["paths"]["/v1/models/{model}/rank"] = {
        "post": _operation(
            "rank",
            "Rank candidates for a query",
            rank_body,
            ("200", rank_answer),
            error,
            {**_ERRORS, "404": "No such model is served.", "504": "The deadline passed."},
            [model, asked, deadline],
        )
    }
    document["paths"]["/v1/feedback"] = {
        "post": _operation(
            "feedback",
            "Report clicks and exposures of rankings, idempotent by event_id",
            feedback_body,
            ("202", feedback_answer),
            error,
            _ERRORS,
            [],
        )
    }
    document["paths"]["/v1/prefetch"] = {
        "post": _operation(
            "prefetch",
            "Fetch the rows of items that are about to be ranked",
            prefetch[0],
            ("202", prefetch[1]),
            error,
            {**{status: _ERRORS[status] for status in ("400", "413", "415", "503")}, "404": "No such model is served."},
            [],
        )
    }
    for path, place in (("", "champion"), ("/versions/{version}", "version")):
        document["paths"][f"/v2/models/{{model}}{path}/infer"] = {
            "post": _infer_operation(place, infer_head, inferred, error, [model, deadline, version][: 2 + bool(path)])
        }
    return document


def _infer_operation(
    place: str, body: dict[str, Any], answer: dict[str, Any], error: dict[str, Any], parameters: list[dict[str, Any]]
) -> dict[str, Any]:
    """As JSON alone, or JSON with the tensors' bytes after it."""
    operation = _operation(
        f"infer_{place}",
        f"Infer by the {place}: tensors in, tensors out (Open Inference Protocol)",
        body,
        ("200", answer),
        error,
        _INFER_ERRORS,
        parameters,
    )
    length = {"name": "Inference-Header-Content-Length", "schema": {"type": "integer"}}
    length["description"] = "Bytes of JSON before the binary tensors; absent if all is JSON."
    binary = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
    operation["parameters"] = [*parameters, {**length, "in": "header"}]
    operation["requestBody"]["content"].update(binary)
    operation["responses"]["200"]["content"].update(binary)
    operation["responses"]["200"]["headers"] = {length.pop("name"): length}
    return operation


def _operation(
    name: str,
    summary: str,
    body: dict[str, Any],
    success: tuple[str, dict[str, Any]],
    error: dict[str, Any],
    errors: dict[str, str],
    parameters: list[dict[str, Any]],
) -> dict[str, Any]:
    answers = {success[0]: {"description": "Done", "content": {"application/json": {"schema": success[1]}}}}
    for status, meaning in errors.items():
        answers[status] = {"description": meaning, "content": {"application/json": {"schema": error}}}
    return {
        "operationId": name,
        "summary": summary,
        "parameters": parameters,
        "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
        "responses": answers,
    }
