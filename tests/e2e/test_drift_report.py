"""A drifted day's report from the real processes: made by itself and on demand, found by command, link and browser."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from deploy import wiring
from deploy.control.admin_key import read_admin_key
from deploy.machine.lifecycle import running
from deploy.settings import PlatformSettings
from registry.drift_board import RedisDriftBoard
from tests.builders import NOW_MS, a_plan
from tests.deploy.drifted_season import MODEL, DriftedSeason
from tests.deploy.platforms import ROOT, Platforms, until
from tests.missing_tools import lacks

NEWEST, QUIET = "2026-01-18", "2026-01-10"
WAIT_S = 300  # a page is made in seconds, but stands back for everybody else; MLflow makes its tables first
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PlatformSettings]:
    """Of a platform that runs over a season's archive and closed days."""
    home = tmp_path_factory.mktemp("reports") / "home"
    season = DriftedSeason.written(home)
    ports = {"gateway_port": 0, "grpc_port": 0, "mlflow_port": 0}
    told = PlatformSettings(home=home, with_grpc=False, **ports)
    with Platforms(told) as platforms:
        platforms.ready(platforms.start("reports"), WAIT_S)
        found, _ = running(told)
        registered = sluice(found, "models", "register", MODEL, str(found.versions_folder / MODEL / "1"))
        assert registered.returncode == 0, registered.stderr
        # from now on it is looked at
        control = wiring.traffic_control(found)
        control.change(a_plan(MODEL), expected_revision=0, who="test", why="served", evidence={}, now_ms=NOW_MS)
        with wiring.redis_client(found) as client:
            board = RedisDriftBoard(client)
            for record in season.board.latest(MODEL):
                board.publish(record)
        yield found


def sluice(settings: PlatformSettings, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "deploy.cli", *arguments],
        env=os.environ | settings.to_environment() | {"COLUMNS": "200"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=WAIT_S,
    )


def answer(settings: PlatformSettings, path: str, **options: object) -> httpx.Response:
    key = read_admin_key(settings.admin_key_file)
    headers = {"authorization": f"Bearer {key}"} | options.pop("headers", {})  # type: ignore[operator]
    return httpx.get(settings.gateway_url + path, headers=headers, timeout=60, **options)  # type: ignore[arg-type]


def test_the_report_of_a_drifted_day_is_made_and_found_by_every_way(settings: PlatformSettings, tmp_path: Path) -> None:
    out = tmp_path / "day.html"

    told = sluice(settings, "drift", "report", MODEL)
    written = sluice(settings, "drift", "report", MODEL, "--day", NEWEST, "--out", str(out))
    figures = sluice(settings, "drift", "report", MODEL, "--day", NEWEST, "--json")
    shown = sluice(settings, "drift", "show", MODEL)

    assert told.returncode == 0, told.stderr
    first, url = told.stdout.splitlines()
    path = f"/v1/models/{MODEL}/drift/reports/{NEWEST}"
    assert (first, url) == (
        f"{NEWEST} of {MODEL}@1, champion: features failed, confidence passed",
        settings.gateway_url + path,
    )
    assert written.returncode == 0, written.stderr
    page = answer(settings, path, headers={"accept": "text/html"})
    assert out.read_text() == page.text
    assert page.headers["content-security-policy"].startswith("default-src 'none'; script-src 'sha256-")
    assert page.headers["content-encoding"] == "gzip"
    assert json.loads(figures.stdout) == answer(settings, path).json()
    assert shown.returncode == 1  # an alarm is open
    assert f"report of champion: {url}" in shown.stdout
    assert answer(settings, f"/v1/models/{MODEL}/drift").json()["reports"][0]["path"] == path
    latest = answer(settings, f"/v1/models/{MODEL}/drift/reports/latest?arm=champion", headers={"accept": "text/html"})
    assert latest.text == page.text


