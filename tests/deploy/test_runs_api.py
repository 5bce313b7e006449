"""Runs of pipelines over the control API: asked for once, looked at, retried, cancelled."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from rich.console import Console

from deploy.commands.run_view import live_run, run_table
from registry import run_moves
from registry.contracts.runs import Run
from registry.runs import RunStore, SqlRuns, edit
from tests.builders import NOW_MS
from tests.deploy.control_desk import MODEL, ControlBench, a_control_bench

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
WINDOW: dict[str, Any] = {"why": "a new season", "since_ms": NOW_MS - DAY_MS, "until_ms": NOW_MS}


@pytest.fixture(params=["sqlite", "postgres"])
def bench(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[ControlBench]:
    database = request.getfixturevalue("postgres_url") if request.param == "postgres" else ""
    with a_control_bench(tmp_path, database) as bench:
        assert bench.promote(1).status_code == 200
        yield bench


@pytest.fixture
def store(bench: ControlBench) -> RunStore:
    return SqlRuns(bench.control.engine)


def told(response: httpx.Response, status: int) -> str:
    assert response.status_code == status, response.text
    return str(response.json()["error"])


def asked(bench: ControlBench, **changes: Any) -> str:
    """Id of a run."""
    made = bench.post("/retrain", WINDOW | changes)
    assert made.status_code == 202, made.text
    return str(made.json()["run"]["id"])


def dead(store: RunStore, run_id: str) -> Run:
    edit(store, run_id, lambda run: run_moves.claim(run, "w1", now_ms=NOW_MS, lease_ms=1000))
    return edit(
        store, run_id, lambda run: run_moves.step_failed(run, "disk full", now_ms=NOW_MS, retry_in_ms=None, dead=True)
    )


def test_a_window_is_run_once_whoever_asks(bench: ControlBench) -> None:
    run_id = asked(bench)

    refused = told(bench.post("/retrain", WINDOW), 409)

    assert run_id in refused
    assert "runs retry" in refused
    [run] = bench.get("/runs").json()["runs"]
    assert (run["run"]["id"], run["run"]["state"], run["run"]["trigger"], run["progress"]) == (
        run_id,
        "queued",
        "api",
        0,
    )
    assert run["run"]["notes"][0]["why"] == "a new season"
    assert [step["name"] for step in run["run"]["steps"]] == [
        *("collect", "dataset", "train", "export", "gate", "register", "rollout")
    ]


def test_a_request_sent_again_with_its_key_is_the_same_run(bench: ControlBench) -> None:
    first = bench.post("/retrain", WINDOW, idempotency_key="k1")
    second = bench.post("/retrain", WINDOW, idempotency_key="k1")

    assert (first.status_code, second.status_code) == (202, 202)
    assert first.json() == second.json()
    assert second.headers["idempotency-replayed"] == "true"
    assert told(bench.post("/retrain", WINDOW | {"why": "other"}, idempotency_key="k1"), 422)
    assert len(bench.get("/runs").json()["runs"]) == 1


def test_without_a_window_it_is_the_usual_one_up_to_the_last_full_hour(bench: ControlBench) -> None:
    made = bench.post("/retrain", {"why": "now"}).json()["run"]

    assert made["until_ms"] - made["since_ms"] == 14 * DAY_MS
    assert made["until_ms"] % HOUR_MS == 0
    assert 0 <= made["created_ms"] - made["until_ms"] < HOUR_MS


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"since_ms": None}, "both or neither"),
        ({"since_ms": NOW_MS}, "since_ms < until_ms"),
        ({"until_ms": NOW_MS + 10_000 * DAY_MS}, "<= now"),
        ({"why": ""}, "why"),
        ({"other": 1}, "other"),
    ],
)
def test_a_window_that_cannot_be_is_refused(bench: ControlBench, changes: dict[str, Any], words: str) -> None:
    assert words in told(bench.post("/retrain", WINDOW | changes), 400)
    assert bench.get("/runs").json()["runs"] == []


def test_who_may_not_change_traffic_may_look_and_not_retrain(bench: ControlBench) -> None:
    viewer = bench.key("viewer")

    assert "needs operator" in told(bench.post("/retrain", WINDOW, viewer), 403)
    assert bench.get("/runs", viewer).status_code == 200
    assert bench.request("GET", "/v1/runs", viewer).status_code == 200
    narrow = bench.key("operator", (MODEL,))
    assert bench.post("/retrain", WINDOW, narrow).status_code == 202
    assert "for all" in told(bench.request("GET", "/v1/runs", narrow), 403)


def test_a_model_that_is_not_served_is_not_retrained(bench: ControlBench) -> None:
    assert "no traffic plan" in told(bench.request("POST", "/v1/models/other/retrain", json=WINDOW), 404)


def test_a_dead_run_is_listed_retried_and_not_twice(bench: ControlBench, store: RunStore) -> None:
    run_id = asked(bench)
    dead(store, run_id)

    [listed] = bench.request("GET", "/v1/runs?state=dead").json()["runs"]
    assert (listed["run"]["id"], listed["run"]["error"]) == (run_id, "disk full")
    answer = bench.post(f"/runs/{run_id}/retry", {"why": "more disk"}, idempotency_key="r1").json()
    assert answer["run"]["state"] == "queued"
    assert answer["run"]["notes"][-1]["what"] == "retried"
    assert bench.post(f"/runs/{run_id}/retry", {"why": "more disk"}, idempotency_key="r1").json() == answer
    assert "only one that is failed" in told(bench.post(f"/runs/{run_id}/retry", {"why": "again"}), 409)
    assert "expected one of" in told(bench.request("GET", "/v1/runs?state=sad"), 400)


def test_a_run_is_done_again_from_a_step_that_is_named(bench: ControlBench, store: RunStore) -> None:
    run_id = asked(bench)
    edit(store, run_id, lambda run: run_moves.claim(run, "w1", now_ms=NOW_MS, lease_ms=1000))
    edit(store, run_id, lambda run: run_moves.step_done(run, {}, "", now_ms=NOW_MS, outcome="no clicks"))

    again = bench.post(f"/runs/{run_id}/retry", {"why": "they came late", "from_step": "collect"})

    assert again.json()["run"]["steps"][0]["redone"] == 1
    assert "no step 'tea'" in told(
        bench.post(f"/runs/{dead(store, run_id).id}/retry", {"why": "x", "from_step": "tea"}), 409
    )


def test_a_queued_run_is_cancelled_at_once_and_one_that_is_over_not(bench: ControlBench) -> None:
    run_id = asked(bench)

    cancelled = bench.post(f"/runs/{run_id}/cancel", {"why": "wrong window"})

    assert cancelled.json()["run"]["state"] == "cancelled"
    assert "is cancelled" in told(bench.post(f"/runs/{run_id}/cancel", {"why": "again"}), 409)


def test_a_run_is_found_under_its_own_model_only(bench: ControlBench) -> None:
    run_id = asked(bench)

    assert bench.get(f"/runs/{run_id}").json()["run"]["id"] == run_id
    assert "no run" in told(bench.get("/runs/codesearch.retrain-x"), 404)
    assert MODEL in told(bench.request("GET", f"/v1/models/other/runs/{run_id}"), 404)
    assert MODEL in told(bench.request("POST", f"/v1/models/other/runs/{run_id}/cancel", json={"why": "x"}), 404)


def test_a_run_is_shown_with_its_steps_its_progress_and_its_history(bench: ControlBench, store: RunStore) -> None:
    run_id = asked(bench)
    edit(store, run_id, lambda run: run_moves.claim(run, "w1", now_ms=NOW_MS, lease_ms=1000))
    edit(store, run_id, lambda run: run_moves.step_done(run, {"lists": 120}, "", now_ms=NOW_MS + 65_000))
    edit(store, run_id, lambda run: run_moves.claim(run, "w1", now_ms=NOW_MS, lease_ms=1000))
    edit(
        store,
        run_id,
        lambda run: run_moves.beat(run, 0.5, "3 of 6 parts", now_ms=NOW_MS, lease_ms=1000),
    )
    found = bench.get(f"/runs/{run_id}").json()
    console = Console(width=140, record=True, file=open("/dev/null", "w"))  # noqa: SIM115

    with console:
        console.print(run_table(found, NOW_MS + 120_000))

    shown = console.export_text()
    console.file.close()
    assert run_id in shown
    assert "✓ collect" in " ".join(shown.split())
    assert "lists 120" in shown
    assert "3 of 6 parts" in shown
    assert " 50%" in shown
    assert "a new season" in shown


def test_off_a_terminal_a_run_is_a_line_for_each_change(
    bench: ControlBench, capsys: pytest.CaptureFixture[str]
) -> None:
    run_id = asked(bench)
    found = bench.get(f"/runs/{run_id}").json()

    with live_run(Console()) as view:
        view.show(found, NOW_MS)
        view.show(found, NOW_MS + 1000)

    assert capsys.readouterr().out == f"{run_id} queued collect 0%\n"
