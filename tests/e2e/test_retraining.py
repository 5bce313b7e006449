"""From clicks through the front door to a version on its way to champion, by the platform's own processes."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deploy import wiring
from deploy.client import GatewayClient
from deploy.control.client import ControlClient, model_path
from deploy.features.store import feature_client
from pipelines.feedback.clicks import ClickModel, simulate_clicks
from registry.artefacts import write
from serving.features.materialiser import write_rows
from tests.builders import a_view
from tests.deploy.retrain_bench import a_champion
from tests.e2e.platforms_under_fire import ITEMS, MODEL, Platform, until

ROOT = Path(__file__).resolve().parents[2]
QUERIES, CANDIDATES, RANKINGS, UNITS = 60, 8, 7200, 1800
WRONG = (0.0, -1.0, 0.0)  # `match` tells what is relevant, and this champion shows it last
LEARN = {
    "retraining": "source=simulated,clicks_within_s=2,bias_error=5,underpowered=1",
    "train": "hidden=8,max_epochs=12,patience_epochs=12,learning_rate=0.01,lists_per_step=8,dropout=0,input_dropout=0",
}
PATIENCE_S = 400


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[Platform]:
    """Version 1 is champion, and shows first what nobody looks for."""
    started = Platform.start(tmp_path / "home", with_mlflow=True, with_celery=True, **LEARN)
    try:
        lengths = np.random.default_rng(0).normal(size=(len(ITEMS), 1)).astype(np.float32)
        rows = feature_client(started.settings, wiring.REDIS_TIMEOUT_S)
        write_rows(rows, a_view(), ITEMS, lengths, updated_ms=1, on_rows=lambda _: None)
        write(a_champion(WRONG), tmp_path / "champion")
        sluice(started, "models", "register", MODEL, str(tmp_path / "champion"), "--promote")
        started.wait_until_warm()
        yield started
    finally:
        started.stop()


def sluice(platform: Platform, *command: str) -> str:
    """What the command prints."""
    ended = subprocess.run(
        [sys.executable, "-m", "deploy.cli", *command],
        env=os.environ | platform.settings.to_environment() | {"PYTHONPATH": str(ROOT)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    log = platform.settings.log_file
    assert ended.returncode == 0, f"{ended.stdout}{ended.stderr}\n{log.read_text()[-6000:]}"
    return ended.stdout


def search_and_click(platform: Platform) -> int:
    """Rankings of a few queries asked again and again, and clicks as a model of users makes them. How many clicks."""
    rng = np.random.default_rng(5)
    candidates = [rng.choice(len(ITEMS), CANDIDATES, replace=False) for _ in range(QUERIES)]
    labels = [rng.choice(5, size=CANDIDATES, p=[0.5, 0.2, 0.15, 0.1, 0.05]) for _ in range(QUERIES)]
    match = [own + rng.normal(0, 0.5, CANDIDATES) for own in labels]

    def some(client: int) -> int:
        clicked = 0
        with GatewayClient(platform.settings.gateway_url) as gateway:
            for place in range(client, RANKINGS, 4):
                query = place % QUERIES
                answer = gateway.post(
                    f"/v1/models/{MODEL}/rank",
                    {
                        "candidates": [ITEMS[i] for i in candidates[query]],
                        "unit": f"user-{place % UNITS}",
                        "query": {"id": f"q{query}", "features": {"query_words": query % 5}},
                        "features": {"match": match[query].tolist()},
                        "top_k": CANDIDATES,
                        "deadline_ms": 30_000,
                    },
                )
                label_of = dict(zip([ITEMS[i] for i in candidates[query]], labels[query].tolist(), strict=True))
                shown = [label_of[item["id"]] for item in answer["items"]]
                positions = simulate_clicks(shown, ClickModel(), np.random.default_rng([7, place])).tolist()
                events = [a_click(answer, position) for position in positions]
                if events:
                    gateway.post("/v1/feedback", {"events": events})
                clicked += len(events)
        return clicked

    with ThreadPoolExecutor(4) as pool:
        return sum(pool.map(some, range(4)))


def a_click(answer: Any, position: int) -> dict[str, Any]:
    return {
        "event_id": f"{answer['ranking_id']}-{position}",
        "type": "click",
        "ranking_id": answer["ranking_id"],
        "item": answer["items"][position - 1]["id"],
        "position": position,
        "simulated": True,
    }


@pytest.mark.slow
def test_clicks_become_a_version_in_a_rollout_by_one_command_also_when_its_worker_is_killed(platform: Platform) -> None:
    began = datetime.now(UTC)
    explore = {"why": "to learn where people look", "explore_share": 400, "explore_depth": CANDIDATES}
    with ControlClient.local(platform.settings, "ann") as control_api:
        control_api.post(model_path(MODEL, "plan"), explore)
    until(lambda: platform.status()["plans"][MODEL]["revision"] == 2, "the gateway to explore")
    clicks = search_and_click(platform)
    assert clicks > 500
    until(lambda: len(platform.archived_feedback()) == clicks, "all clicks to be archived")
    ended = datetime.fromtimestamp(time.time(), UTC)

    asked = json.loads(
        sluice(
            *(platform, "retrain", MODEL, "--why", "there are clicks now", "--json"),
            *("--since", began.isoformat(), "--until", ended.isoformat()),
        )
    )
    run_id = asked["run"]["id"]
    until(lambda: _run(platform, run_id)["run"]["steps"][1]["state"] != "waiting", "the run to be under way")
    platform.kill("celery-runs")
    watched = sluice(platform, "runs", "show", run_id, "--watch")

    run = _run(platform, run_id)["run"]
    assert (run["state"], run["outcome"]) == ("succeeded", "version 2 is in rollout codesearch-3"), watched
    assert "succeeded" in watched.splitlines()[-1]
    assert [step["state"] for step in run["steps"]] == ["done"] * 7
    models = json.loads(sluice(platform, "models", "list", "--json"))
    assert sorted(one["version"] for one in models) == [1, 2]
    control = wiring.traffic_control(platform.settings)
    [rollout] = control.rollouts(MODEL)
    assert (rollout.challenger, rollout.champion, rollout.id) == (2, 1, "codesearch-3")
    assert [one.verdict for one in control.evidence(MODEL, kind="offline_gate")] == ["passed"]
    # the rollout's first step asks for just that evidence: it is left, by itself
    until(lambda: control.rollout(rollout.id).step > 0, "the rollout to leave its offline gate")
    refused = subprocess.run(
        [
            *(sys.executable, "-m", "deploy.cli", "retrain", MODEL, "--why", "again"),
            *("--since", began.isoformat(), "--until", ended.isoformat()),
        ],
        env=os.environ | platform.settings.to_environment() | {"PYTHONPATH": str(ROOT)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert refused.returncode == 1
    assert run_id in refused.stderr


def _run(platform: Platform, run_id: str) -> Any:
    return json.loads(sluice(platform, "runs", "show", run_id, "--json"))
