"""What runs are given of the platform: its schedule, its models that learn, its limits."""

from contextlib import closing
from pathlib import Path

import pytest
from msgspec.structs import replace

from deploy import wiring
from deploy.errors import SettingsError
from deploy.settings import PlatformSettings
from deploy.training.retraining import Served, of_simulated_clicks, run_settings, run_wiring, schedule
from pipelines.runs.schedule import STEPS, RunWindow, due_windows
from pipelines.settings import parse_retraining, parse_train
from registry.artefacts import write
from registry.contracts.manifest import ModelPackage
from registry.contracts.profile import no_profile
from registry.contracts.rollouts import default_spec
from tests.builders import NOW_MS, a_manifest, a_package, a_plan, a_program

DAY_MS = 86_400_000
ANCHOR_MS = NOW_MS + 4 * DAY_MS  # 2026-01-05, a Monday


def test_by_itself_each_week_is_collected_and_each_fortnight_trained_on_an_hour_after_its_end() -> None:
    found = schedule(parse_retraining(""))

    assert set(found.periods) == {"collect", "retrain"} == set(STEPS)
    weekly, fortnightly = found.periods["collect"], found.periods["retrain"]
    assert weekly.window(0) == RunWindow(ANCHOR_MS, ANCHOR_MS + 7 * DAY_MS)
    closed_ms = ANCHOR_MS + 14 * DAY_MS + 3_660_000
    assert due_windows(fortnightly, closed_ms - 1, [], 0) == []
    assert due_windows(fortnightly, closed_ms, [], 0) == [RunWindow(ANCHOR_MS, ANCHOR_MS + 14 * DAY_MS)]
    assert found.drift is not None
    assert found.drift.cool_down_ms == 3 * DAY_MS


def test_nothing_comes_by_itself_where_it_is_told_so() -> None:
    found = schedule(parse_retraining("days=0, collect_days=0, cool_down_days=0"))

    assert (dict(found.periods), found.drift) == ({}, None)


def test_the_anchor_is_a_day_of_its_own_setting() -> None:
    moved = schedule(parse_retraining("days=7", "2026-01-07"))

    assert moved.periods["retrain"].window(0) == RunWindow(ANCHOR_MS + 2 * DAY_MS, ANCHOR_MS + 9 * DAY_MS)


@pytest.mark.parametrize(
    ("key", "text", "words"),
    [
        ("retrain_anchor", "monday", "a day, YYYY-MM-DD"),
        ("retrain_anchor", "2026-1-5", "a day, YYYY-MM-DD"),
        ("retraining", "days=-1", "0 to 366"),
        ("retraining", "weeks=2", "name=value, each name once"),
        ("retraining", "days=two", "a number"),
        ("retraining", "source=robots", "people or simulated"),
        ("train", "loss=none", "listnet or lambdaloss"),
        ("train", "hidden=wide", "a number"),
        ("run_limits", "train", "step=seconds"),
    ],
)
def test_a_setting_of_retraining_that_breaks_its_rule_is_named(key: str, text: str, words: str) -> None:
    with pytest.raises(SettingsError, match=words) as refused:
        PlatformSettings(Path("/data"), **{key: text})
    assert f"SLUICE_{key.upper()}={text}" in str(refused.value)


def test_how_a_ranker_is_trained_is_told_by_name() -> None:
    assert parse_train("hidden=8:4,max_epochs=3,loss=lambdaloss").hidden == (8, 4)
    assert parse_train("") == parse_train("hidden=64:32")
    settings = PlatformSettings(Path("/data"), run_limits="train=10", train="max_epochs=3")
    assert (run_settings(settings).limit_s("train"), run_settings(settings).limit_s("gate")) == (10.0, 7200.0)


def test_models_learn_whose_champion_ranks_by_features_and_is_here(tmp_path: Path) -> None:
    settings = PlatformSettings(tmp_path)
    tensors = replace(a_manifest(model="tensors"), view={}, fingerprint="")
    packages = {
        "ranker": a_package(model="ranker"),
        "tensors": ModelPackage.of(a_program(), tensors, no_profile()),
        "elsewhere": a_package(model="elsewhere"),
    }
    with closing(wiring.traffic_control(settings)) as control:
        for model, package in packages.items():
            plan = a_plan(model, champion_digest=package.digest)
            control.change(plan, expected_revision=0, who="t", why="t", evidence={}, now_ms=NOW_MS)
            if model != "elsewhere":
                write(package, settings.versions_folder / model / "1")
        served = Served(settings)

        assert served() == {"ranker": NOW_MS}
        write(packages["elsewhere"], settings.versions_folder / "elsewhere" / "1")
        assert served() == {"ranker": NOW_MS, "elsewhere": NOW_MS}


def test_the_wiring_opens_nothing_until_it_is_asked(tmp_path: Path) -> None:
    made = run_wiring(PlatformSettings(tmp_path / "nowhere"))

    assert not (tmp_path / "nowhere").exists()
    assert made.folder == tmp_path / "nowhere" / "runs"


def test_gates_of_simulated_clicks_say_so() -> None:
    gates = [step.gate for step in of_simulated_clicks(default_spec(interleaving=True)).steps if step.gate]

    assert len(gates) == 2
    assert all(gate.simulated for gate in gates)
