"""The promote step of the CI files, run as it stands there against the real platform: a better version is promoted, a
worse one refused, and a job that is run again does nothing twice."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np
import pytest
import yaml

from deploy import wiring
from deploy.features.store import feature_client
from pipelines.dataset import RankingDataset
from pipelines.gates.offline import JudgedSet, OfflinePlan, offline_gate
from pipelines.training.export import offline_scores
from registry.store import StoredVersion
from serving.features.materialiser import write_rows
from tests.builders import a_package
from tests.e2e.platforms_under_fire import ITEMS, MODEL, Load, Platform, until

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
PACKAGES = {version: a_package(scale=scale) for version, scale in {1: -1.0, 2: 1.0, 3: -2.0}.items()}
LISTS, SHOWN = 60, 6
PROMOTED, ERROR, REFUSED, INCONCLUSIVE = 0, 1, 2, 3
STEPS = (
    {"name": "offline-gate", "kind": "gate", "needs": [{"kind": "offline_gate", "since": "ever"}]},
    {"name": "ramp-50", "kind": "ab", "weight": 500, "min_s": 0.5, "min_answers": 10},
)


@dataclass
class Deliveries:
    """A platform with three registered versions, of which 1 is champion; key: an operator's, as a CI job has it."""

    platform: Platform
    key: str
    folder: Path

    def step(self, service: str, job: str, version: int, run_id: str, **changes: str) -> Any:
        """Runs a job's script as the service would. service: `gitlab` or `github`."""
        if service == "gitlab":
            script = "\n".join(yaml.safe_load((ROOT / "deploy/ci/gitlab-ci.yml").read_text())[job]["script"])
            names = {"CI_PIPELINE_ID": run_id, "CI_COMMIT_TITLE": "a new ranker", "CI_PIPELINE_URL": "https://ci/1"}
            names |= {"GITLAB_USER_LOGIN": "ann"}
        else:
            steps = yaml.safe_load((ROOT / "deploy/ci/github-workflow.yml").read_text())["jobs"][job]["steps"]
            script = steps[-1]["run"]
            names = {"GITHUB_RUN_ID": run_id, "GITHUB_ACTOR": "ann", "GITHUB_REPOSITORY": "shop/ranker"}
            names |= {"GITHUB_SHA": "0" * 40}
        environment = {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "COLUMNS": "200",
            "SLUICE_URL": self.platform.settings.gateway_url,
            "SLUICE_KEY": self.key,
            "MODEL": MODEL,
            "VERSION": str(version),
            "PATIENCE_S": "120",
            "OPTIONS": f"--spec {self.spec}",
        }
        return subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            env=environment | names | changes,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=240,
        )

    @property
    def spec(self) -> Path:
        path = self.folder / "rollout.json"
        guardrails = {"p99_ms": 10_000.0}  # a busy machine is slow to either arm
        path.write_text(json.dumps({"steps": STEPS, "guardrails": guardrails, "holdback_weight": 0}))
        return path

    def measured(self, champion: int, challenger: int) -> str:
        """What a job's tests measure: the offline gate of both exported programs on judged lists, as options."""
        evidence = offline_gate(
            OfflinePlan(metric=PACKAGES[champion].manifest.metric),
            stored(champion),
            stored(challenger),
            judged(champion, challenger),
            made_ms=time.time_ns() // 1_000_000,
        )
        path = self.folder / f"gate-{champion}-{challenger}.json"
        if not path.exists():
            kept = {"kind": evidence.kind, "verdict": evidence.verdict, "why": evidence.why, "body": evidence.body}
            path.write_bytes(msgspec.json.encode(kept | {"champion": champion}))
        return f"--spec {self.spec} --evidence {path}"

    def get(self, path: str) -> Any:
        url = f"{self.platform.settings.gateway_url}/v1/models/{MODEL}/{path}"
        answer = httpx.get(url, headers={"authorization": f"Bearer {self.key}"}, timeout=60.0)
        assert answer.status_code == 200, answer.text
        return answer.json()

    @property
    def champion(self) -> int:
        return int(self.get("plan")["plan"]["champion"])

    @property
    def done(self) -> tuple[int, int, int]:
        """Changes of traffic, rollouts and evidence so far."""
        changes, evidence = self.get("history?limit=1000")["changes"], self.get("evidence")["evidence"]
        return len(changes), len(self.get("rollouts")["rollouts"]), len(evidence)


def stored(version: int) -> StoredVersion:
    package = PACKAGES[version]
    return StoredVersion(MODEL, version, package.digest, package.manifest, 0)


def judged(champion: int, challenger: int) -> JudgedSet:
    """Lists whose items are the better, the higher their row sums up; with noise, so that no difference is certain."""
    rng = np.random.default_rng(7)
    view = PACKAGES[champion].manifest.feature_view()
    features = rng.normal(size=(LISTS * SHOWN, len(view.columns))).astype(np.float32)
    noisy = features.sum(axis=1) + rng.normal(scale=0.5, size=len(features))
    labels = np.clip(np.floor(noisy + 2), 0, 4).astype(np.float32)
    offsets = np.arange(LISTS + 1, dtype=np.int64) * SHOWN
    queries = tuple(f"q{i}" for i in range(LISTS))
    data = RankingDataset(
        "judged", view, features, labels, offsets, queries, tuple(f"i{i}" for i in range(len(labels)))
    )
    scores = [offline_scores(PACKAGES[version], data) for version in (champion, challenger)]
    return JudgedSet("judged", "0" * 64, labels, offsets, *scores)


