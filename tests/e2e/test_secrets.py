"""Secrets of a running platform are told to those who need them, and stand nowhere where others look."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from deploy import wiring
from registry.artefacts import write
from registry.board import RedisBoard
from registry.contracts.traffic import TrafficPlan
from registry.signatures import Signer, make_key, public_text
from tests.builders import a_package
from tests.e2e.platforms_under_fire import ITEMS, MODEL, Platform

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
JWT_SECRET = "planted-jwt-secret-0123456789-0123456789"
STORE_PASSWORD = "planted-store-password"


@pytest.fixture(scope="module")
def signer(tmp_path_factory: pytest.TempPathFactory) -> tuple[Signer, str]:
    """A key that signs versions, and its text."""
    path = tmp_path_factory.mktemp("keys") / "signing.key"
    return make_key(path), path.read_text()


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory, signer: tuple[Signer, str]) -> Iterator[Platform]:
    started = Platform.start(
        tmp_path_factory.mktemp("secrets") / "home",
        with_controller=True,
        features_url=f"redis://reader:{STORE_PASSWORD}@127.0.0.1:1/0",  # away: whoever asks it logs why
        development=True,
        jwt_issuer="https://issuer.example",
        jwt_audience="sluice",
        jwt_secret=JWT_SECRET,
        signing_key=signer[1],
        trusted_keys=f"ci={public_text(signer[0].public)}",
        log_level="DEBUG",
    )
    try:
        yield started
    finally:
        started.stop()


def pids(platform: Platform) -> list[int]:
    """Of the supervisor and all that came of it."""
    found = [platform.supervisor.pid]
    for pid in found:
        for children in Path(f"/proc/{pid}/task").glob("*/children"):
            found += [int(child) for child in children.read_text().split()]
    return found


def environment_of(pid: int) -> str:
    return Path(f"/proc/{pid}/environ").read_text(errors="replace")


def test_planted_secrets_are_in_no_log_and_no_command_line_and_nothing_that_is_shown(
    platform: Platform, signer: tuple[Signer, str]
) -> None:
    admin = platform.settings.admin_key_file.read_text().strip()
    secrets = [JWT_SECRET, STORE_PASSWORD, signer[1].splitlines()[1], admin.removeprefix("sluice_")]
    headers = {"authorization": f"Bearer {admin}"}
    url = platform.settings.gateway_url

    package = signer[0].signed(a_package())
    write(package, platform.settings.versions_folder / MODEL / "1")
    RedisBoard(wiring.redis_client(platform.settings)).publish(TrafficPlan(MODEL, 1, 1, package.digest))
    platform.wait_until_warm()
    query = {"candidates": ITEMS[:3], "deadline_ms": 20_000}
    asked = httpx.post(f"{url}/v1/models/{MODEL}/rank", json=query, timeout=60)
    refused = httpx.get(f"{url}/v1/keys", headers={"authorization": f"Bearer {admin[:-3]}xyz"}, timeout=60)
    looked_at = ("/v1/status", "/v1/keys", "/metrics")
    shown = [httpx.get(url + path, headers=headers, timeout=60).text for path in looked_at]
    for command in (["status"], ["keys", "list"], ["logs"]):
        done = subprocess.run(
            [sys.executable, "-m", "deploy.cli", *command],
            env=os.environ | platform.settings.to_environment(),
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=120,
        )
        shown += [done.stdout, done.stderr]
    logs = [path.read_text() for path in platform.settings.logs_folder.iterdir()]
    command_lines = [Path(f"/proc/{pid}/cmdline").read_text(errors="replace") for pid in pids(platform)]

    assert asked.status_code == 200
    assert refused.status_code == 401
    assert asked.json()["degraded"], "the store of rows is away: it was asked, with its password"
    assert any('"SLUICE_FEATURES_URL":"redis://reader:***@127.0.0.1:1/0"' in log for log in logs)
    assert len(command_lines) > 4
    for secret in secrets:
        for text in (*logs, *shown, *command_lines, asked.text, refused.text):
            assert secret not in text


def test_the_key_that_signs_versions_is_told_to_nobody_who_registers_none(platform: Platform) -> None:
    children = pids(platform)[1:]

    assert len(children) > 3
    assert [pid for pid in children if "PRIVATE KEY" in environment_of(pid)] == []
