"""Dashboards and rules name only what the rooms declare, and are what the code makes of them."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.grafana import generate
from tests.metric_catalogue import series
from tests.promql import Asked, grouped_labels, selectors

ROOT = Path(__file__).resolve().parents[2]
PROMETHEUS = ROOT / "deploy" / "prometheus"
GRAFANA = ROOT / "deploy" / "grafana"
BOARDS = {path.stem: json.loads(path.read_text()) for path in sorted((GRAFANA / "dashboards").glob("*.json"))}
RULES: list[dict[str, Any]] = [
    rule
    for path in sorted((PROMETHEUS / "rules").glob("*.yml"))
    for group in yaml.safe_load(path.read_text())["groups"]
    for rule in group["rules"]
]
ALERTS = [rule for rule in RULES if "alert" in rule]
RECORDS = [rule for rule in RULES if "record" in rule]
OF_PROMETHEUS = {"up": frozenset[str](), "ALERTS": frozenset({"alertstate", "alertname", "severity"})}
OF_THE_SCRAPE = frozenset({"job", "instance"})


@dataclass(frozen=True)
class Panel:
    """One panel of a committed dashboard."""

    board: str
    document: dict[str, Any]

    @property
    def name(self) -> str:
        return f"{self.board}: {self.document['title']}"

    def queries(self) -> Iterator[tuple[str, str]]:
        """PromQL and legend."""
        for target in self.document["targets"]:
            yield target["expr"], target.get("legendFormat", "")


PANELS = [Panel(name, panel) for name, board in BOARDS.items() for panel in board["panels"]]


def recorded_labels(record: str) -> frozenset[str]:
    """`model_arm:x:y` keeps model and arm."""
    return frozenset(record.partition(":")[0].split("_"))


KNOWN = series() | OF_PROMETHEUS | {rule["record"]: recorded_labels(rule["record"]) for rule in RECORDS}


def unknown(expr: str, legend: str = "") -> list[str]:
    """What the query or legend names and nothing declares."""
    asked: list[Asked] = list(selectors(expr))
    wrong = [f"no series {one.series}" for one in asked if one.series not in KNOWN]
    has = frozenset[str]().union(*(KNOWN.get(one.series, frozenset()) for one in asked)) | OF_THE_SCRAPE
    for one in asked:
        wrong += [
            f"{one.series} has no label {label}"
            for label in one.labels - KNOWN.get(one.series, frozenset()) - OF_THE_SCRAPE
        ]
    wrong += [f"nothing here has the label {label}" for label in grouped_labels(expr) - has]
    kept = grouped_labels(expr) or has
    wrong += [f"the legend's {label} is gone" for label in re.findall(r"\{\{(\w+)\}\}", legend) if label not in kept]
    return wrong


def test_the_committed_dashboards_are_what_the_code_makes() -> None:
    made = generate.documents()
    committed = {path.name: path.read_text() for path in (GRAFANA / "dashboards").iterdir()}

    assert sorted(made) == sorted(committed)
    for name, document in made.items():
        assert committed[name] == document, f"{name} is old; try: python -m deploy.grafana.generate"


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel.name)
def test_a_panel_names_what_is_declared(panel: Panel) -> None:
    assert [wrong for expr, legend in panel.queries() for wrong in unknown(expr, legend)] == []


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel.name)
def test_a_panel_says_what_it_shows_and_in_which_unit(panel: Panel) -> None:
    assert panel.document["description"].endswith(".")
    assert panel.document["type"] == "state-timeline" or panel.document["fieldConfig"]["defaults"]["unit"]
    assert panel.document["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.get("alert") or rule["record"])
def test_a_rule_names_what_is_declared(rule: dict[str, Any]) -> None:
    assert unknown(rule["expr"]) == []


@pytest.mark.parametrize("rule", RECORDS, ids=lambda rule: rule["record"])
def test_a_record_keeps_the_labels_that_its_name_says(rule: dict[str, Any]) -> None:
    kept = grouped_labels(rule["expr"]) - {"le"}

    assert kept == recorded_labels(rule["record"])


@pytest.mark.parametrize("board", BOARDS)
def test_variables_and_annotations_ask_for_what_is_declared(board: str) -> None:
    for variable in BOARDS[board]["templating"]["list"]:
        if variable["type"] == "query":
            name, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"]).groups()  # type: ignore[union-attr]
            assert label in KNOWN[name]
    for annotation in BOARDS[board]["annotations"]["list"]:
        assert unknown(annotation["expr"]) == []


@pytest.mark.parametrize("board", BOARDS)
def test_a_board_uses_the_variables_that_it_offers_and_no_others(board: str) -> None:
    offered = {variable["name"] for variable in BOARDS[board]["templating"]["list"]} - {"datasource"}
    queries = " ".join(expr for panel in PANELS if panel.board == board for expr, _ in panel.queries())

    assert set(re.findall(r"\$(\w+)", queries)) - {"__rate_interval"} == offered


@pytest.mark.parametrize("board", BOARDS)
def test_panels_stand_beside_and_below_each_other(board: str) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in BOARDS[board]["panels"]:
        place = panel["gridPos"]
        assert place.get("x", 0) + place["w"] <= 24
        x, y = place.get("x", 0), place.get("y", 0)
        cells = {(i, j) for i in range(x, x + place["w"]) for j in range(y, y + place["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_an_alert_says_what_is_the_matter_how_urgent_it_is_and_where_it_is_written_what_to_do(
    rule: dict[str, Any],
) -> None:
    assert rule["labels"]["severity"] in ("page", "ticket")
    assert rule["annotations"].keys() - {"report"} == {"summary", "description", "runbook"}
    file, _, anchor = rule["annotations"]["runbook"].partition("#")
    assert file == "deploy/prometheus/RUNBOOK.md"
    assert anchor == rule["alert"].lower()


def test_the_runbook_has_a_section_for_each_alert_and_none_for_what_is_no_alert() -> None:
    headings = re.findall(r"^### (\w+)$", (PROMETHEUS / "RUNBOOK.md").read_text(), re.MULTILINE)

    assert sorted(headings) == sorted(rule["alert"] for rule in ALERTS)


def test_an_unknown_metric_or_label_would_be_found() -> None:
    assert unknown("rate(serving_answers[5m])") == ["no series serving_answers"]
    assert unknown('serving_plan_revision{arm="x"}') == ["serving_plan_revision has no label arm"]
    assert unknown("sum by (arm) (serving_plan_revision)") == ["nothing here has the label arm"]
    assert unknown("serving_plan_revision", "{{arm}}") == ["the legend's arm is gone"]
    with pytest.raises(ValueError, match="neither a series nor PromQL"):
        unknown("serving_plan_revision + nonsense")