def sluice(platform: Platform, *arguments: str) -> "subprocess.CompletedProcess[str]":
    done = subprocess.run(
        [sys.executable, "-m", "deploy.cli", *arguments],
        env=os.environ | platform.settings.to_environment() | {"COLUMNS": "160"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def ci(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deliveries]:
    folder = tmp_path_factory.mktemp("delivery")
    platform = Platform.start(
        folder / "home", with_mlflow=True, with_controller=True, with_grpc=False, with_archiver=False
    )
    try:
        values = np.arange(len(ITEMS), dtype=np.float32).reshape(-1, 1)
        rows = feature_client(platform.settings, wiring.REDIS_TIMEOUT_S)
        write_rows(rows, PACKAGES[1].manifest.feature_view(), ITEMS, values, updated_ms=1, on_rows=lambda _: None)
        store = wiring.model_store(platform.settings)
        assert [store.register(MODEL, package) for package in PACKAGES.values()] == list(PACKAGES)
        sluice(platform, "promote", MODEL, "1", "--why", "first")
        platform.wait_until_warm()
        made = sluice(platform, "keys", "create", "ci", "--role", "operator", "--model", MODEL, "--json")
        yield Deliveries(platform, json.loads(made.stdout)["key"], folder)
    finally:
        platform.stop()


def test_a_better_version_is_promoted_once_however_often_the_job_runs(ci: Deliveries) -> None:
    waiting = ci.step("gitlab", "promote", 2, "4711", PATIENCE_S="1")
    with Load(ci.platform) as load:
        promoted = ci.step("gitlab", "promote", 2, "4711", OPTIONS=ci.measured(1, 2))
    before = ci.done
    again = ci.step("gitlab", "promote", 2, "4711", OPTIONS=ci.measured(1, 2))

    assert waiting.returncode == INCONCLUSIVE, waiting.stderr + waiting.stdout
    assert "run this again" in waiting.stdout
    assert promoted.returncode == PROMOTED, promoted.stderr + promoted.stdout
    for word in ("offline_gate", "passed", "ramp-50 at 50 %", "2: promoted"):
        assert word in promoted.stdout, promoted.stdout
    assert (again.returncode, ci.done, ci.champion) == (PROMOTED, before, 2)
    assert load.failed == []
    assert len(ci.get("rollouts")["rollouts"]) == 1


def test_a_worse_version_is_refused_and_a_rerun_is_told_the_same(ci: Deliveries) -> None:
    assert ci.champion == 2
    refused = ci.step("github", "promote", 3, "99", OPTIONS=ci.measured(2, 3))
    before = ci.done
    again = ci.step("github", "promote", 3, "99", OPTIONS=ci.measured(2, 3))

    assert (refused.returncode, again.returncode) == (REFUSED, REFUSED), refused.stderr + refused.stdout
    assert "surely worse" in refused.stdout
    assert "3: refused" in refused.stdout
    assert (ci.done, ci.champion) == (before, 2)


def test_a_step_that_is_decided_by_nobody_in_its_time_is_inconclusive(ci: Deliveries) -> None:
    spec = ci.folder / "impatient.json"
    spec.write_text(json.dumps({"steps": [STEPS[0] | {"max_s": 0.5}], "holdback_weight": 0}))

    ended = ci.step("gitlab", "promote", 1, "4712", OPTIONS=f"--spec {spec}")

    assert ended.returncode == INCONCLUSIVE, ended.stderr + ended.stdout
    assert ci.get("rollouts?state=open")["rollouts"] == []
    assert "1: inconclusive" in ended.stdout


def test_what_cannot_be_delivered_is_refused_with_words_and_a_wrong_key_is_an_error(ci: Deliveries) -> None:
    unknown = ci.step("gitlab", "promote", 9, "9")
    stranger = ci.step("gitlab", "promote", 3, "10", SLUICE_KEY="sluice_wrong")

    assert (unknown.returncode, "refused" in unknown.stderr) == (REFUSED, True), unknown.stderr + unknown.stdout
    assert stranger.returncode == ERROR, stranger.stderr + stranger.stdout
    assert unknown.stderr.count("\n") == stranger.stderr.count("\n") == 1


def test_a_version_is_taken_back_on_request_once(ci: Deliveries) -> None:
    assert ci.champion == 2
    back = ci.step("github", "take-back", 2, "100")
    before = ci.done
    again = ci.step("github", "take-back", 2, "100")
    late = ci.step("gitlab", "promote", 2, "4711", OPTIONS=ci.measured(1, 2))

    assert (back.returncode, again.returncode) == (0, 0), back.stderr + back.stdout
    assert "champion @1" in back.stdout
    assert "nothing to take back" in again.stdout
    assert late.returncode == REFUSED, late.stderr + late.stdout
    assert "champion no more" in late.stdout
    assert (ci.done, ci.champion) == (before, 1)
    until(lambda: ci.platform.status()["plans"][MODEL], "the plan to be followed")
