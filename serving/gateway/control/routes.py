"""The control plane's routes: one table, from which the gateway forwards and documents them and the
controller answers them, and a router that does the first."""

from dataclasses import dataclass
from typing import Any, Protocol

import fastapi
import msgspec

from registry.roles import Role
from serving.errors import BodyTooLarge
from serving.gateway.control.controller import CLIENT_HEADER, Headers
from serving.gateway.control.drift import (
    DriftAnswer,
    DriftDaysAnswer,
    DriftReportAnswer,
    DriftReportList,
    DriftReportWish,
    RebaselineAnswer,
    ReportBody,
)
from serving.gateway.control.evidence import EvidenceAnswer, EvidenceBody, EvidenceList, ExplainAnswer, LooksAnswer
from serving.gateway.control.fields import WhyBody
from serving.gateway.control.keys import (
    AuditAnswer,
    KeyAnswer,
    KeyBody,
    KeysAnswer,
    LimitBody,
    MeAnswer,
    NewKeyAnswer,
    RotateBody,
)
from serving.gateway.control.rollouts import PlannedAnswer, RolloutAnswer, RolloutBody, RolloutList, RolloutReport
from serving.gateway.control.runs import RetrainBody, RetryBody, RunAnswer, RunList, RunsAnswer
from serving.gateway.control.traffic import (
    ChangeAnswer,
    HistoryAnswer,
    LiveAnswer,
    PlanBody,
    PromoteBody,
    RollbackBody,
    TrafficAnswer,
    VersionsAnswer,
)
from serving.gateway.http import Answer
from serving.settings import ControlSettings


@dataclass(frozen=True, slots=True)
class ControlRoute:
    """role: the least that a key needs. body: None if the route takes none. success: its status.

    conditional: whether `If-Match` with a plan revision counts. own: of no model, and answered out of what the key is
    good for, whatever that is. page: whether a person may open it in a browser, which sends a key as the password of
    Basic authentication, and gets HTML.
    """

    name: str
    method: str
    path: str
    summary: str
    role: Role
    answer: type
    body: type | None = None
    success: int = 200
    conditional: bool = False
    own: bool = False
    page: bool = False


_MODEL = "/v1/models/{model}"


def _change(
    name: str, path: str, summary: str, role: Role, answer: type, body: type, success: int = 200
) -> ControlRoute:
    """Of a model's traffic: on the revision that the client has seen, if it says so."""
    return ControlRoute(name, "POST", _MODEL + path, summary, role, answer, body, success, conditional=True)


def _look(name: str, path: str, summary: str, answer: type, role: Role = "viewer") -> ControlRoute:
    return ControlRoute(name, "GET", path, summary, role, answer)


_ROLLOUT = "/rollouts/{id}"
_RUN = f"{_MODEL}/runs/{{id}}"

