"""The hot routes in the OpenAPI document: their schemas come from the types that read the bodies."""

from typing import Any

import msgspec

from serving.flow.deadlines import DEADLINE_HEADER
from serving.gateway.infer_head import RequestHead
from serving.gateway.oip import IndexBody, LoadBody, RegionBody
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


_REST_ERRORS = {
    "400": "A field breaks a rule; the message names both.",
    "404": "No such model, version or region.",
    "413": "The body is larger than the gateway takes.",
    "501": "This part of the protocol is not served, or is switched off here; the message says what to do.",
    "503": "Not now: it is not ready, or what keeps it is away.",
}
_REST_BODIES: dict[str, tuple[type, bool]] = {
    "/v2/repository/index": (IndexBody, False),
    "/v2/repository/models/{model}/load": (LoadBody, False),
    "/v2/systemsharedmemory/region/{region}/register": (RegionBody, True),
}
_NAMES = {
    "model": {"type": "string", "pattern": "^[a-z0-9][a-z0-9_-]{0,63}$"},
    "version": {"type": "string", "pattern": "^[0-9]{1,9}$"},
}


def with_rest(document: dict[str, Any]) -> dict[str, Any]:
    """The document with what FastAPI cannot see of its own routes: their refusals are ours, not its 422, and bodies
    are read by our types."""
    kinds = [kind for kind, _ in _REST_BODIES.values()]
    references, components = msgspec.json.schema_components(
        [*kinds, ErrorAnswer], ref_template="#/components/schemas/{name}"
    )
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    for ours in ("HTTPValidationError", "ValidationError"):
        schemas.pop(ours, None)
    schemas.update(components)
    bodies = dict(zip(_REST_BODIES, references, strict=False))
    error = {"application/json": {"schema": references[-1]}}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            operation["responses"].pop("422", None)
            for parameter in operation.get("parameters", ()):
                if parameter["in"] == "path" and parameter["name"] in _NAMES:
                    parameter["schema"] = _NAMES[parameter["name"]]
            for status in _rest_statuses(path, method):
                content = {"application/json": {"schema": {}}} if status == "503" and path.endswith("ready") else error
                operation["responses"].setdefault(status, {"description": _REST_ERRORS[status], "content": content})
            if method == "post" and path in bodies:
                content = {"application/json": {"schema": bodies[path]}}
                operation["requestBody"] = {"required": _REST_BODIES[path][1], "content": content}
    return document


def _rest_statuses(path: str, method: str) -> tuple[str, ...]:
    if path.startswith("/v2/models/") or "/region/{region}" in path or "{model}/" in path:
        return ("400", "404", "413", "501", "503")
    if "{" in path:
        return ("404", "503")
    if method == "post":
        return ("400", "413", "503")
    return ("503",) if path.endswith("ready") else ()


def with_hot_routes(document: dict[str, Any]) -> dict[str, Any]:
    """The document with the routes that FastAPI does not see."""
    types = (
        *(RankBody, RankAnswer, FeedbackBody, FeedbackAnswer, ErrorAnswer, RequestHead, InferResponse),
        *(PrefetchBody, PrefetchAnswer),
    )
    references, components = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    rank_body, rank_answer, feedback_body, feedback_answer, error, infer_head, inferred, *prefetch = references
    document.setdefault("components", {}).setdefault("schemas", {}).update(components)
    model = {"name": "model", "in": "path", "required": True, "schema": _NAMES["model"]}
    asked = {"name": VERSION_HEADER, "in": "header", "required": False, "schema": {"type": "integer"}}
    deadline = {"name": DEADLINE_HEADER, "in": "header", "required": False, "schema": {"type": "integer"}}
    version = {"name": "version", "in": "path", "required": True, "schema": _NAMES["version"]}
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
