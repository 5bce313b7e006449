"""Click-NDCG: how good the answered rankings were by what was clicked, with its uncertainty.

Defined by `contracts.manifest.CLICK_NDCG`: gain 1 for a click, and a ranking without a click
scores 0 and is never dropped. The unit of randomisation is the user, so variance is clustered by
unit. Figures of simulated clicks stand apart from those of people.

Source of the variance: Cameron & Miller, J. Human Resources 50(2), 2015; a mean of lists whose
number differs by unit is the ratio of Deng, Knoblich & Lu, KDD 2018.
"""

from dataclasses import dataclass

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipelines.archive.files import Archive
from pipelines.feedback.cleaning import RANKING_COLUMNS, CleaningRules, Impressions, clean
from pipelines.ndcg import mean_ndcg
from registry.contracts.manifest import CLICK_NDCG, MetricDefinition
from registry.contracts.traffic import Arm

Floats = NDArray[np.float64]
WINDOW_MS = 300_000
COMPARED: tuple[Arm, ...] = ("champion", "challenger")
EVERY_ARM: tuple[Arm, ...] = (*COMPARED, "interleaved", "outside")
_MANY = 1 << 40
_AT_ONCE = 20_000  # lists whose expected click-NDCG is worked out together
CLICKS_WITHIN_MS = 300_000  # a click counts that comes so long after the window at the latest


class ArmEvidence(msgspec.Struct, frozen=True):
    """Click-NDCG of one version in one arm, from people's clicks or from simulated ones.

    standard_error: clustered by unit, None with fewer than two units. clicked_lists: those with
    a click; the others are in the mean as 0.
    """

    version: int
    arm: str
    simulated: bool
    mean: float
    standard_error: float | None
    lists: int
    clicked_lists: int
    units: int
    clicks: int


class EvidenceReport(msgspec.Struct, frozen=True):
    """What the rankings of one window were worth. JSON-able; equal archives give equal bytes.

    rankings: all of them. interleaved, outside: of those, how many are in no arm: a list of two
    versions is neither's (its evidence is the credit of its teams), and who is outside of every
    experiment counts in no comparison.
    The window is since_ms <= answered < until_ms, clicks until clicks_until_ms. metric: digest
    of the definition. simulated_share: of the counted clicks. left_out: feedback, by reason.
    """

    model: str
    since_ms: int
    until_ms: int
    clicks_until_ms: int
    metric: str
    arms: tuple[ArmEvidence, ...]
    rankings: int
    simulated_share: float
    left_out: dict[str, int]
    interleaved: int = 0
    outside: int = 0

    def encode(self) -> bytes:
        """Canonical JSON."""
        return msgspec.json.encode(self, order="deterministic")


@dataclass(frozen=True, slots=True)
class Window:
    """WINDOW_MS of rankings, from since_ms on. Raises ValueError if no window begins there."""

    since_ms: int

    def __post_init__(self) -> None:
        if self.since_ms % WINDOW_MS:
            raise ValueError(f"since_ms={self.since_ms}: expected a multiple of {WINDOW_MS}")

    @property
    def until_ms(self) -> int:
        """The first moment after the window."""
        return self.since_ms + WINDOW_MS

    @staticmethod
    def closed(now_ms: int, count: int) -> "list[Window]":
        """The last windows whose clicks have all come, oldest first.

        >>> Window.closed(now_ms=1_200_000, count=2)
        [Window(since_ms=300000), Window(since_ms=600000)]
        """
        end_ms = (now_ms - CLICKS_WITHIN_MS) // WINDOW_MS * WINDOW_MS
        return [Window(end_ms - back * WINDOW_MS) for back in range(count, 0, -1)]


def evidence(archive: Archive, model: str, since_ms: int, until_ms: int) -> EvidenceReport:
    """Click-NDCG of every version and arm that answered in the window."""
    clicks_until_ms = until_ms + CLICKS_WITHIN_MS
    rankings = archive.rankings(model, since_ms, until_ms, RANKING_COLUMNS)
    earlier = archive.rankings(model, since_ms - CLICKS_WITHIN_MS, since_ms, ["ranking_id"])
    received = archive.feedback(model, since_ms, clicks_until_ms)
    lists = clicked_lists(rankings, feedback_of_window(received, rankings, earlier, until_ms), since_ms, until_ms)
    arms = _arms(rankings, lists)
    simulated = whose(lists)[lists.list_of]
    return EvidenceReport(
        model=model,
        since_ms=since_ms,
        until_ms=until_ms,
        clicks_until_ms=clicks_until_ms,
        metric=CLICK_NDCG.digest,
        arms=per_arm(rankings, lists),
        rankings=lists.report.rankings,
        simulated_share=float(lists.clicks[simulated].sum() / max(1, lists.clicks.sum())),
        left_out=lists.report.dropped_feedback,
        interleaved=int((arms == "interleaved").sum()),
        outside=int((arms == "outside").sum()),
    )


def clicked_lists(rankings: pa.Table, feedback: pa.Table, since_ms: int, until_ms: int) -> Impressions:
    """The window's lists of all arms, by the rules of `cleaning`, but all units: bots are found over longer times.

    rankings, feedback: as `clean` takes them, feedback received until `CLICKS_WITHIN_MS` after the window.
    """
    within_ms = until_ms - since_ms + CLICKS_WITHIN_MS
    rules = CleaningRules(within_ms, rankings_per_minute=_MANY, clicks_per_minute=_MANY, arms=EVERY_ARM)
    return clean(rankings, feedback, rules, until_ms + within_ms)