CONTROL_ROUTES = (
    _change("promote", "/promote", "Make a version champion, alone", "admin", ChangeAnswer, PromoteBody),
    _change("rollback", "/rollback", "Take back what came last", "operator", ChangeAnswer, RollbackBody),
    _change("change_plan", "/plan", "Experiments by hand, overrides, exploration", "admin", ChangeAnswer, PlanBody),
    _look("plan", f"{_MODEL}/plan", "The traffic plan as it is decided", ChangeAnswer),
    _look("history", f"{_MODEL}/history", "Who changed the traffic, when, why", HistoryAnswer),
    _change("start_rollout", "/rollouts", "Start a rollout", "operator", RolloutAnswer, RolloutBody, 201),
    _change("plan_rollout", "/rollouts/plan", "What it would begin with", "operator", PlannedAnswer, RolloutBody),
    _look("rollouts", f"{_MODEL}/rollouts", "Rollouts; `?state=open` for those not over", RolloutList),
    _look("rollout", f"{_MODEL}{_ROLLOUT}", "One rollout, its history and evidence", RolloutReport),
    _look("explain_rollout", f"{_MODEL}{_ROLLOUT}/explain", "Why it stands where it stands", ExplainAnswer),
    _change("pause_rollout", f"{_ROLLOUT}/pause", "Advance no more for now", "operator", RolloutAnswer, WhyBody),
    _change("resume_rollout", f"{_ROLLOUT}/resume", "Go on", "operator", RolloutAnswer, WhyBody),
    _change("abort_rollout", f"{_ROLLOUT}/abort", "End it; the champion for all", "operator", RolloutAnswer, WhyBody),
    _change("add_evidence", "/evidence", "Hand in a measurement", "operator", EvidenceAnswer, EvidenceBody, 201),
    _look("evidence", f"{_MODEL}/evidence", "Evidence of the last 30 days", EvidenceList),
    ControlRoute(
        *("retrain", "POST", f"{_MODEL}/retrain", "Learn from a window of clicks, as far as the gates let it"),
        *("operator", RunAnswer, RetrainBody, 202),
    ),
    _look("drift", f"{_MODEL}/drift", "The newest closed days, and the alarms that are open", DriftAnswer),
    ControlRoute(
        *("rebaseline", "POST", f"{_MODEL}/drift/rebaseline", "Features mean something else from now on"),
        *("operator", RebaselineAnswer, WhyBody),
    ),
    _look("drift_reports", f"{_MODEL}/drift/reports", "Evidently's reports of closed days", DriftReportList),
    ControlRoute(
        *("drift_report", "GET", f"{_MODEL}/drift/reports/{{id}}", "One report, or `latest`; `?arm=`, `?format=`"),
        *("viewer", DriftReportAnswer),
        page=True,
    ),
    ControlRoute(
        *("want_drift_report", "POST", f"{_MODEL}/drift/reports", "Have a day's report made, in a minute or so"),
        *("operator", DriftReportWish, ReportBody, 202),
    ),
    _look("all_runs", "/v1/runs", "Runs of pipelines; `?state=dead` for those that wait for a person", RunsAnswer),
    _look("runs", f"{_MODEL}/runs", "A model's runs of pipelines, `?state=`, `?limit=`", RunList),
    _look("run", _RUN, "One run: its steps, how far it is, what came of it", RunAnswer),
    ControlRoute(
        "retry_run", "POST", f"{_RUN}/retry", "Go on with it, or from a step on", "operator", RunAnswer, RetryBody
    ),
    ControlRoute("cancel_run", "POST", f"{_RUN}/cancel", "End it; what is done stays", "operator", RunAnswer, WhyBody),
    ControlRoute("me", "GET", "/v1/me", "Whose key it is, and the models it is for", "viewer", MeAnswer, own=True),
    _look("versions", f"{_MODEL}/versions", "Versions and their place in the traffic", VersionsAnswer),
    _look("traffic", f"{_MODEL}/traffic", "Answers by arm, time by stage: the last `?minutes=`, 15", TrafficAnswer),
    _look("looks", f"{_MODEL}{_ROLLOUT}/looks", "Its gates' intervals over time", LooksAnswer),
    _look("drift_days", f"{_MODEL}/drift/days", "Shifts by day; `?days=&arm=&family=&limit=`", DriftDaysAnswer),
    _look("live", f"{_MODEL}/live", "A few of the newest answers, `?limit=`", LiveAnswer),
    _look("keys", "/v1/keys", "All API keys, without the keys themselves", KeysAnswer, "admin"),
    ControlRoute("make_key", "POST", "/v1/keys", "A new API key", "admin", NewKeyAnswer, KeyBody, success=201),
    ControlRoute("revoke_key", "POST", "/v1/keys/{id}/revoke", "End an API key for good", "admin", KeyAnswer),
    ControlRoute(
        *("rotate_key", "POST", "/v1/keys/{id}/rotate", "Another text for an API key; the old one is good for a while"),
        *("admin", NewKeyAnswer, RotateBody),
    ),
    ControlRoute("limit_key", "POST", "/v1/keys/{id}/limit", "An API key's quota", "admin", KeyAnswer, LimitBody),
    _look("audit", "/v1/audit", "Who asked for what; `?limit=`, `?before=`, `?model=`", AuditAnswer, "admin"),
)


class Asks(Protocol):
    """See `Controller.ask`."""

    async def __call__(self, method: str, target: bytes, headers: Headers, body: bytes) -> Answer: ...


