"""What a key's holder sends to the control API, and what strangers send in its place."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from deploy.control.access import authenticate
from deploy.control.app import answer
from deploy.control.conditions import IfMatch, idempotency_key
from deploy.control.errors import ControlRefused
from deploy.logs import adopt
from registry.api_keys import MemoryKeyRing
from serving.gateway.control.routes import CONTROL_ROUTES
from tests.builders import NOW_MS, a_spec
from tests.deploy.control_desk import MODEL, a_control_bench
from tests.fuzz.target import READ, Check, Target, pure, refusal
from tests.fuzz.targets.identity import VERIFIER

WHY = {"why": "as the test wants it"}
BODIES: dict[str, dict[str, Any]] = {
    "promote": {"version": 2, **WHY, "evidence": {"ndcg": 0.5}, "holdback": 10},
    "rollback": {**WHY, "to": 1, "evidence": {}},
    "start_rollout": {"version": 2, **WHY, "steps": msgspec.to_builtins(a_spec().steps), "holdback_s": 60.0},
    "plan_rollout": {"version": 2, **WHY, "underpowered": True},
    "change_plan": {
        **WHY,
        "layers": [{"name": "l", "salt": "s", "experiments": [{"name": "e", "version": 2, "weight": 100}]}],
        "overrides": [{"unit": "u", "version": 2}],
        "explore_share": 10,
        "explore_depth": 5,
    },
    "add_evidence": {
        "kind": "offline_gate",
        "challenger": 2,
        "verdict": "passed",
        **WHY,
        "champion": 1,
        "since_ms": 0,
        "until_ms": 5,
        "body": {"sample": 100, "interval": [0.1, 0.2]},
    },
    "make_key": {"name": "ci", "role": "viewer", "models": [MODEL]},
    "retrain": {**WHY, "since_ms": 0, "until_ms": 3_600_000},
    "retry_run": {**WHY, "from_step": "train"},
}


def _seeds() -> list[bytes]:
    """Requests as JSON: route, path, query, headers, body."""
    changing = {"idempotency-key": "one", "if-match": '"1", "2"', "x-on-behalf-of": "Ann"}
    seeds = []
    for route in CONTROL_ROUTES:
        path = {name: value for name, value in (("model", MODEL), ("id", f"{MODEL}-2")) if f"{{{name}}}" in route.path}
        query = {} if route.method == "POST" else {"limit": "5", "before": "3", "state": "open", "since_ms": "0"}
        body = BODIES.get(route.name, WHY) if route.body else None
        headers = {} if route.method == "GET" else changing
        seeds.append(
            json.dumps({"route": route.name, "path": path, "query": query, "headers": headers, "body": body}).encode()
        )
    return seeds


@contextmanager
def _answers(folder: Path) -> Iterator[Check]:
    """Every request is answered by the real desk on SQLite: done, or refused with words, never with a 500."""
    routes = {route.name: route for route in CONTROL_ROUTES}

    def texts(told: Any) -> dict[str, str]:
        return {str(name): str(value) for name, value in told.items()} if isinstance(told, dict) else {}

    with a_control_bench(folder) as bench:
        assert bench.promote(1).status_code == 200

        def check(data: bytes) -> str:
            try:
                told = json.loads(data)
                route = routes[told["route"]]
            except (ValueError, KeyError, TypeError, RecursionError):
                return "no request"
            headers = texts(told.get("headers")) | {
                "authorization": f"Bearer {bench.admin}",
                "content-type": "application/json",
            }
            raw = json.dumps(told.get("body")).encode()
            path = {name: "?" for name in ("model", "id") if f"{{{name}}}" in route.path} | texts(told.get("path"))
            reply = answer(bench.desk, route, path, texts(told.get("query")), headers, raw)
            assert reply.status in (*range(200, 300), *range(400, 500)), reply
            found = msgspec.json.decode(reply.body)
            if reply.status < 300:
                return READ
            return f"{route.name} {reply.status} {refusal(ControlRefused(found['error']))}"

        yield check


def _headers(data: bytes) -> str:
    """Headers as they come from the wire, in latin-1."""
    text = data.decode("latin-1")
    came = READ
    for read in (
        IfMatch.parse,
        idempotency_key,
        lambda given: authenticate(MemoryKeyRing(), VERIFIER, given, given, NOW_MS),
    ):
        try:
            read(text)
        except ControlRefused as error:
            came = came if came != READ else refusal(error)
    return READ if came.startswith("NoKey") else came


def _log_line(data: bytes) -> str:
    """A line that a process wrote becomes one JSON line that can be written down."""
    line = adopt("redis", data, 0.0)
    assert json.loads(line)["process"] == "redis"
    assert "\n" not in line
    line.encode()
    return READ


def targets() -> list[Target]:
    """The control API, its headers, and the supervisor's ear."""
    lines = [b"* Ready", b'{"process":"redis","message":"x"}', b'{"level":"INFO","message":"x"}', b"12:M WARNING a"]
    return [
        Target("control.answer", _answers, _seeds, "json", 0.1),
        pure(
            "control.headers",
            _headers,
            lambda: [b'"7"', b'"7",W/"8"', b"*", b"0123-abc", b"Bearer sluice_x"],
            "lines",
            0.5,
        ),
        pure("logs.adopted", _log_line, lambda: lines, "json"),
    ]
