"""The convention that every metric keeps: room first, base unit last, labels that are few and bounded."""

import re

import pytest

from tests.metric_catalogue import Declared, declared

METRICS = declared()
NAMES = [metric.name for metric in METRICS]
IDS = {"ranking_id", "query", "unit", "item", "event_id", "pid", "digest", "rollout", "revision", "user", "session"}
SCALED = re.compile(r"_(ms|us|millis|minutes|hours|days|kb|mb|gb|percent|pct|share|milliseconds)(_|$)")


def test_the_catalogue_has_every_room() -> None:
    assert {metric.room for metric in METRICS} == {"serving", "drift", "pipelines", "deploy"}
    assert len(NAMES) == len(set(NAMES)) > 80


@pytest.mark.parametrize("metric", METRICS, ids=NAMES)
def test_a_name_begins_with_its_room_and_ends_in_no_scaled_unit(metric: Declared) -> None:
    assert re.fullmatch(rf"{metric.room}(_[a-z0-9]+)+", metric.name)
    assert not SCALED.search(metric.name)
    assert metric.name.endswith("_total") == (metric.kind == "counter")
    assert not metric.name.endswith(("_count", "_sum", "_bucket", "_info"))


@pytest.mark.parametrize("metric", METRICS, ids=NAMES)
def test_labels_are_few_and_none_is_an_id(metric: Declared) -> None:
    assert len(metric.labels) <= 4
    assert not metric.labels & IDS
    assert metric.words.endswith(".") or ":" in metric.words


@pytest.mark.parametrize("metric", METRICS, ids=NAMES)
def test_the_gauges_of_processes_come_together_to_one_value(metric: Declared) -> None:
    """No series by pid; and no smallest value of a gauge without labels: each process that only imports it has a 0."""
    assert metric.mode not in ("all", "liveall")
    if metric.mode in ("min", "livemin"):
        assert metric.labels
