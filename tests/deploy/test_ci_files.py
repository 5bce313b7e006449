"""The pipelines that users copy: valid for GitLab and GitHub, in the right order, with commands and files there are."""

import os
import re
import shutil
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml
from check_jsonschema.cli import main as check_jsonschema
from click.testing import CliRunner

from deploy.cli import app
from tests.kustomize import build, by_kind

ROOT = Path(__file__).resolve().parents[2]
CI = ROOT / "deploy/ci"
IMAGES = ("sluice-gateway", "sluice-worker", "sluice-worker-cuda", "sluice-monitor", "sluice-pipelines")
DEPLOYMENTS = (
    *("gateway", "worker", "controller", "archiver"),
    *("monitor", "celery-worker", "celery-runs", "celery-beat"),
)
GITLAB, GITHUB = CI / "gitlab-ci.yml", CI / "github-workflow.yml"


def gitlab() -> Any:
    return yaml.safe_load(GITLAB.read_text())


def github() -> Any:
    return yaml.safe_load(GITHUB.read_text())


def scripts() -> dict[str, str]:
    """Every script by file and job."""
    found = {}
    for name, job in gitlab().items():
        if isinstance(job, dict) and "stage" in job | gitlab().get(job.get("extends", ""), {}):
            found[f"gitlab {name}"] = "\n".join([*job.get("before_script", []), *job.get("script", [])])
    for name, job in github()["jobs"].items():
        found[f"github {name}"] = "\n".join(step["run"] for step in job["steps"] if "run" in step)
    return found


@pytest.mark.parametrize(
    "arguments",
    [
        ("vendor.gitlab-ci", "--data-transform", "gitlab-ci", str(GITLAB)),
        ("vendor.github-workflows", str(GITHUB)),
    ],
    ids=["gitlab", "github"],
)
def test_the_file_is_what_the_service_reads(arguments: tuple[str, ...]) -> None:
    told = CliRunner().invoke(check_jsonschema, ["--builtin-schema", *arguments])

    assert told.exit_code == 0, told.output


def test_gitlab_tests_builds_updates_and_promotes_in_this_order() -> None:
    document = gitlab()
    stages = document["stages"]
    stage_of = {
        name: {**document.get(job.get("extends", ""), {}), **job}["stage"]
        for name, job in document.items()
        if isinstance(job, dict) and name not in ("variables", "workflow") and not name.startswith(".")
    }

    assert stages == ["test", "image", "update", "promote"]
    assert stage_of == {
        "test": "test",
        "images": "image",
        "rolling update": "update",
        "promote": "promote",
        "take back": "promote",
    }
    assert "needs" not in document["promote"]  # so it waits for every stage before
    assert (document["take back"]["needs"], document["take back"]["rules"][0]["when"]) == ([], "manual")
    assert document["promote"]["allow_failure"] == {"exit_codes": [3]}


def test_github_tests_builds_updates_and_promotes_in_this_order() -> None:
    document = github()
    jobs = document["jobs"]
    triggers = document[True]  # YAML reads `on` so

    assert {name: job.get("needs") for name, job in jobs.items()} == {
        "test": None,
        "image": "test",
        "rolling-update": "image",
        "promote": "rolling-update",
        "take-back": None,
    }
    assert set(triggers["workflow_dispatch"]["inputs"]) == {"model", "version", "rollback"}
    assert document["permissions"] == {"contents": "read"}


def test_no_secret_and_nothing_typed_in_stands_in_a_shells_text() -> None:
    for name, script in scripts().items():
        assert "${{" not in script, name
    for path in (GITLAB, GITHUB):
        assert re.findall(r"sluice_[A-Za-z0-9]{20,}|password: +\w|--password ", path.read_text()) == []


def test_every_command_of_a_script_exists_and_takes_its_options() -> None:
    command = typer.main.get_command(app).get_command(None, "deliver")  # type: ignore[attr-defined]
    options = {option for parameter in command.params for option in parameter.opts}
    calls, files = 0, set()
    for name, script in scripts().items():
        flat = script.replace("\\\n", " ")
        for line in filter(lambda line: line.startswith("sluice "), flat.splitlines()):
            calls += 1
            assert line.split()[1] == "deliver", name
            assert set(re.findall(r" (--[a-z-]+)", line)) <= options, line
        files |= set(re.findall(r"(?:^|\s)(deploy/ci/[\w-]+)", flat))
        checked = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True, timeout=60)
        assert checked.returncode == 0, (name, checked.stderr)

    assert calls == 4
    assert files == {"deploy/ci/images", "deploy/ci/rolling-update"}
    for file in files:
        assert (ROOT / file).stat().st_mode & stat.S_IXUSR, file