def control_router(ask: Asks, settings: ControlSettings) -> fastapi.APIRouter:
    """Hands on every control route as it comes."""
    router = fastapi.APIRouter()

    async def forward(request: fastapi.Request) -> fastapi.Response:
        body = await _body(request, settings.max_body_bytes)
        query = request.scope["query_string"]
        target = request.scope["raw_path"] + (b"?" + query if query else b"")
        told = [header for header in request.headers.raw if header[0] != CLIENT_HEADER]
        host = request.client.host if request.client else ""
        answer = await ask(request.method, target, [*told, (CLIENT_HEADER, host.encode("latin-1", "replace"))], body)
        response = fastapi.Response(answer.body, answer.status)
        response.raw_headers.extend([(b"content-type", answer.content_type), *answer.hints])
        return response

    for route in CONTROL_ROUTES:
        router.add_api_route(route.path, forward, methods=[route.method], include_in_schema=False, name=route.name)
    return router


async def _body(request: fastapi.Request, limit: int) -> bytes:
    """Raises BodyTooLarge."""
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > limit:
            raise BodyTooLarge(f"body: more than {limit} bytes")
        parts.append(part)
    return b"".join(parts)


_ERRORS = {
    "400": "A field or header breaks a rule; the message names both.",
    "401": "No key or token, or one that is not good: `Authorization: Bearer <key or token>`.",
    "403": "The role or models of the key or token do not reach so far.",
    "404": "No such model, version, rollout, run or key.",
    "409": "The state forbids it; the message says what to do first.",
    "412": "The traffic plan is at another revision than `If-Match` says.",
    "413": "The body is larger than the gateway takes.",
    "422": "The Idempotency-Key was used for another request, or the plan contradicts itself.",
    "429": "Too many control requests at once.",
    "501": "No controller belongs to this platform.",
    "503": "The controller, its database or MLflow is away; queries go on by the plan there is.",
    "504": "The controller did not answer in time and may still do it: repeat with the same Idempotency-Key.",
}
_KEY = "An API key, see `sluice keys`, or a token (JWT) of the platform's issuer."
_IDEMPOTENCY_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "schema": {"type": "string", "maxLength": 255},
    "description": "Yours, new for each change: repeated, it gets the first one's answer, whatever failed between.",
}
_ON_BEHALF_OF = {
    "name": "X-On-Behalf-Of",
    "in": "header",
    "schema": {"type": "string", "maxLength": 100},
    "description": "Who asked for it; the history names them beside the key.",
}
_IF_MATCH = {
    "name": "If-Match",
    "in": "header",
    "schema": {"type": "string"},
    "description": 'The plan revision that the decision was made on, in quotes as in an answer\'s ETag: `"7"`.',
}


def with_control_routes(document: dict[str, Any]) -> dict[str, Any]:
    """The OpenAPI document with the routes of the table."""
    types = list(dict.fromkeys(kind for route in CONTROL_ROUTES for kind in (route.body, route.answer) if kind))
    references, components = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    schema_of = dict(zip(types, references, strict=True))
    parts = document.setdefault("components", {})
    parts.setdefault("schemas", {}).update(components)
    parts.setdefault("securitySchemes", {})["key"] = {"type": "http", "scheme": "bearer", "description": _KEY}
    for route in CONTROL_ROUTES:
        document["paths"].setdefault(route.path, {})[route.method.lower()] = _operation(route, schema_of)
    return document


def _operation(route: ControlRoute, schema_of: dict[type, dict[str, Any]]) -> dict[str, Any]:
    parameters: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"} | rule}
        for name, rule in (("model", {"pattern": "^[a-z0-9][a-z0-9_-]{0,63}$"}), ("id", {}))
        if f"{{{name}}}" in route.path
    ]
    if route.method != "GET":
        parameters += [_IDEMPOTENCY_KEY, _ON_BEHALF_OF, *([_IF_MATCH] if route.conditional else [])]
    done: dict[str, Any] = {
        "description": "Done",
        "content": {"application/json": {"schema": schema_of[route.answer]}},
    }
    if "{model}" in route.path:
        done["headers"] = {"ETag": {"schema": {"type": "string"}, "description": "The plan's revision, in quotes."}}
    if route.page:
        done["content"]["text/html"] = {"schema": {"type": "string"}}
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorAnswer"}}}
    operation: dict[str, Any] = {
        "operationId": route.name,
        "summary": route.summary,
        "description": f"For keys with the role {route.role} or more.",
        "security": [{"key": []}],
        "parameters": parameters,
        "responses": {str(route.success): done}
        | {status: {"description": meaning, "content": error} for status, meaning in _ERRORS.items()},
    }
    if route.body is not None:
        content = {"application/json": {"schema": schema_of[route.body]}}
        operation["requestBody"] = {"required": True, "content": content}
    return operation
