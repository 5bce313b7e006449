"""Collected windows as lists to train on, to choose by and to be held against: `DatasetSplits`, as from judged data.

Test is the newest window, by time: that is how a version will be used. Train and validation are cut from the windows
before, by query, so that no list of a query that epochs are chosen by has been learnt from. A query of the newest
window may be one that was trained on, as it may tomorrow; the report says how many are.

What a label is. A debiased click is no grade: it is an estimate of attraction, the chance that the item is clicked
when it is looked at, between 0 and 1 on average but of single clicks up to the largest weight. Such estimates are
unbiased, and stay so only in what is linear in them: 2**label - 1 of an unbiased estimate is not an unbiased gain (a
click at position 8 would be worth 255 at the first). So the gain is linear, the definition is one of its own,
`ATTRACTION_NDCG`, and a version trained so says so in its manifest: figures of it and of judged NDCG are refused where
they meet. Cutting attraction into grades would need thresholds that nobody measured.

Where a query was asked again, an item's label is its clicks over the examination that it got, both summed over all its
impressions (the position-based model's estimate, of less variance than the mean of weighted clicks, and equal to it
for one impression); the examination of an impression is 1 over its clipped weight. Lists of one query whose `query`
features differ (another user, say) are different queries. Features are those logged last.

Sources: Joachims, Swaminathan & Schnabel, WSDM 2017 (unbiased from weighted clicks); Chuklin, Markov & de Rijke, "Click
models for web search", 2015, chapter 3 (attraction as clicks over examinations).
"""

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import ClassVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from pipelines.dataset import DatasetSplits, RankingDataset
from pipelines.errors import DataRefused
from pipelines.feedback.collection import Collected
from pipelines.feedback.logged_lists import VARIANT, chance_of, queries_of, read_lists
from registry.contracts.features import FeatureView
from registry.contracts.manifest import ATTRACTION_NDCG, MetricDefinition

logger = logging.getLogger(__name__)

Flags = NDArray[np.bool_]


class TrainingRules(msgspec.Struct, frozen=True):
    """validation_share: of the queries before the newest window. most_rows: shown items kept of a part, in memory with
    their features; beyond, as many queries as fit, chosen by hash. seed: of both choices. test_share: of the time of
    a window that stands alone. allow_biased: take a window's clicks as they came where bias could not be told."""

    validation_share: float = 0.15
    most_rows: int = 2_000_000
    seed: int = 0
    test_share: float = 0.3
    allow_biased: bool = False

    def __post_init__(self) -> None:
        for name in ("validation_share", "test_share"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"training_set.{name}={getattr(self, name):g}: expected 0 < share < 1")
        if self.most_rows < 1:
            raise ValueError(f"training_set.most_rows={self.most_rows}: expected >= 1")


class PartReport(msgspec.Struct, frozen=True):
    """One part. lists: logged ones in it, that have become `queries`. other_view: lists left out, logged under another
    feature view; unusable: without whole rows of finite features; not_sampled: of queries that there was no room
    for. clicked: queries with a click."""

    lists: int
    other_view: int
    unusable: int
    not_sampled: int
    queries: int
    clicked: int


class TrainingReport(msgspec.Struct, frozen=True):
    """What the splits were made of; kept with the run. Equal windows give equal bytes.

    before: of train and validation together. held_out_since_ms, held_out_until_ms: the time of test. known_queries:
    test queries that are in train or validation too. windows: digests of the collections. biases: how each one's
    position bias was estimated. simulated: whose clicks. faults: what is wrong with the data of the windows before,
    held_out_faults: of the newest; see `QualityReport`. Training goes on, the offline gate does not.
    """

    before: PartReport
    test: PartReport
    train_queries: int
    validation_queries: int
    known_queries: int
    held_out_since_ms: int
    held_out_until_ms: int
    windows: tuple[str, ...]
    biases: tuple[str, ...]
    simulated: bool
    metric: str
    faults: tuple[str, ...] = ()
    held_out_faults: tuple[str, ...] = ()

    def encode(self) -> bytes:
        """Canonical JSON."""
        return msgspec.json.encode(self, order="deterministic")


@dataclass(frozen=True)
class ClickSplits(DatasetSplits):
    """Splits from clicks, and what they were made of."""

    whole: ClassVar[bool] = False
    report: TrainingReport


