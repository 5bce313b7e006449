"""Dockerfiles and the Compose file, without a Docker engine: what they copy, install, start, mount and ask is there."""

import re
import shlex
import subprocess
import sys
import tomllib
from io import BytesIO
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest
import yaml
from dockerfile_parse import DockerfileParser

from deploy.commands.run import CELERY, OWN
from deploy.settings import PlatformSettings
from tests.prometheus_tools import tool

ROOT = Path(__file__).resolve().parents[2]
IMAGES = sorted((ROOT / "deploy" / "images").glob("*.Dockerfile"))
COMPOSE = ROOT / "deploy" / "compose"
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


def instructions(path: Path) -> list[dict[str, Any]]:
    parser = DockerfileParser(fileobj=BytesIO(path.read_bytes()))
    return [one for one in parser.structure if one["instruction"] != "COMMENT"]


def stages(path: Path) -> dict[str, list[tuple[str, str]]]:
    """Instructions by the name of their stage, in order."""
    found: dict[str, list[tuple[str, str]]] = {"": []}
    name = ""
    for one in instructions(path):
        if one["instruction"] == "FROM":
            name = one["value"].split()[-1]
            found[name] = []
        found[name].append((one["instruction"], one["value"]))
    return found


def values(stage: list[tuple[str, str]], instruction: str) -> list[str]:
    return [value for name, value in stage if name == instruction]


def installed_extras(path: Path) -> set[str]:
    [line] = [run for run in values(stages(path)["build"], "RUN") if "pip install" in run]
    assert "--constraint constraints.txt" in line
    found = re.search(r"'\.\[([a-z0-9,]+)\]'", line)
    assert found is not None
    return set(found[1].split(","))


def test_there_is_an_image_for_every_name_that_manifests_use() -> None:
    built = {f"sluice-{path.stem}" for path in IMAGES} | {"sluice-worker-cuda"}
    used: set[str] = set()
    for path in (ROOT / "deploy" / "kubernetes").rglob("*.yaml"):
        used |= set(re.findall(r"(?:image|newName): (sluice-[a-z-]+)", path.read_text()))

    assert used - {"sluice-gateway-canary"} == built  # the canary is the next release of the gateway's
    assert stages(ROOT / "deploy/images/worker.Dockerfile").keys() >= {"cpu", "cuda"}


@pytest.mark.parametrize("path", IMAGES, ids=lambda path: path.stem)
def test_a_stage_begins_with_one_that_there_is_and_copies_what_there_is(path: Path) -> None:
    arguments = {value.partition("=")[0] for value in values(stages(path)[""], "ARG")}
    known: set[str] = set()
    for name, stage in stages(path).items():
        if not name:
            continue
        origin = values(stage, "FROM")[0].split()[0]
        assert origin in known or origin.strip("${}") in arguments, origin
        known.add(name)
        for copied in values(stage, "COPY"):
            words = shlex.split(copied)
            if words[0].startswith("--from="):
                assert words[0].removeprefix("--from=") in known
            else:
                assert all((ROOT / source).exists() for source in words[:-1]), copied


@pytest.mark.parametrize("path", IMAGES, ids=lambda path: path.stem)
def test_a_container_runs_without_rights_a_command_that_there_is(path: Path) -> None:
    final = stages(path)["final"]
    [user], [entrypoint], [command] = (values(final, name) for name in ("USER", "ENTRYPOINT", "CMD"))

    assert re.fullmatch(r"[1-9]\d{3,}:[1-9]\d{3,}", user)
    assert yaml.safe_load(entrypoint) == ["sluice"]
    assert yaml.safe_load(command)[0] == "run" and yaml.safe_load(command)[1] in OWN
    [check] = values(final, "HEALTHCHECK")
    code = yaml.safe_load(check.partition("CMD ")[2])[2]
    compile(code, "healthcheck", "exec")
    assert "/live" in code and "SLUICE_PROBE_ADDRESS=tcp:0.0.0.0:8790" in " ".join(values(final, "ENV"))
    kept = (ROOT / ".dockerignore").read_text().splitlines()
    sources = [source for copied in values(stages(path)["build"], "COPY") for source in copied.split()[:-1]]
    assert all(f"!{source}" in kept for source in sources)


