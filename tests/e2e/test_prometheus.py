"""A real Prometheus beside the running platform: every panel and rule has data, and an alert reaches the pager."""

import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from deploy.client import GatewayClient
from tests.deploy.test_dashboards import ALERTS, BOARDS, PANELS, RECORDS, Panel
from tests.e2e.platforms_under_fire import until
from tests.e2e.watched_platform import Watched, live_through_everything, watched_platform
from tests.prometheus_server import Watcher, watching
from tests.prometheus_tools import tool
from tests.promql import raw_selectors

pytestmark = pytest.mark.slow

NEEDS_A_GPU = "needs a GPU"
NEEDS_KEYS = "needs queries that need a key, or quotas"
NEEDS_AN_ISSUER = "needs an issuer of tokens"
NEEDS_WEEKS = "needs the same hour of weeks before"
NEEDS_CODES = "needs a feature that looks like codes"
NEEDS_A_RETRAINING = "needs a retraining that is over, and one waits minutes for its clicks"
WITHOUT_DATA = {
    **dict.fromkeys(
        (
            "gpu: Memory used",
            "gpu: Utilisation",
            "gpu: Power",
            "gpu: Temperature",
            "gpu: Clock",
            "gpu: Hits in device memory",
            "gpu: Rows in device memory",
            "gpu: Forward passes by way",
            "gpu: Fallbacks",
        ),
        NEEDS_A_GPU,
    ),
    "drift: Season: shift from the same hour, ten largest": NEEDS_WEEKS,
    "drift: Categories: distance of their shares, ten largest": NEEDS_CODES,
    "drift: Categories that are new, ten most": NEEDS_CODES,
    "pipelines: Newest window learned from": NEEDS_A_RETRAINING,
    "drift: Calibration: clicks for each that scores said": NEEDS_A_RETRAINING,
    "drift: Calibration error": NEEDS_A_RETRAINING,
}
"""Panels that have no data here, and why."""
SELECTORS_WITHOUT_DATA = {
    "serving_device_memory_bytes": NEEDS_A_GPU,
    'serving_device_memory_bytes{kind="free"}': NEEDS_A_GPU,
    'serving_answers_total{status="429"}': "needs over 512 queries in flight at once",
    'serving_ladder_answers_total{rung=~"cached_order|given_order"}': "needs a model without any replica",
    'serving_door_refusals_total{reason=~"(key|line)_.*"}': NEEDS_KEYS,
    'serving_key_set_fetches_total{outcome="failed"}': NEEDS_AN_ISSUER,
    'serving_key_set_fetches_total{outcome="fetched"}': NEEDS_AN_ISSUER,
    'pipelines_run_succeeded_window_timestamp_seconds{kind="retrain"}': NEEDS_A_RETRAINING,
}
"""What rules ask for and cannot be had here, and why."""


@dataclass(frozen=True)
class Scene:
    """The platform after everything has happened, still under traffic, and who watches it."""

    watched: Watched
    watcher: Watcher


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("watched")
    tool("prometheus")  # before anything is started for it
    with watched_platform(folder) as watched:
        target = watched.platform.settings.gateway_url.removeprefix("http://")
        with watching(target, folder) as watcher:
            live_through_everything(watched)
            yield Scene(watched, watcher)


def asked(expr: str) -> str:
    """As Grafana would ask, with all variables at All."""
    return re.sub(r"\$(model|arm|device)\b", ".*", expr.replace("$__rate_interval", "1m"))


def data_of(watcher: Watcher, expr: str) -> list[dict[str, Any]]:
    """Its series that have a number, as soon as there are any."""

    def found() -> list[dict[str, Any]]:
        return [series for series in watcher.query(expr) if series["value"][1] != "NaN"]

    return until(found, f"data of {expr}")


@pytest.mark.parametrize("panel", [p for p in PANELS if p.name not in WITHOUT_DATA], ids=lambda panel: panel.name)
def test_every_query_of_a_panel_has_data_and_every_label_of_its_legend(scene: Scene, panel: Panel) -> None:
    for expr, legend in panel.queries():
        series = data_of(scene.watcher, asked(expr))
        for label in re.findall(r"\{\{(\w+)\}\}", legend):
            assert any(one["metric"].get(label) for one in series), f"{label} of {expr} is nowhere"


def test_what_has_no_data_is_asked_for_somewhere_and_is_taken_by_prometheus(scene: Scene) -> None:
    by_name = {panel.name: panel for panel in PANELS}
    for name in WITHOUT_DATA:
        for expr, _ in by_name[name].queries():
            scene.watcher.query(asked(expr))
    assert SELECTORS_WITHOUT_DATA.keys() <= {one for rule in ALERTS for one in raw_selectors(rule["expr"])}


@pytest.mark.parametrize("rule", RECORDS, ids=lambda rule: rule["record"])
def test_a_record_is_recorded(scene: Scene, rule: dict[str, Any]) -> None:
    assert data_of(scene.watcher, rule["record"])


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_what_an_alert_looks_at_is_there(scene: Scene, rule: dict[str, Any]) -> None:
    for selector in raw_selectors(rule["expr"]):
        if selector not in SELECTORS_WITHOUT_DATA:
            assert data_of(scene.watcher, selector)


@pytest.mark.parametrize("board", BOARDS)
def test_variables_have_values_and_annotations_are_taken(scene: Scene, board: str) -> None:
    for variable in BOARDS[board]["templating"]["list"]:
        if variable["type"] == "query" and variable["name"] != "device":
            name, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"]).groups()  # type: ignore[union-attr]
            assert any(one["metric"].get(label) for one in data_of(scene.watcher, name))
    for annotation in BOARDS[board]["annotations"]["list"]:
        scene.watcher.query(asked(annotation["expr"]))


def test_all_rules_are_evaluated_without_an_error(scene: Scene) -> None:
    def evaluated() -> list[dict[str, Any]] | None:
        found = scene.watcher.rules()
        return found if all(rule["health"] != "unknown" for rule in found) else None

    rules = until(evaluated, "all rules to be evaluated")

    assert len(rules) == len(ALERTS) + len(RECORDS)
    assert {one["name"]: one.get("lastError") for one in rules if one["health"] != "ok"} == {}


def test_the_rollout_that_was_rolled_back_reaches_the_pager(scene: Scene) -> None:
    until(lambda: "RolloutRolledBack" in scene.watcher.told(), "the alert at Alertmanager")


def test_promtool_has_nothing_to_say_against_what_is_exported(scene: Scene) -> None:
    with GatewayClient(scene.watched.platform.settings.gateway_url) as gateway:
        exported = gateway.text("/metrics")

    done = subprocess.run([tool("promtool"), "check", "metrics"], input=exported, capture_output=True, text=True)

    assert done.returncode == 0, done.stdout + done.stderr
