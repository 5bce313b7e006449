"""A platform closed to strangers, whole: keys made, limited, rotated and revoked by the real commands while two
gateways answer, and good on when everything that made them is gone."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from registry.key_sheet import SHEET_KEY
from tests.e2e.platforms_under_fire import ITEMS, MODEL, Platform, until

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
RANK = f"/v1/models/{MODEL}/rank"
ASKS = 12  # connections, so that both gateways answer some


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    started = Platform.start(
        tmp_path_factory.mktemp("identity") / "home",
        with_controller=True,
        with_archiver=False,
        auth="all",
        gateways=2,
        quotas="burst_s=10",
    )
    try:
        started.serve()
        yield started
    finally:
        started.stop()


def sluice(platform: Platform, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "deploy.cli", *arguments],
        env=os.environ | platform.settings.to_environment() | {"COLUMNS": "200", "USER": "ann"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=180,
    )


def told(platform: Platform, *arguments: str) -> Any:
    """What a command printed as JSON."""
    done = sluice(platform, *arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def made(platform: Platform, name: str, *options: str) -> tuple[str, str]:
    """A key's id and text."""
    answer = told(platform, "keys", "create", name, "--role", "caller", *options)
    return answer["about"]["id"], answer["key"]


def statuses(platform: Platform, key: str, path: str = RANK, asks: int = ASKS) -> list[int]:
    """Each over a connection of its own: the kernel deals them out to the gateways."""
    headers = {"authorization": f"Bearer {key}"} if key else {}
    body = {"candidates": ITEMS[:5], "deadline_ms": 20_000}
    url = platform.settings.gateway_url + path
    return [httpx.post(url, json=body, headers=headers, timeout=60).status_code for _ in range(asks)]


def until_all(platform: Platform, key: str, status: int) -> float:
    """Until all gateways answer so; how long it took, in seconds."""
    began_s = time.monotonic()
    until(lambda: statuses(platform, key) == [status] * ASKS, f"{status} from every gateway")
    return time.monotonic() - began_s


def test_strangers_are_refused_and_probes_are_not(platform: Platform) -> None:
    assert set(statuses(platform, "")) == {401}
    assert httpx.get(platform.settings.gateway_url + "/v2/health/ready").status_code == 200
    assert httpx.get(platform.settings.gateway_url + "/metrics").status_code == 401
    assert sluice(platform, "status").returncode == 0


def test_a_key_is_good_at_every_gateway_until_it_is_revoked(platform: Platform) -> None:
    key_id, key = made(platform, "app", "--model", MODEL)
    until_all(platform, key, 200)
    assert statuses(platform, key, "/v1/models/another/rank", 1) == [403]

    rotated = told(platform, "keys", "rotate", key_id)["key"]
    until_all(platform, rotated, 200)
    assert set(statuses(platform, key)) == {200}

    assert sluice(platform, "keys", "revoke", key_id).returncode == 0
    took_s = until_all(platform, key, 401)
    assert set(statuses(platform, rotated)) == {401}
    print(f"revoked at every gateway {took_s:.2f} s after the command, {ASKS} queries included")


def test_both_gateways_together_keep_to_a_keys_quota(platform: Platform) -> None:
    _, key = made(platform, "limited", "--requests-per-s", "0.5")  # a burst of 5
    url, answers = platform.settings.gateway_url + RANK, []

    def known() -> bool:
        answers.append(httpx.post(url, json={"candidates": ITEMS[:5]}, headers={"authorization": f"Bearer {key}"}))
        return answers[-1].status_code != 401

    until(known, "the key to be known")
    began_s = time.monotonic()
    answers += [
        httpx.post(url, json={"candidates": ITEMS[:5]}, headers=dict(answers[-1].request.headers)) for _ in range(40)
    ]
    found = [answer.status_code for answer in answers if answer.status_code != 401]

    limited = [one for one in told(platform, "keys", "list") if one["name"] == "limited"]
    assert (limited[0]["requests_per_s"], limited[0]["used_ms"]) == (0.5, None)  # use is noted once a minute
    assert told(platform, "keys", "limit", limited[0]["id"], "--requests-per-s", "1000")["requests_per_s"] == 1000
    assert set(found) == {200, 429}
    assert found.count(200) <= 5 + 0.5 * (time.monotonic() - began_s) + 1
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert "API key 'limited'" in refused.json()["error"] and int(refused.headers["retry-after"]) >= 1


def test_the_local_key_is_rotated_in_its_place(platform: Platform) -> None:
    before = platform.settings.admin_key_file.read_text()
    [local] = [key for key in told(platform, "keys", "list") if key["name"] == "local"]
    assert sluice(platform, "keys", "rotate", local["id"], "--grace", "0s").returncode == 0

    assert platform.settings.admin_key_file.read_text() != before
    assert [key["id"] for key in told(platform, "keys", "list") if key["name"] == "local"] == [local["id"]]


def test_the_audit_log_says_who_made_which_key(platform: Platform) -> None:
    key_id, _ = made(platform, "audited")
    done = sluice(platform, "audit", "--limit", "2", "--json")
    answered, asked = [json.loads(line) for line in done.stdout.splitlines()]

    assert (asked["phase"], answered["phase"], answered["status"]) == ("asked", "answered", 201)
    assert asked["request_id"] == answered["request_id"]
    assert (asked["route"], asked["who"], asked["source"]) == ("make_key", "ann (key local)", "127.0.0.1")
    assert key_id
    assert "make_key" in sluice(platform, "audit").stdout


def test_keys_are_good_on_without_controller_and_redis_and_after_a_restart(platform: Platform) -> None:
    revoked_id, revoked = made(platform, "revoked")
    _, key = made(platform, "steady")
    until_all(platform, key, 200)
    assert sluice(platform, "keys", "revoke", revoked_id).returncode == 0
    until_all(platform, revoked, 401)

    redis = until(lambda: platform.pid("redis"), "redis to run")
    controller = until(lambda: platform.pid("controller"), "the controller to run")
    os.kill(controller, signal.SIGSTOP)
    os.kill(redis, signal.SIGSTOP)
    try:
        assert set(statuses(platform, key)) == {200}
        platform.kill("gateway-0")
        until(lambda: platform.pid("gateway-0"), "gateway-0 to be back, on its copy of the key sheet")
        assert set(statuses(platform, key)) == {200}
        assert set(statuses(platform, revoked)) == {401}
    finally:
        os.kill(redis, signal.SIGCONT)
        os.kill(controller, signal.SIGCONT)


def test_a_board_that_lost_everything_is_written_anew_and_locks_nobody_out(platform: Platform) -> None:
    _, key = made(platform, "kept")
    until_all(platform, key, 200)
    from deploy import wiring

    client = wiring.redis_client(platform.settings)
    client.delete(SHEET_KEY)

    assert set(statuses(platform, key)) == {200}
    until(lambda: client.exists(SHEET_KEY), "the controller to write the sheet again")
    assert set(statuses(platform, key)) == {200}


def test_no_secret_is_in_the_log_or_in_what_is_kept(platform: Platform) -> None:
    _, key = made(platform, "quiet")
    until_all(platform, key, 200)
    statuses(platform, key[:-1] + "_")
    folders = [platform.settings.logs_folder, platform.settings.versions_folder, platform.settings.redis_folder]
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    files += platform.settings.home.glob("control.db*")
    secrets = [key[7:], platform.settings.admin_key_file.read_text().strip()[7:]]

    assert len(files) > 4
    assert [str(path) for path in files if any(secret.encode() in path.read_bytes() for secret in secrets)] == []
