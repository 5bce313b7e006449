"""What tells two stretches of traffic apart: features by name, and how well quiet days are told apart."""

from collections.abc import Callable, Sequence

import msgspec
import numpy as np

from drift import statistics
from drift.joint.two_sample import FeatureArray, JointSettings, Lists, ToldApart, tell_apart
from drift.moments import FloatArray

ALPHA = 0.01
MOST_FEATURES = 8
MOST_USUAL_DAYS = 5

Progress = Callable[[int, int], None]


class Named(msgspec.Struct, frozen=True):
    """A feature by which they are told apart.

    auc_lost: of the area under the curve when its values are shuffled among held-out rows. shift: of its mean, in the
    reference's standard deviations; ks, missing: the distance of its values, and the change of its missing share.
    auc_without: what is left of the test without it and those named before, p_without its p-value.
    """

    feature: str
    auc_lost: float
    shift: float
    ks: float
    missing: float
    auc_without: float
    p_without: float


class Explanation(msgspec.Struct, frozen=True):
    """auc, p_value: see `ToldApart`. usual: AUCs of earlier days, each against the others. named: those that explain,
    the weightiest first. explained: without them the rest is told apart no better than `ALPHA` allows by chance, or
    than the usual days.
    """

    lists: int
    auc: float
    p_value: float
    usual: tuple[float, ...]
    named: tuple[Named, ...]
    explained: bool

    @property
    def is_unusual(self) -> bool:
        """Told apart better than chance explains, and than any of the usual days."""
        return self.p_value <= ALPHA and all(self.auc > one for one in self.usual)


def explain(
    days: Sequence[Lists],
    current: Lists,
    names: Sequence[str],
    settings: JointSettings,
    seed: int,
    progress: Progress = lambda done, of: None,
) -> Explanation:
    """What tells `current` from the days before, and those from each other.

    days: at least one. progress: told how many tests are done, and of how many at most. Raises ValueError as
    `tell_apart`.
    """
    reference = Lists.join(days)
    judged = min(len(days), MOST_USUAL_DAYS) if len(days) > 1 else 0
    steps, done = 1 + judged + MOST_FEATURES, 0

    def step(before: Lists, after: Lists) -> ToldApart:
        nonlocal done
        found = tell_apart(before, after, settings, seed)
        done += 1
        progress(done, steps)
        return found

    whole = step(reference, current)
    usual = []
    for place in range(len(days) - judged, len(days)):
        others = Lists.join([day for at, day in enumerate(days) if at != place])
        usual.append(step(others, days[place]).auc)

    def differs(found: ToldApart) -> bool:
        return found.p_value <= ALPHA and all(found.auc > one for one in usual)

    named: list[Named] = []
    left, dropped = whole, list[int]()
    while differs(left) and len(named) < MOST_FEATURES:
        lost = _lost(left, dropped, seed)
        feature = int(np.argmax(lost))
        if lost[feature] <= 0:
            break
        dropped.append(feature)
        left = step(reference.without(dropped), current.without(dropped))
        figures = _figures(reference.rows[:, feature], current.rows[:, feature])
        named.append(Named(names[feature], float(lost[feature]), *figures, left.auc, left.p_value))
    progress(steps, steps)
    return Explanation(whole.lists, whole.auc, whole.p_value, tuple(usual), tuple(named), not differs(left))


def _lost(found: ToldApart, dropped: Sequence[int], seed: int) -> FloatArray:
    """(features,): mean area lost when the feature's values are shuffled among a fold's rows.

    Source: Breiman, Random Forests, 2001 (permutation importance).
    """
    features = found.held_out[0].lists.rows.shape[1]
    lost = np.zeros(features)
    rng = np.random.default_rng(seed)
    for fold in found.held_out:
        rows, base = fold.lists.rows.copy(), fold.auc()
        for feature in set(range(features)) - set(dropped):
            kept = rows[:, feature].copy()
            rows[:, feature] = rng.permutation(kept)
            lost[feature] += base - fold.auc(Lists(rows, fold.lists.sizes))
            rows[:, feature] = kept
    return lost / len(found.held_out)


def _figures(reference: FeatureArray, current: FeatureArray) -> tuple[float, float, float]:
    """Shift of the mean, KS distance, change of the missing share; 0 where a side has no values."""
    before, after = (side[np.isfinite(side)].astype(np.float64) for side in (reference, current))
    missing = (1 - len(after) / len(current)) - (1 - len(before) / len(reference))
    if not len(before) or not len(after):
        return 0.0, 0.0, missing
    sides = [np.array([value]) for value in (before.mean(), before.std(), after.mean(), after.std())]
    ks = statistics.ks_of_samples(before, after, np.ones(len(before)), np.ones(len(after)))
    return float(statistics.mean_shift(*sides)[0]), ks, missing