def test_mlflow_s_run_of_the_version_that_drifted_has_the_report(settings: PlatformSettings) -> None:
    def asked(route: str, **query: str) -> dict[str, Any]:
        return dict(httpx.get(f"{settings.mlflow_url}/api/2.0/mlflow/{route}", params=query, timeout=60).json())

    version = asked("model-versions/get", name=MODEL, version="1")["model_version"]
    run_id = version["run_id"]

    def tagged() -> str:
        tags = asked("runs/get", run_id=run_id)["run"]["data"]["tags"]
        return str({tag["key"]: tag["value"] for tag in tags}.get("sluice.drift_report", ""))

    assert sluice(settings, "drift", "report", MODEL, "--day", NEWEST).returncode == 0
    assert until(tagged, "the run is tagged", WAIT_S) == f"/v1/models/{MODEL}/drift/reports/{NEWEST}"
    files = asked("artifacts/list", run_id=run_id, path="drift")["files"]
    assert [file["path"] for file in files] == ["drift/report.html", "drift/report.json"]


def test_a_quiet_day_s_report_is_made_when_somebody_asks(settings: PlatformSettings) -> None:
    asked = sluice(settings, "drift", "report", MODEL, "--day", QUIET, "--json")
    never = sluice(settings, "drift", "report", MODEL, "--day", "2025-01-01")

    assert asked.returncode == 0, asked.stderr
    assert json.loads(asked.stdout)["about"]["since_ms"] == NOW_MS + 9 * 86_400_000
    assert (never.returncode, "was not closed" in never.stderr) == (1, True)


def test_a_browser_draws_the_page_with_a_key_for_a_password_and_nothing_from_elsewhere(
    settings: PlatformSettings, tmp_path: Path
) -> None:
    browser = next(filter(None, map(shutil.which, BROWSERS)), None) or lacks("no Chromium: apt-get install chromium")
    assert sluice(settings, "drift", "report", MODEL, "--day", NEWEST).returncode == 0
    key, host = read_admin_key(settings.admin_key_file), settings.gateway_url.removeprefix("http://")
    url = f"http://anybody:{key}@{host}/v1/models/{MODEL}/drift/reports/{NEWEST}"

    done = subprocess.run(
        [
            *(browser, "--headless=new", "--disable-gpu", f"--user-data-dir={tmp_path}", "--enable-logging=stderr"),
            *(["--no-sandbox"] if os.geteuid() == 0 else []),
            *("--virtual-time-budget=20000", "--dump-dom", url),
        ],
        capture_output=True,
        text=True,
        timeout=WAIT_S,
    )

    drawn = re.sub(r"<script.*?</script>", "", done.stdout, flags=re.DOTALL)
    assert "codesearch@1, champion, 2026-01-18 (UTC)" in drawn
    assert "Drift in column 'of_item'" in drawn
    assert "js-plotly-plot" in drawn
    assert [line for line in done.stderr.splitlines() if "CONSOLE" in line] == []


def test_a_profile_is_shown_beside_a_closed_day(settings: PlatformSettings) -> None:
    alone = sluice(settings, "drift", "profile", MODEL)
    beside = sluice(settings, "drift", "profile", MODEL, "1", "--against", NEWEST)
    told = json.loads(sluice(settings, "drift", "profile", MODEL, "--against", "newest", "--json").stdout)

    assert alone.returncode == 0, alone.stderr
    assert "made-up lists, 4000 lists" in alone.stdout
    (row,) = [line.split() for line in beside.stdout.splitlines() if line.startswith("of_item ")]
    assert f"{told['days'][0]['quantities'][0]['mean']:.4g}" in row
    assert len(told["profile"]["features"]) == 7


def test_a_change_is_declared_through_the_control_api(settings: PlatformSettings) -> None:
    done = sluice(settings, "drift", "rebaseline", MODEL, "--why", "prices are in cents now", "--json")

    assert done.returncode == 0, done.stderr
    with wiring.redis_client(settings) as client:
        declared = RedisDriftBoard(client).declared(MODEL)
    assert declared is not None
    assert (declared.from_ms, declared.why) == (json.loads(done.stdout)["from_ms"], "prices are in cents now")
