"""`python -m tests.bench.drift_detectors`: what the drift and confidence detectors reach (D6, D7, D11), and cost.

Made-up traffic (`drift.days.simulated`, `drift.days.simulated_lists`), the real watch. Each figure with its standard
error over the runs. Beside the required worlds stand harder ones: days that remember each other, heavy
tails, features that move together, days that lie as far apart as the floor.
"""

import argparse
import time
from pathlib import Path

import numpy as np

from drift.days.characteristics import confidence_alarms, false_alarms, time_to_find, time_to_find_decay
from drift.days.resampled import ResampledWorld
from drift.days.shift_watch import ShiftWatch
from drift.days.simulated import DayWorld
from drift.days.simulated_lists import ListWorld
from drift.settings import ShiftSettings
from pipelines.sources.letor import load
from tests.bench.load import hardware, versions

SETTINGS = ShiftSettings()
WORLDS = {
    "D6: mild seasonality (0.05 sd)": DayWorld(),
    "D7: strong weekly seasonality (0.2 sd)": DayWorld(weekly_sd=0.2),
    "days remember each other (0.5)": DayWorld(day_memory=0.5),
    "heavy tails (t, 3 degrees of freedom)": DayWorld(tails=3.0),
    "70 % of a day in common": DayWorld(common=0.7),
    "a holiday in the anchor (0.6 sd)": DayWorld(odd_day=10),
    "days 0.05 sd apart": DayWorld(day_sd=0.05),
    "days 0.1 sd apart, remembering (0.3)": DayWorld(day_sd=0.1, day_memory=0.3),
    "D6, the whole beside 5 segments": DayWorld(parts=2),
    "D6, one of 5 segments of 2,000 rows": DayWorld(rows_a_day=2000, parts=10, profiled=False),
}
LISTS = {
    "D11: scores times 1.5 half-way": (ListWorld(), True),
    "D11: daily cycle of 40 %": (ListWorld(daily_cycle=0.4), False),
    "weekly cycle of 20 %": (ListWorld(weekly_cycle=0.2), False),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--data", type=Path, help="LETOR data to draw days from")
    asked = parser.parse_args()
    print(hardware())
    print(versions("numpy", "scipy"), f"seed {asked.seed}, {asked.runs} runs of a figure")
    print(f"200 features, 10,000 rows a day; anchor of {SETTINGS.anchor_days} days, then 60; mean 1, sd 1\n")
    print(f"{'world':42} {'false alarms/month':>20} {'found by day 14':>18} {'median':>7} {'false meanwhile':>18}")
    for name, world in WORLDS.items():
        quiet = false_alarms(world, SETTINGS, asked.runs, asked.seed)
        found = time_to_find(world, SETTINGS, asked.runs, asked.seed + 1)
        print(f"{name:42} {quiet!s:>20} {found.by(14)!s:>18} {found.median:7.1f} {found.false!s:>18}")
    print(f"\n{'confidence, 480 lists a day, 30 days':42} {'runs alarmed':>20}")
    for name, (lists, rescaled) in LISTS.items():
        share = confidence_alarms(lists, SETTINGS, asked.runs, asked.seed, rescaled=rescaled)
        print(f"{name:42} {share!s:>20}")
    decay = time_to_find_decay(ListWorld(daily_cycle=0.4), SETTINGS, asked.runs, asked.seed)
    print(f"{'the best feature breaks, daily cycle':42} found by day 7: {decay.by(7)}, median day {decay.median:.1f}")
    if asked.data is not None:
        splits = load(asked.data)
        parts = (splits.train, splits.validation, splits.test)
        judged = [one.features for part in parts for one in part.lists()]
        names = [column.name for column in splits.train.view.columns]
        print(f"\n{splits.train.name}, {len(judged)} real queries, {len(names)} features, 1,000 lists a day")
        for mix in (0.0, 0.3, 0.6):
            real = ResampledWorld.of(names, judged, weekly_mix=mix)
            quiet, found = (figure(real, SETTINGS, asked.runs, asked.seed) for figure in (false_alarms, time_to_find))
            print(
                f"{f'weekdays ask differently (x e^{mix})':42} {quiet!s:>20} {found.by(14)!s:>18} {found.median:7.1f}"
            )
    world = WORLDS["D6: mild seasonality (0.05 sd)"]
    season = list(world.days(SETTINGS.anchor_days + 60, np.random.default_rng(asked.seed)))
    begun_s, watch = time.process_time(), ShiftWatch(world.watched, SETTINGS)
    for day, made_on in season:
        watch.day(day, made_on)
    cost_us = (time.process_time() - begun_s) / len(season) * 1e6
    print(f"\na closed day of 200 features (600 quantities): {cost_us:.0f} us of CPU")


if __name__ == "__main__":
    main()
