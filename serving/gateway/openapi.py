"""The hot routes in the OpenAPI document: their schemas come from the types that read the bodies."""

from typing import Any

import msgspec

from serving.gateway.schema import FeedbackBody, RankAnswer, RankBody


class ErrorAnswer(msgspec.Struct):
    """error: what is wrong and what to do."""

    error: str


class FeedbackAnswer(msgspec.Struct):
    """accepted: how many events are now safe."""

    accepted: int


_ERRORS = {
    "400": "A field breaks a rule; the message names both.",
    "413": "The body is larger than the gateway takes.",
    "415": "The body is not application/json.",
    "429": "All permits are out: come back after Retry-After seconds.",
    "500": "The model failed on this query, or a bug did; the log says more.",
    "503": "No replica can answer (rank), or events cannot be kept now (feedback).",
}


def with_hot_routes(document: dict[str, Any]) -> dict[str, Any]:
    """The document with the routes that FastAPI does not see."""
    types = (RankBody, RankAnswer, FeedbackBody, FeedbackAnswer, ErrorAnswer)
    references, components = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    rank_body, rank_answer, feedback_body, feedback_answer, error = references
    document.setdefault("components", {}).setdefault("schemas", {}).update(components)
    model = {"name": "model", "in": "path", "required": True, "schema": {"type": "string"}}
    document["paths"]["/v1/models/{model}/rank"] = {
        "post": _operation(
            "rank",
            "Rank candidates for a query",
            rank_body,
            ("200", rank_answer),
            error,
            {**_ERRORS, "404": "No such model is served.", "504": "The deadline passed."},
            [model],
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
    return document


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