def training_splits(
    collected: Sequence[Collected],
    view: FeatureView,
    metric: MetricDefinition = ATTRACTION_NDCG,
    rules: TrainingRules | None = None,
) -> ClickSplits:
    """Train and validation from the windows before the newest, test from the newest; of one, its end is test.

    collected: windows of one model, whose times do not overlap. metric: what the version will be declared under.
    Raises DataRefused if the windows do not go together or say nothing under this view, if position bias could not be
    told in one of them, or if the metric is not one of attraction.
    """
    rules = rules or TrainingRules()
    windows = _in_order(collected, rules)
    if metric.name != "attraction_ndcg" or metric.gain != "linear":
        raise DataRefused(
            f"metric {metric.name} with {metric.gain} gain: labels from clicks are attraction, not grades: expected "
            "attraction_ndcg with linear gain"
        )
    newest = windows[-1].record
    cut_ms = newest.since_ms
    if len(windows) == 1:
        cut_ms += round((1 - rules.test_share) * (newest.until_ms - newest.since_ms))
    before, of_before = _part("before", windows, view, rules, windows[0].record.since_ms, cut_ms)
    test, of_test = _part("test", windows[-1:], view, rules, cut_ms, newest.until_ms)
    for part, name in ((before, "before the newest window"), (test, "of the newest window")):
        if part is None:
            raise DataRefused(
                f"no list {name} can be used under feature view {view.name!r} ({of_before}; {of_test}): collect more "
                "windows, or train under the view that was served"
            )
    assert before is not None and test is not None
    chosen = is_validation([_bare(query) for query in before.query_ids], rules)
    if chosen.all() or not chosen.any():
        raise DataRefused(
            f"{len(before)} queries before the newest window: expected some for train and some for validation: collect "
            "more windows"
        )
    train, validation = before.take(np.flatnonzero(~chosen)), before.take(np.flatnonzero(chosen))
    moment = f"{VARIANT}{newest.until_ms}"
    known = {_bare(query) for query in before.query_ids}
    report = TrainingReport(
        before=of_before,
        test=of_test,
        train_queries=len(train),
        validation_queries=len(validation),
        known_queries=sum(_bare(query) in known for query in test.query_ids),
        held_out_since_ms=cut_ms,
        held_out_until_ms=newest.until_ms,
        windows=tuple(window.record.digest for window in windows),
        biases=tuple(window.record.bias.method for window in windows),
        simulated=newest.simulated,
        metric=metric.digest,
        faults=tuple(
            f"{window.folder.name}: {fault}" for window in windows[:-1] for fault in window.record.quality.faults
        ),
        held_out_faults=newest.quality.faults,
    )
    logger.info("training set from clicks", extra={"report": msgspec.to_builtins(report)})
    return ClickSplits(
        train=_named(train, "train"),
        validation=_named(validation, "validation"),
        # the same query at another time is another one to be held against
        test=_named(test, "test", tuple(query + moment for query in test.query_ids)),
        report=report,
    )


def replay_of(
    collected: Sequence[Collected], view: FeatureView, lists: int, rules: TrainingRules | None = None
) -> RankingDataset:
    """At most so many queries of older windows, chosen by hash, to be trained on again so that they are not forgotten.

    Never a query that validation has, by rules of the same seed and share. Raises DataRefused as `training_splits`.
    """
    rules = rules or TrainingRules()
    windows = _in_order(collected, rules)
    names = queries_of(windows, view)
    mine = [name for name, held in zip(names, is_validation(names, rules), strict=True) if not held]
    order = np.argsort(chance_of(mine, rules.seed, salt=3), kind="stable")
    chosen = {mine[i] for i in order[:lists]}
    since_ms, until_ms = windows[0].record.since_ms, windows[-1].record.until_ms
    room = msgspec.structs.replace(rules, most_rows=rules.most_rows * len(names) // max(1, len(chosen)))
    whole, report = _part("replay", windows, view, room, since_ms, until_ms, chosen)
    if whole is None:
        raise DataRefused(f"no list of the older windows can be trained on again under view {view.name!r} ({report})")
    return whole.take(np.arange(min(lists, len(whole))))


def is_validation(queries: Sequence[str], rules: TrainingRules) -> Flags:
    """Which queries, by their ids, are for validation, now and in every other window. Shape (queries,)."""
    return chance_of(queries, rules.seed, salt=1) < rules.validation_share


def _in_order(collected: Sequence[Collected], rules: TrainingRules) -> list[Collected]:
    """Oldest first."""
    windows = sorted(collected, key=lambda window: window.record.since_ms)
    if not windows:
        raise DataRefused("no window was collected: expected one at least")
    for what in ("model", "simulated"):
        if len(found := {getattr(window.record, what) for window in windows}) > 1:
            raise DataRefused(
                f"windows differ in {what} ({sorted(map(str, found))}): expected windows that go together"
            )
    for one, other in pairwise(windows):
        if one.record.until_ms > other.record.since_ms:
            raise DataRefused(f"{one.folder.name} and {other.folder.name} overlap: expected each moment once")
    for window in windows:
        if window.record.bias.method == "none" and window.record.lists and not rules.allow_biased:
            raise DataRefused(
                f"{window.folder.name}: its clicks could not be freed of position bias ({window.record.bias.why}): "
                "leave the window out"
            )
    return windows


def _part(
    name: str,
    windows: Sequence[Collected],
    view: FeatureView,
    rules: TrainingRules,
    since_ms: int,
    until_ms: int,
    only: Collection[str] | None = None,
) -> tuple[RankingDataset | None, PartReport]:
    """The lists of a time; None if there is none that can be used."""
    found, report = read_lists(windows, view, since_ms, until_ms, rules.most_rows, rules.seed, only)
    if found is None:
        return None, PartReport(0, *report, 0, 0)
    dataset = found.dataset(f"{windows[0].record.model}/{name}", view)
    clicked = int((np.add.reduceat(dataset.labels, dataset.offsets[:-1]) > 0).sum())
    return dataset, PartReport(len(found), *report, len(dataset), clicked)


def _bare(query: str) -> str:
    """Without the number of its variant."""
    return query.split(VARIANT, 1)[0]


def _named(dataset: RankingDataset, split: str, query_ids: tuple[str, ...] | None = None) -> RankingDataset:
    name = f"{dataset.name.rsplit('/', 1)[0]}/{split}"
    return replace(dataset, name=name, query_ids=dataset.query_ids if query_ids is None else query_ids)