def whose(lists: Impressions) -> NDArray[np.bool_]:
    """Which lists are a click model's: with feedback of it, and where all feedback is, also those without. (lists,)"""
    only_simulated = lists.simulated.any() and not (lists.heard & ~lists.simulated).any()
    return np.asarray(lists.simulated | (~lists.heard & only_simulated), dtype=bool)


def per_arm(rankings: pa.Table, lists: Impressions) -> tuple[ArmEvidence, ...]:
    """One entry for every version, arm and kind of clicks, in that order, of the arms that one version served.

    rankings: what the lists were cleaned from.
    """
    served = -np.arange(len(lists.clicks), dtype=np.float64)
    quality = mean_ndcg(lists.clicks, served, lists.offsets, CLICK_NDCG).per_list
    clicks = np.bincount(lists.list_of, weights=lists.clicks, minlength=len(lists))
    arms, simulated_lists = _arms(rankings, lists), whose(lists)
    keys = set(zip(lists.versions.tolist(), arms.tolist(), simulated_lists.tolist(), strict=True))
    groups = sorted(key for key in keys if key[1] in COMPARED)
    found = []
    for version, arm, simulated in groups:
        inside = (lists.versions == version) & (arms == arm) & (simulated_lists == simulated)
        units, unit_of = np.unique(lists.units[inside], return_inverse=True)
        found.append(
            ArmEvidence(
                version=version,
                arm=arm,
                simulated=simulated,
                mean=float(quality[inside].mean()),
                standard_error=clustered_error(quality[inside], unit_of),
                lists=int(inside.sum()),
                clicked_lists=int((clicks[inside] > 0).sum()),
                units=len(units),
                clicks=int(clicks[inside].sum()),
            )
        )
    return tuple(found)


def clustered_error(values: NDArray[np.float64], cluster_of: NDArray[np.intp]) -> float | None:
    """Standard error of the mean of values that hang together inside clusters.

    values: shape (lists,); cluster_of: (lists,), numbers from 0 on. None with fewer than two
    clusters: nothing can be said then. One value a cluster gives the usual standard error.

    >>> clustered_error(np.array([0.0, 1.0]), np.array([0, 1]))
    0.5
    """
    residuals = np.bincount(cluster_of, weights=values - values.mean())
    clusters = len(residuals)
    if clusters < 2:
        return None
    return float(np.sqrt(clusters / (clusters - 1) * (residuals**2).sum()) / len(values))


def feedback_of_window(received: pa.Table, rankings: pa.Table, earlier: pa.Table, until_ms: int) -> pa.Table:
    """The feedback that a window answers for. earlier: rankings before it whose clicks may come in it.

    That is all for its rankings and, of what came while it lasted, all that belongs to no ranking
    just before it either: each orphan is left out, and counted, in one window.
    """
    ours = pc.is_in(received["ranking_id"], rankings["ranking_id"].combine_chunks())
    theirs = pc.is_in(received["ranking_id"], earlier["ranking_id"].combine_chunks())
    orphan = pc.and_(pc.less(received["received_ms"], until_ms), pc.invert(theirs))
    return received.filter(pc.or_(ours, orphan))


def expected_ndcg(chances: Floats, metric: MetricDefinition) -> Floats:
    """Click-NDCG of lists whose items are clicked independently with these chances. Shape (lists,).

    chances: shape (lists, width), best position first. An estimate of a chance may lie outside of [0, 1]: the
    result is affine in each.

    >>> expected_ndcg(np.array([[1.0, 0.0], [0.0, 1.0], [0.5, 0.0]]), CLICK_NDCG).round(4).tolist()
    [1.0, 0.6309, 0.5]
    """
    parts = [_expected(chances[start : start + _AT_ONCE], metric) for start in range(0, len(chances), _AT_ONCE)]
    return np.concatenate([np.zeros(0), *parts])


def ideal_dcg(clicks: int, k: int) -> Floats:
    """DCG of so many clicks at the top. Shape (clicks + 1,)."""
    ranks = np.arange(clicks)
    return np.concatenate([[0.0], np.cumsum(np.where(ranks < k, 1 / np.log2(ranks + 2), 0.0))])


def _expected(chances: Floats, metric: MetricDefinition) -> Floats:
    """What is clicked before a position, forwards, meets what a click is worth by that and what follows, backwards."""
    lists, width = chances.shape
    by_position = np.ascontiguousarray(chances.T)
    worth = np.broadcast_to((1.0 / ideal_dcg(width, metric.k)[1:])[:, None], (width, lists))  # by clicks before
    worth_at = [worth]
    for chance in by_position[:0:-1]:
        worth = worth[:-1] + chance * (worth[1:] - worth[:-1])
        worth_at.append(worth)
    found = np.zeros(lists)
    before = np.ones((1, lists))  # how many of those before are clicked
    for position, chance in enumerate(by_position[: metric.k]):
        found += chance * (before * worth_at[width - 1 - position]).sum(axis=0) / np.log2(position + 2)
        moved = before * chance
        before = np.concatenate([before - moved, np.zeros((1, lists))])
        before[1:] += moved
    return found


def _arms(rankings: pa.Table, lists: Impressions) -> NDArray[np.str_]:
    return np.array(rankings["arm"].to_pylist(), dtype=np.str_)[lists.rows]
