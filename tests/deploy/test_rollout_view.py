"""What a rollout looks like, from what the API really says of one."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from deploy.commands.rollout_view import live_rollout, rollout_table
from tests.builders import NOW_MS
from tests.deploy.control_desk import ControlBench, a_control_bench

STEPS = [
    {"name": "judged", "kind": "gate", "needs": [{"kind": "offline_gate"}]},
    {"name": "ab-10", "kind": "ab", "weight": 100, "min_s": 7200.0},
]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[ControlBench]:
    with a_control_bench(tmp_path) as bench:
        bench.promote(1)
        yield bench


def started(bench: ControlBench, steps: list[dict[str, Any]]) -> str:
    made = bench.post("/rollouts", {"version": 2, "why": "try", "steps": steps})
    return str(made.json()["rollout"]["id"])


def shown(report: Any, now_ms: int = NOW_MS) -> str:
    console = Console(file=io.StringIO(), width=160)
    console.print(rollout_table(report, now_ms))
    return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]


def line_with(text: str, word: str) -> str:
    return next(line for line in text.splitlines() if word in line)


def test_a_step_that_waits_says_for_what(bench: ControlBench) -> None:
    report = bench.get(f"/rollouts/{started(bench, STEPS)}").json()

    text = shown(report, report["rollout"]["entered_ms"] + 3000)

    assert "codesearch@2 against @1  running" in text
    assert "▶" in line_with(text, "judged") and "offline_gate" in line_with(text, "judged")
    assert "3 s" in line_with(text, "judged")
    assert line_with(text, "next").startswith("next  hold: no evidence of offline_gate")


def test_a_step_with_traffic_shows_weight_time_sample_and_guardrails(bench: ControlBench) -> None:
    report = bench.get(f"/rollouts/{started(bench, STEPS[1:])}").json()

    text = shown(report, report["rollout"]["entered_ms"] + 600_000)

    assert "10 %" in line_with(text, "ab-10") and "10 min of 2 h" in line_with(text, "ab-10")
    assert "0 queries, champion 0" in text
    assert [line_with(text, name).split()[-1] for name in ("failed", "degraded", "p99")] == ["inconclusive"] * 3


def test_an_ended_rollout_says_who_ended_it_and_why(bench: ControlBench) -> None:
    rollout_id = started(bench, STEPS)
    bench.post(f"/rollouts/{rollout_id}/abort", {"why": "no time"}, x_on_behalf_of="ann")

    text = shown(bench.get(f"/rollouts/{rollout_id}").json())

    assert "aborted" in text
    assert line_with(text, "ended").startswith("ended  aborted by ann (key local): no time")


def test_without_a_terminal_there_is_a_line_for_each_change(bench: ControlBench) -> None:
    rollout_id = started(bench, STEPS)
    out = io.StringIO()
    with live_rollout(Console(file=out, width=160)) as view:
        for _ in range(2):
            view.show(bench.get(f"/rollouts/{rollout_id}").json(), NOW_MS)
        bench.post(f"/rollouts/{rollout_id}/pause", {"why": "lunch"})
        view.show(bench.get(f"/rollouts/{rollout_id}").json(), NOW_MS)

    assert out.getvalue().splitlines() == [
        f"{rollout_id} running step judged at 0 %",
        f"{rollout_id} paused step judged at 0 %",
    ]


def test_on_a_terminal_it_is_drawn_in_place(bench: ControlBench) -> None:
    rollout_id = started(bench, STEPS)
    out = io.StringIO()
    with live_rollout(Console(file=out, width=160, force_terminal=True)) as view:
        view.show(bench.get(f"/rollouts/{rollout_id}").json(), NOW_MS)

    assert "judged" in out.getvalue()