@pytest.mark.parametrize("path", IMAGES, ids=lambda path: path.stem)
def test_what_is_installed_are_extras_that_there_are(path: Path) -> None:
    assert installed_extras(path) <= EXTRAS.keys()


def test_neither_torch_nor_mlflow_is_in_a_gateway_nor_torch_in_a_monitor() -> None:
    def packages(image: str) -> set[str]:
        extras = installed_extras(ROOT / "deploy" / "images" / f"{image}.Dockerfile")
        return {re.split(r"[\[<>=;]", package)[0] for extra in extras for package in EXTRAS[extra]}

    assert not packages("gateway") & {"torch", "mlflow", "celery", "scipy", "pyarrow", "boto3"}
    assert "torch" not in packages("monitor")
    assert {"torch", "mlflow"} <= packages("worker")
    for image in ("worker", "pipelines", "monitor"):  # MLflow's client goes to an S3 store itself
        assert {"mlflow", "boto3"} <= packages(image)
    worker = (ROOT / "constraints.txt").read_text()
    assert "torch==2.13.0" in EXTRAS["worker"] and re.search(r"(?m)^torch==2\.13\.0$", worker)


def test_a_gateway_of_what_its_image_installs_has_all_that_it_imports(tmp_path: Path) -> None:
    """The image's own pip line, in a fresh environment; the gateway's modules and nothing of the test's."""
    extras = ",".join(sorted(installed_extras(ROOT / "deploy" / "images" / "gateway.Dockerfile")))
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    python = str(tmp_path / "venv" / "bin" / "python")
    quietly = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    source = tmp_path / "source"
    source.mkdir()
    for line in values(stages(ROOT / "deploy" / "images" / "gateway.Dockerfile")["build"], "COPY"):
        subprocess.run(["cp", "-r", *[str(ROOT / name) for name in line.split()[:-1]], str(source)], check=True)
    subprocess.run([*quietly, "--constraint", str(ROOT / "constraints.txt"), f"{source}[{extras}]"], check=True)
    program = (
        "import importlib.util, deploy.gateway.process, deploy.gateway.grpc_server, deploy.commands.run;"
        "print([name for name in ('torch', 'mlflow', 'scipy', 'celery') if importlib.util.find_spec(name)])"
    )

    done = subprocess.run([python, "-I", "-c", program], capture_output=True, text=True, cwd=tmp_path)

    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr
    sluice = subprocess.run(
        [tmp_path / "venv/bin/sluice", "run", "nobody"], capture_output=True, text=True, cwd=tmp_path
    )
    assert sluice.returncode != 0 and "one of gateway, worker" in sluice.stderr


# --- Compose --------------------------------------------------------------------------------------------------------


def compose() -> dict[str, Any]:
    return dict(yaml.safe_load((COMPOSE / "compose.yaml").read_text()))


def ours() -> dict[str, Any]:
    return {name: one for name, one in compose()["services"].items() if one.get("command", [""])[0] == "run"}


def test_compose_starts_every_process_and_waits_for_what_it_needs() -> None:
    services = compose()["services"]

    assert {one["command"][1] for one in ours().values()} == set(OWN) | set(CELERY)
    for name, one in services.items():
        needs = one.get("depends_on", {})
        assert set(needs) <= services.keys(), name
        for needed in needs if isinstance(needs, dict) else ():
            if needs[needed]["condition"] == "service_healthy":
                assert "healthcheck" in services[needed]
    for name, one in ours().items():
        assert one["healthcheck"]["test"][0] == "CMD" and "/ready" in one["healthcheck"]["test"][3], name
        assert one["read_only"] and one["cap_drop"] == ["ALL"]
        assert (COMPOSE / one["build"]["context"] / one["build"]["dockerfile"]).is_file()
        assert one["image"] == f"sluice-{Path(one['build']['dockerfile']).stem}"