KUBECTL = """
echo "kubectl $*" >> "$RECORD"
case "$*" in ${FAILS:-nothing}) exit 1 ;; esac
case "$*" in
  *"--kustomize "*) cat "${*##* }/kustomization.yaml" >> "$APPLIED"
    if [ -n "${CANARY_TAG-}" ]; then echo deployment.apps/sluice-gateway-canary configured; fi ;;
  */revision*) if [ -e "$APPLIED" ]; then echo "${AFTER:-2}"; else echo "${BEFORE-1}"; fi ;;
  *.observedGeneration*) echo "7 7" ;;
  *.reason*) echo "${REASON:-NewReplicaSetAvailable}" ;;
esac
"""


@pytest.fixture
def recorded(tmp_path: Path) -> dict[str, str]:
    """An environment in which docker and kubectl, of which there is neither, write down what they are told; kubectl
    also what it is to apply, and it fails where FAILS says so. Deployments have the revision BEFORE until something is
    applied, and then AFTER."""
    for tool, told in (("docker", 'echo "docker $*" >> "$RECORD"'), ("kubectl", KUBECTL)):
        path = tmp_path / tool
        path.write_text(f"#!/bin/sh\n{told}\n")
        path.chmod(0o700)
    return {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "RECORD": str(tmp_path / "record"),
        "APPLIED": str(tmp_path / "applied"),
    }


def run(script: str, *arguments: str, environment: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [str(CI / script), *arguments], env=environment, cwd=ROOT, capture_output=True, text=True, timeout=60
    )


