"""One trace from a caller through gateway, worker and controller, at a collector, from the real platform."""

from collections.abc import Iterator

import httpx
import numpy as np
import pytest
from tritonclient.http import InferenceServerClient, InferInput

from tests.e2e.platforms_under_fire import ITEMS, MODEL, Platform, until
from tests.otlp_collector import Collector, a_collector

CALLER_SPAN = "00f067aa0ba902b7"


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with a_collector() as server:
        yield server


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory, collector: Collector) -> Iterator[Platform]:
    """It draws no trace by itself: what arrives was asked for."""
    home = tmp_path_factory.mktemp("traces") / "home"
    started = Platform.start(home, traces=f"endpoint={collector.endpoint},ratio=0,slow_ms=0")
    try:
        started.serve()
        yield started
    finally:
        started.stop()


def header(trace_id: str, sampled: bool = True) -> dict[str, str]:
    return {"traceparent": f"00-{trace_id}-{CALLER_SPAN}-{int(sampled):02x}"}


def rank(platform: Platform, headers: dict[str, str]) -> str:
    url = f"{platform.settings.gateway_url}/v1/models/{MODEL}/rank"
    answer = httpx.post(url, json={"candidates": ITEMS[:20], "unit": "ann"}, headers=headers, timeout=60.0)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["ranking_id"])


def test_a_ranking_is_one_tree_of_gateway_and_worker_below_the_caller_s_span(
    platform: Platform, collector: Collector
) -> None:
    trace = "a1" * 16
    ranking_id = rank(platform, header(trace))

    until(lambda: "sluice-worker" in collector.of_trace(trace), "the trace to arrive")

    spans = collector.of_trace(trace)
    root, call = spans["sluice-gateway"]
    assert (root.name, root.parent_span_id.hex()) == ("POST /v1/models/{model}/rank", CALLER_SPAN)
    told = {one.key: one.value for one in root.attributes}
    assert told["sluice.ranking_id"].string_value == ranking_id
    assert told["sluice.version"].int_value == 1
    work, *stages = spans["sluice-worker"]
    assert (work.parent_span_id, call.parent_span_id) == (call.span_id, root.span_id)
    assert [stage.name for stage in stages] == [
        "queue",
        "features",
        "fetch",
        "device",
    ]  # no row is held yet
    features, fetch = stages[1:3]
    assert fetch.parent_span_id == features.span_id
    assert {one.key: one.value for one in fetch.attributes}["sluice.rows.fetched"].int_value == 20
    assert not any("ann" in str(span) or ITEMS[0] in str(span) for group in spans.values() for span in group)


def test_what_the_caller_does_not_follow_is_not_told(platform: Platform, collector: Collector) -> None:
    left, followed = "b2" * 16, "b3" * 16
    rank(platform, header(left, sampled=False))
    rank(platform, {})
    rank(platform, header(followed))

    until(lambda: collector.of_trace(followed), "the trace after it to arrive")

    assert collector.of_trace(left) == {}


def test_an_unmodified_tritonclient_s_request_is_traced(platform: Platform, collector: Collector) -> None:
    trace = "c4" * 16
    with InferenceServerClient(platform.settings.gateway_url.removeprefix("http://")) as client:
        columns = client.get_model_metadata(MODEL)["inputs"][0]["shape"][1]
        rows = InferInput("features", [3, columns], "FP32")
        rows.set_data_from_numpy(np.ones((3, columns), np.float32))
        client.infer(MODEL, [rows], headers=header(trace))

    until(lambda: collector.of_trace(trace), "the trace to arrive")

    assert collector.of_trace(trace)["sluice-gateway"][0].name == "POST /v2/models/{model}/infer"


def test_a_control_request_is_the_controller_s_in_the_same_trace(platform: Platform, collector: Collector) -> None:
    trace = "d5" * 16
    key = platform.settings.admin_key_file.read_text().strip()
    url = f"{platform.settings.gateway_url}/v1/models/{MODEL}/rollouts"
    answer = httpx.get(url, headers=header(trace) | {"authorization": f"Bearer {key}"}, timeout=60.0)
    assert answer.status_code == 200, answer.text

    until(lambda: collector.of_trace(trace), "the trace to arrive")

    [span] = collector.of_trace(trace)["sluice-controller"]
    assert (span.name, span.parent_span_id.hex()) == ("GET /v1/models/{model}/rollouts", CALLER_SPAN)
    assert key not in str(span)
