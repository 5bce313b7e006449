"""Whether clicks come as often as scores said: found where they do not, and quiet where they do."""

from collections.abc import Callable

import numpy as np
import pytest

from drift.calibration import CalibrationRule, ScoredClicks, calibrate
from drift.moments import FloatArray

POSITIONS = 10
EXAMINED = 1.0 / np.arange(1, POSITIONS + 1)
RULE = CalibrationRule()
NONE = np.zeros((0, POSITIONS))


def attraction(scores: FloatArray) -> FloatArray:
    """A curve that no straight line or sigmoid is."""
    return np.where(scores > 1.0, 0.5, 0.05 + 0.2 / (1.0 + np.exp(-3.0 * scores)))


def shown(
    seed: int,
    lists: int = 8000,
    attracts: Callable[[FloatArray], FloatArray] = attraction,
    examined: FloatArray = EXAMINED,
    told: FloatArray = EXAMINED,
    noise: float = 0.0,
    unit_sd: float = 0.0,
) -> ScoredClicks:
    """Lists in the order of their scores, three of a unit. examined: how users look; told: what is said of it. noise:
    of scores, beside what attracts. unit_sd: how far units differ in how readily they click."""
    rng = np.random.default_rng(seed)
    good = -np.sort(-rng.normal(size=(lists, POSITIONS)), axis=1)
    scores = good + noise * rng.normal(size=good.shape)
    order = np.argsort(-scores, axis=1)
    good, scores = np.take_along_axis(good, order, axis=1), np.take_along_axis(scores, order, axis=1)
    units = rng.integers(1 << 62, size=lists // 3 + 1).astype(np.uint64)[np.arange(lists) // 3]
    ready = np.exp(unit_sd * rng.normal(size=lists // 3 + 1))[np.arange(lists) // 3] / np.exp(unit_sd**2 / 2)
    chance = np.clip(attracts(good) * examined * ready[:, None], 0.0, 1.0)
    return ScoredClicks(
        scores=scores.ravel(),
        clicks=(rng.random(chance.shape) < chance).ravel(),
        positions=np.tile(np.arange(1, POSITIONS + 1), lists),
        units=np.repeat(units, POSITIONS),
        examination=told,
        without_each=NONE,
    )


@pytest.mark.parametrize("unit_sd", [0.0, 0.5])
def test_a_mapping_that_holds_is_not_failed(unit_sd: float) -> None:
    """Of twenty pairs at one chance in a hundred each, two failures come in less than one run in fifty."""
    pairs = [[shown(at + seed, lists=4000, unit_sd=unit_sd) for at in (1000, 5000)] for seed in range(20)]
    found = [calibrate(*pair, RULE) for pair in pairs]

    assert sum(one.verdict == "failed" for one in found) <= 1
    assert np.mean([one.ratio for one in found]) == pytest.approx(1.0, abs=0.02)
    apart = np.std([one.ratio for one in found])
    assert np.mean([one.ratio_error for one in found]) == pytest.approx(apart, rel=0.5)  # which is known to a sixth
    assert np.mean([one.plain for one in found]) == pytest.approx(np.mean([one.by_chance for one in found]), rel=0.4)
    assert np.mean([one.error for one in found]) < 0.6 * np.mean([one.plain for one in found])


def test_with_enough_clicks_a_mapping_that_holds_passes() -> None:
    found = calibrate(shown(1, lists=150_000), shown(2, lists=150_000), CalibrationRule(floor=0.2))

    assert (found.verdict, found.why) == ("passed", "")
    assert [one.predicted for one in found.bins] == sorted(one.predicted for one in found.bins)
    assert sum(one.share for one in found.bins) == pytest.approx(1.0)


def test_clicks_that_come_more_often_are_found_with_how_many_times() -> None:
    found = calibrate(shown(3), shown(4, attracts=lambda scores: 1.3 * attraction(scores)), RULE)

    assert found.verdict == "failed"
    assert found.ratio == pytest.approx(1.3, abs=0.06)
    assert "1.3" in found.why


def test_scores_that_tell_less_than_before_are_found_though_clicks_are_as_many() -> None:
    mean = float(
        (attraction(np.sort(np.random.default_rng(0).normal(size=(4000, POSITIONS)))[:, ::-1]) * EXAMINED).sum()
    )
    flat = mean / 4000 / EXAMINED.sum()

    found = calibrate(shown(5), shown(6, attracts=lambda scores: np.full(scores.shape, flat)), RULE)

    assert found.verdict == "failed"
    assert found.ratio == pytest.approx(1.0, abs=0.06)
    assert found.bins[0].observed > found.bins[0].predicted
    assert found.bins[-1].observed < found.bins[-1].predicted
    assert found.error > 3 * found.by_chance


def test_a_noisy_ranker_is_as_well_calibrated_as_a_good_one() -> None:
    found = calibrate(shown(7, noise=2.0), shown(8, noise=2.0), RULE)

    assert found.verdict != "failed"


def test_another_scale_of_scores_is_learnt_and_examination_is_believed() -> None:
    def rescaled(told: ScoredClicks) -> ScoredClicks:
        return ScoredClicks(
            np.exp(3.0 * told.scores), told.clicks, told.positions, told.units, told.examination, told.without_each
        )

    plain, other = calibrate(shown(9), shown(10), RULE), calibrate(rescaled(shown(9)), rescaled(shown(10)), RULE)
    assert other.ratio == pytest.approx(plain.ratio, abs=0.01)
    assert other.verdict != "failed"

    looked_deeper = np.sqrt(EXAMINED)
    known = calibrate(shown(11), shown(12, examined=looked_deeper, told=looked_deeper), RULE)
    unknown = calibrate(shown(11), shown(12, examined=looked_deeper), RULE)
    assert (known.verdict != "failed", unknown.verdict) == (True, "failed")


def test_what_is_not_known_of_examination_is_in_the_error() -> None:
    sure = shown(13)
    vague = EXAMINED * np.exp(0.15 * np.random.default_rng(1).normal(size=(20, POSITIONS)))
    unsure = ScoredClicks(sure.scores, sure.clicks, sure.positions, sure.units, EXAMINED, vague / vague[:, :1])

    told = [calibrate(shown(14), one, RULE) for one in (sure, unsure)]

    assert told[1].ratio == told[0].ratio
    assert told[1].ratio_error > 1.5 * told[0].ratio_error
    assert all(b.error > a.error for a, b in zip(told[0].bins, told[1].bins, strict=True))


def test_few_clicks_say_nothing() -> None:
    few = shown(15, lists=100)

    assert calibrate(few, shown(16), RULE).why.endswith("earlier clicks: expected at least 500")
    assert calibrate(shown(16), few, RULE).verdict == "inconclusive"


@pytest.mark.parametrize(
    "wrong",
    [
        {"positions": np.array([0])},
        {"positions": np.array([11])},
        {"scores": np.array([np.nan])},
        {"scores": np.zeros(2)},
    ],
)
def test_what_cannot_be_is_refused(wrong: dict[str, FloatArray]) -> None:
    one = {"scores": np.zeros(1), "clicks": np.zeros(1, bool), "positions": np.ones(1, int), "units": np.zeros(1, "u8")}

    with pytest.raises(ValueError, match="expected"):
        ScoredClicks(**(one | wrong), examination=EXAMINED, without_each=NONE)  # type: ignore[arg-type]
