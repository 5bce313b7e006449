"""The control API from the command line to the answers, over the real platform with its real MLflow."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from deploy import wiring
from deploy.client import GatewayClient
from deploy.features.store import feature_client
from registry.artefacts import write
from registry.contracts.traffic import TrafficPlan
from serving.features.materialiser import write_rows
from serving.gateway.control.routes import CONTROL_ROUTES
from tests.builders import a_package
from tests.e2e.platforms_under_fire import ITEMS, MODEL, Load, Platform, until

ROOT = Path(__file__).resolve().parents[2]
UNITS = 400
SCALES = {1: 1.0, 2: -1.0, 3: 2.0}


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """With three versions registered by the real command; version 1 is champion."""
    folder = tmp_path_factory.mktemp("promote")
    started = Platform.start(folder / "home", with_mlflow=True)
    try:
        values = np.arange(len(ITEMS), dtype=np.float32).reshape(-1, 1)
        view = a_package().manifest.feature_view()
        rows = feature_client(started.settings, wiring.REDIS_TIMEOUT_S)
        write_rows(rows, view, ITEMS, values, updated_ms=1, on_rows=lambda _: None)
        for version, scale in SCALES.items():
            write(a_package(scale=scale), folder / str(version))
            champion = ("--promote",) if version == 1 else ()
            registered = sluice(started, "models", "register", MODEL, str(folder / str(version)), *champion)
            assert registered.returncode == 0, registered.stderr
        started.wait_until_warm()
        yield started
    finally:
        started.stop()


def sluice(platform: Platform, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "deploy.cli", *arguments],
        env=os.environ | platform.settings.to_environment() | {"COLUMNS": "160", "USER": "ann"} | environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=180,
    )


def told(done: "subprocess.CompletedProcess[str]") -> Any:
    """What a command that worked printed as JSON."""
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def admin(platform: Platform) -> dict[str, str]:
    return {"authorization": f"Bearer {platform.settings.admin_key_file.read_text().strip()}"}


def ask(platform: Platform, method: str, path: str, **options: Any) -> httpx.Response:
    """One request to the gateway with the local key."""
    headers = admin(platform) | options.pop("headers", {})
    url = f"{platform.settings.gateway_url}/v1/models/{MODEL}{path}"
    return httpx.request(method, url, headers=headers, timeout=60.0, **options)


def plan_of(platform: Platform) -> TrafficPlan:
    answer = ask(platform, "GET", "/plan")
    return TrafficPlan.decode(json.dumps(answer.json()["plan"]).encode())


def a_spec(folder: Path, *steps: dict[str, Any]) -> str:
    path = folder / "spec.json"
    path.write_text(json.dumps({"steps": steps, "holdback_weight": 0}))
    return str(path)


def answers_by(platform: Platform, revision: int) -> dict[str, int]:
    """Which version answered each unit, by the plan revision given; all gateways and workers follow it by now."""

    def served() -> dict[str, int] | None:
        found = {}
        with GatewayClient(platform.settings.gateway_url) as gateway:
            for unit in range(UNITS):
                answer = platform.rank(gateway, unit)
                if answer["plan_revision"] < revision:
                    return None
                found[f"u{unit}"] = answer["version"]
        return found

    return until(served, f"answers by plan revision {revision}")


def until_versions_answer(platform: Platform, plan: TrafficPlan) -> None:
    """Until the answers are what the plan says for each unit."""
    expected = {f"u{unit}": plan.assign(f"u{unit}").version for unit in range(UNITS)}
    until(lambda: answers_by(platform, plan.revision) == expected, f"answers as revision {plan.revision} says")


def test_a_weight_that_is_set_is_the_weight_of_the_answers_and_a_rollback_takes_it_to_zero(
    platform: Platform, tmp_path: Path
) -> None:
    spec = a_spec(tmp_path, {"name": "ab", "kind": "ab", "weight": 250, "min_s": 3600.0})
    started = told(sluice(platform, "rollout", "start", MODEL, "2", "--why", "try", "--spec", spec, "--json"))
    plan = plan_of(platform)
    (experiment,) = plan.experiments
    assert (started["weight"], experiment.weight, experiment.version) == (250, 250, 2)

    until_versions_answer(platform, plan)

    served = answers_by(platform, plan.revision)
    assert 60 <= list(served.values()).count(2) <= 140  # 100 expected, sd 8.7
    back = told(sluice(platform, "rollback", MODEL, "--why", "enough", "--json"))
    assert set(answers_by(platform, back["plan_revision"]).values()) == {1}
    shown = told(sluice(platform, "rollout", "show", MODEL, "--json"))
    assert shown["rollout"]["state"] == "rolled_back"
    assert [line["who"] for line in shown["history"]] == ["ann (key local)"] * 2


def test_a_promotion_by_command_reaches_the_answers_the_history_and_mlflow(platform: Platform) -> None:
    before = plan_of(platform)
    stale = sluice(platform, "promote", MODEL, "3", "--why", "no", "--if-revision", str(before.revision - 1))
    assert stale.returncode == 1
    assert f"at revision {before.revision}" in stale.stderr

    promoted = told(sluice(platform, "promote", MODEL, "3", "--why", "it is better", "--json"))

    until_versions_answer(platform, plan_of(platform))
    assert set(answers_by(platform, promoted["plan_revision"]).values()) == {3}

    def aliased() -> bool:
        listed = told(sluice(platform, "models", "list", "--json"))
        return [row["version"] for row in listed if "champion" in row["aliases"]] == [3]

    until(aliased, "MLflow's alias to follow")
    last = ask(platform, "GET", "/history?limit=1").json()["changes"][0]
    assert (last["who"], last["why"]) == ("ann (key local)", "it is better")
    assert told(sluice(platform, "rollback", MODEL, "--why", "back", "--json"))["plan"]["champion"] == 1


def test_the_ci_job_of_the_readme_promotes_once(platform: Platform) -> None:
    section = (ROOT / "docs/api.md").read_text().partition("## From a CI job")[2]
    script = re.search(r"```bash\n(.*?)```", section, re.DOTALL)
    assert script
    before = plan_of(platform)
    key = told(sluice(platform, "keys", "create", "ci", "--role", "admin", "--json"))["key"]
    job = {
        "SLUICE_URL": platform.settings.gateway_url,
        "SLUICE_KEY": key,
        "MODEL": MODEL,
        "VERSION": "2",
        "CI_JOB_ID": "job-4711",
        "PATH": os.environ["PATH"],
    }

    def run() -> Any:
        shell = ["bash", "-euo", "pipefail", "-c", script[1]]
        return told(subprocess.run(shell, env=job, capture_output=True, text=True, timeout=120))

    first, again = run(), run()

    assert first == again
    assert (first["plan"]["champion"], first["plan_revision"]) == (2, before.revision + 1)
    assert (first["who"], first["why"]) == ("ci", "CI job job-4711")
    assert plan_of(platform).revision == before.revision + 1
    assert told(sluice(platform, "rollback", MODEL, "--why", "back", "--json"))["plan"]["champion"] == before.champion


def test_the_gateway_documents_every_control_route(platform: Platform) -> None:
    document = httpx.get(f"{platform.settings.gateway_url}/openapi.json", timeout=60.0).json()

    assert [
        route for route in CONTROL_ROUTES if route.method.lower() not in document["paths"].get(route.path, {})
    ] == []
    named = {part.partition('"')[0] for part in json.dumps(document).split('"#/components/schemas/')[1:]}
    assert named <= document["components"]["schemas"].keys()


def test_commands_from_elsewhere_go_by_the_role_of_their_key(platform: Platform) -> None:
    made = told(sluice(platform, "keys", "create", "bot", "--role", "operator", "--model", MODEL, "--json"))
    elsewhere = {"SLUICE_URL": platform.settings.gateway_url, "SLUICE_KEY": made["key"], "SLUICE_HOME": "/nowhere"}

    refused = sluice(platform, "promote", MODEL, "3", "--why", "x", **elsewhere)
    listed = sluice(platform, "rollout", "list", MODEL, "--json", **elsewhere)
    keyless = sluice(platform, "promote", MODEL, "3", "--why", "x", **(elsewhere | {"SLUICE_KEY": ""}))

    assert (refused.returncode, "needs admin" in refused.stderr, refused.stderr.count("\n")) == (1, True, 1)
    assert told(listed) == ask(platform, "GET", "/rollouts").json()["rollouts"]
    assert (keyless.returncode, "SLUICE_KEY" in keyless.stderr) == (1, True)
    assert sluice(platform, "keys", "revoke", made["about"]["id"]).returncode == 0
    revoked = sluice(platform, "rollout", "list", MODEL, **elsewhere)
    assert (revoked.returncode, "was revoked" in revoked.stderr) == (1, True)


def test_who_waits_for_a_rollout_learns_its_end_by_the_exit_code(platform: Platform, tmp_path: Path) -> None:
    before = plan_of(platform)

    def start(kind: str) -> tuple[str, ...]:
        """A rollout that asks for evidence of this kind."""
        step = {"name": "judged", "kind": "gate", "needs": [{"kind": kind, "since": "ever"}]}
        return ("rollout", "start", MODEL, "2", "--why", "try", "--spec", a_spec(tmp_path, step), "--wait")

    def measured(kind: str, verdict: str) -> None:
        """Hands in evidence as soon as there is a rollout to judge."""
        until(lambda: ask(platform, "GET", "/rollouts?state=open").json()["rollouts"], "the rollout to be there")
        body = {"kind": kind, "challenger": 2, "verdict": verdict, "why": f"it {verdict}"}
        assert ask(platform, "POST", "/evidence", json=body).status_code == 201

    ends = {}
    for verdict in ("failed", "passed"):
        kind = f"review_that_{verdict}"  # not the other's: it would be judged by that before its own comes
        with ThreadPoolExecutor(1) as pool:
            judge = pool.submit(measured, kind, verdict)
            ends[verdict] = sluice(platform, *start(kind))
            judge.result()

    assert (ends["failed"].returncode, ends["passed"].returncode) == (1, 0), ends
    assert "rolled_back" in ends["failed"].stdout
    assert "promoted" in ends["passed"].stdout
    assert sluice(platform, *start("review")).returncode == 2  # it is champion already
    assert plan_of(platform).champion == 2
    until_versions_answer(platform, plan_of(platform))
    assert told(sluice(platform, "rollback", MODEL, "--why", "back", "--json"))["plan"]["champion"] == before.champion


def test_one_request_under_duplicates_and_kills_of_the_controller_is_done_once(platform: Platform) -> None:
    before = len(ask(platform, "GET", "/history?limit=1000").json()["changes"])
    for round_, version in enumerate((2, 3, 1)):
        body = {"version": version, "why": f"round {round_}"}
        headers = {"idempotency-key": f"kill-{round_}-{os.getpid()}"}
        answered: list[str] = []

        def client(body: Any = body, headers: Any = headers, answered: list[str] = answered) -> None:
            """Asks as a client that does not give up."""

            def answer() -> bool:
                try:
                    found = ask(platform, "POST", "/promote", json=body, headers=headers)
                except httpx.TransportError:
                    return False
                assert found.status_code in (200, 503, 504), found.text
                if found.status_code == 200:
                    answered.append(found.text)
                return found.status_code == 200

            until(answer, "an answer")

        clients = [threading.Thread(target=client) for _ in range(6)]
        for thread in clients[:3]:
            thread.start()
        platform.kill("controller")
        for thread in clients[3:]:
            thread.start()
        for thread in clients:
            thread.join()
        assert len(answered) == 6
        assert len(set(answered)) == 1

    changes = ask(platform, "GET", "/history?limit=1000").json()["changes"]
    assert [change["why"] for change in changes[:3]] == ["round 2", "round 1", "round 0"]
    assert len(changes) == before + 3
    until_versions_answer(platform, plan_of(platform))


def test_a_change_decided_by_a_controller_killed_before_it_answered_is_answered_when_asked_again(
    platform: Platform,
) -> None:
    before = plan_of(platform)
    body = {"version": 2 if before.champion != 2 else 3, "why": "before the kill"}
    headers = {"idempotency-key": f"decided-{os.getpid()}"}
    control = wiring.traffic_control(platform.settings)
    redis = until(lambda: platform.pid("redis"), "Redis")
    os.kill(redis, signal.SIGSTOP)  # so that the controller waits between decision and answer
    try:
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(ask, platform, "POST", "/promote", json=body, headers=headers)
            until(lambda: control.history(MODEL)[-1].why == body["why"], "the decision")
            platform.kill("controller")
            unanswered = asked.result()
    finally:
        os.kill(redis, signal.SIGCONT)
        control.close()

    def answered() -> httpx.Response | None:
        found = ask(platform, "POST", "/promote", json=body, headers=headers)
        return found if found.status_code == 200 else None

    answer = until(answered, "an answer")

    assert unanswered.status_code == 503
    assert "same Idempotency-Key" in unanswered.json()["error"]
    assert (answer.json()["plan_revision"], answer.headers["idempotency-replayed"]) == (before.revision + 1, "true")
    assert plan_of(platform).revision == before.revision + 1
    until_versions_answer(platform, plan_of(platform))


def test_a_hanging_controller_stops_no_query_and_its_callers_go_on_when_it_does(platform: Platform) -> None:
    pid = until(lambda: platform.pid("controller"), "the controller")
    os.kill(pid, signal.SIGSTOP)
    try:
        with ThreadPoolExecutor(8) as pool:
            asked = [pool.submit(ask, platform, "GET", "/plan") for _ in range(8)]
            with Load(platform) as load:
                load.wait_for(200)
            assert load.failed == []
            assert not any(one.done() for one in asked)
            os.kill(pid, signal.SIGCONT)
            assert {one.result().status_code for one in asked} == {200}
    finally:
        os.kill(pid, signal.SIGCONT)


def test_a_platform_without_a_controller_says_so_and_answers_queries(tmp_path: Path) -> None:
    platform = Platform.start(tmp_path / "home", with_controller=False)
    try:
        platform.serve()
        url = f"{platform.settings.gateway_url}/v1/models/{MODEL}/promote"
        refused = httpx.post(url, json={}, timeout=60.0)
        with GatewayClient(platform.settings.gateway_url) as gateway:
            assert platform.rank(gateway, 1)["version"] == 1
    finally:
        platform.stop()

    assert refused.status_code == 501
    assert "SLUICE_WITH_CONTROLLER=1" in refused.json()["error"]