def test_images_are_built_and_pushed_one_by_one(recorded: dict[str, str], tmp_path: Path) -> None:
    for name in ("gateway", "worker", "monitor", "pipelines"):
        (tmp_path / f"{name}.Dockerfile").write_text("FROM scratch\n")
    environment = recorded | {"IMAGES_FOLDER": str(tmp_path)}

    done = run("images", "harbor.example/ml", "abc", environment=environment)
    missing = run("images", "harbor.example/ml", "abc", "sluice-nothing", environment=environment)

    assert done.returncode == 0, done.stderr
    lines = Path(recorded["RECORD"]).read_text().splitlines()
    assert [line.split()[1] for line in lines] == ["build", "push"] * len(IMAGES)
    pushed = [line.split()[-1] for line in lines if " push " in line]
    assert pushed == [f"harbor.example/ml/{image}:abc" for image in IMAGES]
    assert [line.split()[-2] for line in lines if "--target cuda" in line] == [
        "harbor.example/ml/sluice-worker-cuda:abc"
    ]
    assert (missing.returncode, "no such file" in missing.stderr) == (1, True)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A checkout of which only that is there which a rolling update reads."""
    root = tmp_path / "checkout"
    (root / "deploy/ci").mkdir(parents=True)
    for overlay in ("gpu", "dev"):
        shutil.copytree(ROOT / "deploy/kubernetes/overlays" / overlay, root / "deploy/kubernetes/overlays" / overlay)
    shutil.copy(CI / "rolling-update", root / "deploy/ci/rolling-update")
    return root


def update(tree: Path, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    command = [str(tree / "deploy/ci/rolling-update"), *arguments]
    return subprocess.run(command, env=environment, cwd="/", capture_output=True, text=True, timeout=60)


def recorded_calls(environment: dict[str, str]) -> list[str]:
    return Path(environment["RECORD"]).read_text().splitlines()


def test_an_update_applies_the_overlay_with_the_new_images_and_waits(recorded: dict[str, str], tree: Path) -> None:
    done = update(tree, "harbor.example/ml", "abc", "gpu", **recorded)

    assert done.returncode == 0, done.stderr
    waited = [call for call in recorded_calls(recorded) if " rollout " in call]
    assert waited == [f"kubectl --namespace sluice rollout status deployment/sluice-{name}" for name in DEPLOYMENTS]
    applied = yaml.safe_load(Path(recorded["APPLIED"]).read_text())
    assert applied["resources"] == ["../gpu"]
    renamed = {one["name"]: f"{one['newName']}:{one['newTag']}" for one in applied["images"]}
    canary = {"sluice-gateway-canary": "harbor.example/ml/sluice-gateway:abc"}
    assert renamed == {name: f"harbor.example/ml/{name}:abc" for name in IMAGES} | canary
    assert sorted(path.name for path in (tree / "deploy/kubernetes/overlays").iterdir()) == ["dev", "gpu"]  # tidied up


def test_an_update_that_does_not_become_ready_is_put_back_to_what_there_was(
    recorded: dict[str, str], tree: Path
) -> None:
    failed = update(
        tree, "harbor.example/ml", "abc", **recorded, BEFORE="5", AFTER="8", FAILS="* status *sluice-worker*"
    )
    calls = recorded_calls(recorded)
    unknown = update(tree, "harbor.example/ml", "abc", "nowhere", **recorded)

    assert (failed.returncode, "put back: sluice-gateway sluice-worker;" in failed.stderr) == (1, True)
    assert [call.partition(" undo ")[2] for call in calls if " undo " in call] == [
        "deployment/sluice-gateway --to-revision=5",
        "deployment/sluice-worker --to-revision=5",
    ]
    assert (unknown.returncode, "no such overlay" in unknown.stderr) == (1, True)


def test_a_canary_of_the_gateway_has_a_tag_of_its_own_and_is_waited_for_and_put_back(
    recorded: dict[str, str], tree: Path
) -> None:
    failing = {"CANARY_TAG": "next", "FAILS": "* status *canary*"}
    failed = update(tree, "harbor.example/ml", "abc", **recorded, **failing)
    calls = recorded_calls(recorded)
    applied = yaml.safe_load(Path(recorded["APPLIED"]).read_text())["images"]

    assert {"name": "sluice-gateway-canary", "newName": "harbor.example/ml/sluice-gateway", "newTag": "next"} in applied
    assert (failed.returncode, "error: sluice-gateway-canary did not become ready" in failed.stderr) == (1, True)
    assert calls[-1].endswith("rollout undo deployment/sluice-gateway-canary --to-revision=1")


def test_an_update_names_every_image_of_every_overlay(recorded: dict[str, str], tree: Path) -> None:
    update(tree, "harbor.example/ml", "abc", **recorded)
    named = {one["name"] for one in yaml.safe_load(Path(recorded["APPLIED"]).read_text())["images"]}

    for overlay in (ROOT / "deploy/kubernetes/overlays").glob("*/kustomization.yaml"):
        objects = build(overlay.parent)
        for one in by_kind(objects, "Deployment") + by_kind(objects, "StatefulSet"):
            images = {container["image"] for container in one["spec"]["template"]["spec"]["containers"]}
            assert {image for image in images if image.startswith("sluice-")} <= named, overlay


def test_an_update_that_changes_nothing_waits_for_nobody_and_puts_nothing_back(
    recorded: dict[str, str], tree: Path
) -> None:
    again = update(tree, "harbor.example/ml", "abc", **recorded, AFTER="1", FAILS="* status *")
    calls = recorded_calls(recorded)

    assert again.returncode == 0, again.stderr
    assert [call for call in calls if " rollout " in call] == []


def test_a_run_that_finds_the_update_of_another_under_way_waits_and_leaves_it(
    recorded: dict[str, str], tree: Path
) -> None:
    underway = {"AFTER": "1", "REASON": "ReplicaSetUpdated", "FAILS": "* status *"}
    again = update(tree, "harbor.example/ml", "abc", **recorded, **underway)
    calls = recorded_calls(recorded)

    assert (again.returncode, "put back: nothing;" in again.stderr) == (1, True)
    assert [call.split()[-2:] for call in calls if " rollout " in call] == [["status", "deployment/sluice-gateway"]]


@pytest.mark.parametrize("fails", ["* status *", "* rollout *"], ids=["nothing before it", "undo fails as well"])
def test_an_update_that_fails_says_so_whatever_comes_of_putting_it_back(
    recorded: dict[str, str], tree: Path, fails: str
) -> None:
    before = "1" if "rollout" in fails else ""
    failed = update(tree, "harbor.example/ml", "abc", **recorded, BEFORE=before, FAILS=fails)

    assert (failed.returncode, "error: sluice-gateway did not become ready; put back: nothing" in failed.stderr) == (
        1,
        True,
    )


def test_an_update_fails_when_nothing_moves_and_not_because_a_fleet_is_large() -> None:
    told = yaml.safe_load((ROOT / "deploy/kubernetes/components/pod/pod.yaml").read_text())

    assert told["spec"]["progressDeadlineSeconds"] == 900
    assert "--timeout" not in (CI / "rolling-update").read_text()


def test_an_update_names_the_images_and_deployments_that_the_manifests_have() -> None:
    base = [
        document
        for path in (ROOT / "deploy/kubernetes/base/processes").glob("*.yaml")
        for document in yaml.safe_load_all(path.read_text())
        if document["kind"] == "Deployment"
    ]
    gpu = yaml.safe_load((ROOT / "deploy/kubernetes/overlays/gpu/kustomization.yaml").read_text())
    images = {one["spec"]["template"]["spec"]["containers"][0]["image"] for one in base}

    assert {one["metadata"]["name"] for one in base} == {f"sluice-{name}" for name in DEPLOYMENTS}
    assert images | {one["newName"] for one in gpu["images"]} == set(IMAGES)