def test_composes_settings_are_settings_and_hold_together() -> None:
    for name, one in ours().items():
        told = dict(one["environment"])
        assert all(isinstance(value, str) for value in told.values()), name
        files = {key: value for key, value in told.items() if key.endswith("_FILE")}
        given = [re.sub(r"\$\{\w+:-(.*)\}", r"\1", value) for value in told.values()]  # as it is if nobody sets it
        plain = {key: value for key, value in zip(told, given, strict=True) if key not in files and key != "SLUICE_URL"}
        settings = PlatformSettings.from_environment(plain)
        written = settings.to_environment()
        assert plain.keys() <= written.keys()
        assert not settings.embedded_redis and settings.broker_url.startswith("redis://redis-broker")
        secrets = {f"/run/secrets/{secret}" for secret in one.get("secrets", ())}
        assert {value for value in files.values() if value.startswith("/run/secrets/")} == secrets


def test_what_compose_mounts_is_there() -> None:
    told = compose()
    for one in told["secrets"].values():
        assert (COMPOSE / one["file"]).is_file()
    for name, one in told["services"].items():
        for volume in one.get("volumes", ()):
            source = volume.split(":")[0]
            if source.startswith("."):
                assert (COMPOSE / source).exists(), (name, source)
            elif not source.startswith("$"):
                assert source in told["volumes"], (name, source)
    assert set(told) == {"name", "services", "secrets", "networks", "volumes", "x-sluice", "x-redis"}


def test_composes_redis_keeps_what_it_has_and_its_cluster_the_addresses_by_which_it_knows_itself() -> None:
    told = compose()
    masters = ["redis-1", "redis-2", "redis-3"]
    [pool] = told["networks"]["default"]["ipam"]["config"]
    addresses = [ip_address(told["services"][one]["networks"]["default"]["ipv4_address"]) for one in masters]

    for name in (*masters, "redis-broker"):
        assert told["services"][name]["volumes"] == [f"{name}:/data"]
    assert len(set(addresses)) == 3
    for one in addresses:  # and nobody else is given one of them
        assert one in ip_network(pool["subnet"]) and one not in ip_network(pool["ip_range"])


def test_hosts_that_compose_names_are_its_services() -> None:
    told = compose()
    hosts: set[str] = set()
    for one in ours().values():
        for value in one["environment"].values():
            hosts |= set(re.findall(r"(?:tcp:|//|,|=)([a-z][a-z0-9-]*):\d+", value))
    for job in yaml.safe_load((COMPOSE / "prometheus.yml").read_text())["scrape_configs"]:
        hosts |= {target.partition(":")[0] for target in job["static_configs"][0]["targets"]}
    for source in yaml.safe_load((COMPOSE / "datasources" / "prometheus.yml").read_text())["datasources"]:
        hosts |= set(re.findall(r"//([a-z-]+):", source["url"]))

    assert hosts <= told["services"].keys()
    assert {"gateway", "worker", "redis-1", "mlflow", "prometheus"} <= hosts
    secret = (COMPOSE / "secrets" / "control-url").read_text().strip()
    settings = PlatformSettings.from_environment({"SLUICE_CONTROL_URL": secret})
    assert "@postgres:5432/control" in settings.control_database


def test_composes_prometheus_takes_its_configuration(tmp_path: Path) -> None:
    (tmp_path / "prometheus.yml").write_text((COMPOSE / "prometheus.yml").read_text())
    (tmp_path / "rules").symlink_to(ROOT / "deploy" / "prometheus" / "rules")

    done = subprocess.run(
        [tool("promtool"), "check", "config", str(tmp_path / "prometheus.yml")], capture_output=True, text=True
    )

    assert done.returncode == 0, done.stdout + done.stderr
