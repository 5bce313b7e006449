"""The files of deploy/prometheus, as Prometheus' own tools see them."""

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.commands.status import LEFT_ALONE_S
from tests.prometheus_tools import tool

FOLDER = Path(__file__).resolve().parents[2] / "deploy" / "prometheus"


def run(*arguments: str) -> None:
    done = subprocess.run([tool(arguments[0]), *arguments[1:]], cwd=FOLDER, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_takes_its_configuration_and_the_rules_without_a_lint() -> None:
    run("promtool", "check", "config", "--lint-fatal", "prometheus.yml")
    run("promtool", "check", "rules", "--lint=all", "--lint-fatal", *map(str, sorted(FOLDER.glob("rules/*.yml"))))


def test_alertmanager_takes_its_configuration() -> None:
    run("amtool", "check-config", "alertmanager.yml")


@pytest.mark.parametrize(
    ("told", "severity", "receiver"),
    [("SluiceDown", "page", "page"), ("RolloutRolledBack", "ticket", "ticket")],
)
def test_a_page_goes_to_the_pager_and_a_ticket_does_not(told: str, severity: str, receiver: str) -> None:
    route = ["amtool", "config", "routes", "test", "--config.file=alertmanager.yml", f"--verify.receivers={receiver}"]
    run(*route, f"alertname={told}", f"severity={severity}")


def test_alerts_fire_when_they_should_and_stay_quiet_when_not() -> None:
    run("promtool", "test", "rules", *map(str, sorted(FOLDER.glob("tests/*.yml"))))


def test_every_alert_is_seen_firing() -> None:
    rules = yaml.safe_load((FOLDER / "rules" / "alerts.yml").read_text())
    alerts = {rule["alert"] for group in rules["groups"] for rule in group["rules"]}
    tests: list[dict[str, Any]] = [
        test for path in FOLDER.glob("tests/*.yml") for test in yaml.safe_load(path.read_text())["tests"]
    ]
    by_words = {
        case["alertname"] for test in tests for case in test.get("alert_rule_test", ()) if case.get("exp_alerts")
    }
    by_series = {
        alert
        for test in tests
        for case in test.get("promql_expr_test", ())
        if case["exp_samples"]
        for alert in alerts
        if f'"{alert}"' in case["expr"] + "".join(sample["labels"] for sample in case["exp_samples"])
    }

    assert alerts - by_words - by_series == set()


def test_a_group_is_left_alone_for_as_long_as_status_says() -> None:
    rules = yaml.safe_load((FOLDER / "rules" / "alerts.yml").read_text())
    [held_back] = [
        rule for group in rules["groups"] for rule in group["rules"] if rule.get("alert") == "StreamHeldBack"
    ]

    assert held_back["expr"] == f"max by (group) (deploy_event_stream_lag_seconds) > {LEFT_ALONE_S:.0f}"
