"""The offline gate's data: both versions on the newest held-out window, and what its log says of the challenger.

Both are scored by their exported programs on the features as they were logged, so that no feature has moved since. Only
what was shown has logged features: a version can be seen to order anew what was shown for a query, never to bring in
what was not. So the counterfactual estimate speaks of the challenger's order of the items known for the query, and how
much that leaves out is estimated, not passed over: an explored list brings in one item from beyond what is shown, each
of them alike. Where the challenger places those tells how many of its first k the candidates of a list that were
never shown would be, and support is lowered by as much; under `least_support` no figure is given. Where candidates
were not shown and too few explored, nothing tells, and none is given either. (Candidates below the explored depth are
taken not to enter: nothing was ever seen of them. Explore as deep as a challenger may reach.)

Evidence is a function of versions, window, plan and time: made again, it is equal to the byte.
"""

from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom

from pipelines.dataset import DatasetSplits, RankingDataset
from pipelines.errors import ExportRefused
from pipelines.feedback.collection import Collected
from pipelines.feedback.counterfactual import CounterfactualReport, CounterfactualRules, counterfactual
from pipelines.feedback.explored_lists import NONE, ClickLists, explored_depth, shown_chance
from pipelines.feedback.logged_lists import LoggedLists, read_lists
from pipelines.gates.offline import JudgedSet, OfflinePlan, offline_gate
from pipelines.training.export import offline_scores
from pipelines.training.splits import ClickSplits
from registry.contracts.features import FeatureView
from registry.contracts.manifest import ATTRACTION_NDCG, JUDGED_NDCG, ModelPackage
from registry.contracts.rollouts import Evidence
from registry.contracts.traffic import EXPLORE_DEPTH
from registry.store import StoredVersion

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

LEAST_EXPLORED = 30  # items from beyond what is shown; fewer tell no share
MOST_ROWS = 2_000_000
_NUMBERS = 1 << 40  # of units, times the groups


@dataclass(frozen=True, slots=True)
class ScoredVersion:
    """A version that can be scored."""

    stored: StoredVersion
    package: ModelPackage

    @staticmethod
    def unregistered(package: ModelPackage, made_ms: int) -> "ScoredVersion":
        """One that has no number yet: 0. Evidence is of digests; give it the number when the registry did."""
        manifest = package.manifest
        return ScoredVersion(StoredVersion(manifest.model, 0, package.digest, manifest, made_ms), package)


def offline_evidence(
    splits: DatasetSplits,
    champion: ScoredVersion,
    challenger: ScoredVersion,
    made_ms: int,
    plan: OfflinePlan | None = None,
    held_out: Collected | None = None,
    rules: CounterfactualRules | None = None,
) -> Evidence:
    """Evidence `offline_gate` of the two on the test lists, with one of four verdicts, to be kept by `add_evidence`.

    splits: from clicks or judged. plan: by default under the splits' metric. held_out: the window that the test
    lists are of, for what its log says of the challenger; without it clicks have no say.
    Never raises for what versions or data are like: what cannot be measured is `errored`, with the reason; so is what
    was measured on a window whose data are bad.
    """
    from_clicks = splits.report if isinstance(splits, ClickSplits) else None
    plan = plan or OfflinePlan(metric=ATTRACTION_NDCG if from_clicks else JUDGED_NDCG)
    since_ms, until_ms = (from_clicks.held_out_since_ms, from_clicks.held_out_until_ms) if from_clicks else (0, 0)
    broken, clicks = "; ".join(from_clicks.held_out_faults) if from_clicks else "", None
    try:
        judged = held_out_set(splits.test, champion.package, challenger.package, since_ms, until_ms)
        if held_out is not None:
            clicks = counterfactual_report(
                held_out, splits.view, champion.package, challenger.package, rules, since_ms, until_ms
            )
    except ExportRefused as error:
        broken, none = str(error), np.full(len(splits.test.labels), np.nan)
        test = splits.test
        judged = JudgedSet(test.name, test.digest, test.labels, test.offsets, none, none, since_ms, until_ms)
    notes: dict[str, object] = {
        "simulated": bool(from_clicks and from_clicks.simulated),
        "from": None if from_clicks is None else msgspec.json.decode(from_clicks.encode()),
        "scope": "both versions order what was shown for a query; what was not shown has no logged features",
    }
    return offline_gate(plan, champion.stored, challenger.stored, judged, made_ms, clicks, broken, notes)


def held_out_set(
    test: RankingDataset, champion: ModelPackage, challenger: ModelPackage, since_ms: int = 0, until_ms: int = 0
) -> JudgedSet:
    """Both versions' scores of the lists, by their exported programs. since_ms, until_ms: when the lists are from.

    Raises ExportRefused if one of them has another feature view than the lists.
    """
    return JudgedSet(
        name=test.name,
        digest=test.digest,
        labels=test.labels,
        offsets=test.offsets,
        champion_scores=offline_scores(champion, test),
        challenger_scores=offline_scores(challenger, test),
        since_ms=since_ms,
        until_ms=until_ms,
    )


def counterfactual_report(
    held_out: Collected,
    view: FeatureView,
    champion: ModelPackage,
    challenger: ModelPackage,
    rules: CounterfactualRules | None = None,
    since_ms: int = 0,
    until_ms: int = 0,
) -> CounterfactualReport:
    """What the window's log says of the challenger beside the champion, both ordering the items known for a query.

    since_ms, until_ms: the part of the window, 0 for all of it.
    Where position bias could not be told, or nothing tells what the challenger would show, the report is a refusal.
    Raises ExportRefused if one of the versions has another feature view.
    """
    rules = rules or CounterfactualRules()
    record = held_out.record
    lists, _ = read_lists([held_out], view, since_ms or record.since_ms, until_ms or record.until_ms, MOST_ROWS)
    if lists is None:
        return _refusal(rules, f"no list of the window was logged under feature view {view.name!r}")
    if record.bias.method == "none":
        return _refusal(rules, f"position bias is not known: {record.bias.why}", len(lists))
    known = lists.dataset(f"{record.model}/known", view)
    item_of = _item_numbers(lists, known)
    k = rules.metric.k
    depth = explored_depth(lists.propensities, lists.offsets) or EXPLORE_DEPTH
    reach = np.minimum(depth, lists.candidates)
    places = [_places(known, offline_scores(package, known)) for package in (champion, challenger)]
    ours, theirs = (_best(known, item_of, each, max(k, depth)) for each in places)
    try:
        chance = shown_chance(lists.propensities, lists.offsets, reach)
    except ValueError as error:
        return _refusal(rules, str(error), len(lists))
    reachable = _reachable(lists, known, item_of, places[1], reach, k)
    if reachable is None:
        return _refusal(
            rules,
            f"fewer than {LEAST_EXPLORED} items from beyond what is shown were explored, while candidates were not "
            "shown: nothing tells which of them the challenger would show: explore traffic, or deeper",
            len(lists),
        )
    width = max(int(lists.sizes.max()), k)
    groups = max(1, len(record.bias.without_each))
    return counterfactual(
        ClickLists(
            queries=lists.variant,
            # numbers that leave the rest by the number of groups that the hashes do
            units=(lists.units % np.uint64(record.rules.bias.groups * _NUMBERS)).astype(np.int64),
            items=lists.items,
            clicks=lists.clicks,
            shown_chance=chance,
            offsets=lists.offsets,
        ),
        ours,
        theirs,
        record.bias.examined(width),
        rules,
        record.bias.examined_without_each(width) if groups > 1 else None,
        reachable,
    )


def _item_numbers(lists: LoggedLists, known: RankingDataset) -> Ints:
    """The lists' number for the item of each of the known rows. Shape (rows,)."""
    number = {name: i for i, name in enumerate(lists.item_names.to_pylist())}
    return np.array([number[name] for name in known.item_ids], dtype=np.int64)


def _places(known: RankingDataset, scores: NDArray[np.float32]) -> Ints:
    """Where each row stands in its query's order by score, from 0, ties in the known order. Shape (rows,)."""
    sizes = np.diff(known.offsets)
    query_of = np.repeat(np.arange(len(sizes)), sizes)
    found = np.empty(len(query_of), dtype=np.int64)
    found[np.lexsort((-scores.astype(np.float64), query_of))] = np.arange(len(query_of)) - known.offsets[query_of]
    return found


def _best(known: RankingDataset, item_of: Ints, places: Ints, k: int) -> Ints:
    """The items at the first k places of each query; `NONE` where there are fewer. Shape (queries, k)."""
    query_of = np.repeat(np.arange(len(known)), np.diff(known.offsets))
    first = places < k
    found = np.full((len(known), k), NONE, dtype=np.int64)
    found[query_of[first], places[first]] = item_of[first]
    return found


def _reachable(
    lists: LoggedLists, known: RankingDataset, item_of: Ints, places: Ints, reach: Ints, k: int
) -> float | None:
    """The share of the challenger's first k that were shown for their query, likely; None if nothing tells.

    places: the challenger's, of known rows. reach: shape (lists,), how many ranks of each could come to be shown.

    A known item at place j stays among the first k if at most k - 1 - j of the unknown ones go before it; each goes
    before it with the chance that an item from beyond stands before the j-th of the others.
    """
    known_of = np.diff(known.offsets)[lists.variant]
    unknown = np.clip(reach - np.maximum(known_of, lists.sizes), 0, None)
    if (lists.candidates <= known_of).all():
        return 1.0
    list_of = np.repeat(np.arange(len(lists)), lists.sizes)
    low = lists.propensities < 0.5
    came = low & (np.bincount(list_of[low], minlength=len(lists)) == 1)[list_of]  # in exchange for one not shown
    if came.sum() < LEAST_EXPLORED:
        return None
    width = len(lists.item_names)
    keys = np.repeat(np.arange(len(known)), np.diff(known.offsets)) * width + item_of
    order = np.argsort(keys)
    wanted = lists.variant[list_of[came]] * width + lists.items[came]
    stands = places[order[np.searchsorted(keys, wanted, sorter=order)]]
    before = np.array([(stands <= j).mean() for j in range(k)])
    cases, times = np.unique(np.stack([unknown, np.minimum(known_of, k)]), axis=1, return_counts=True)
    stay = [float(binom.cdf(k - 1 - np.arange(n), unseen, before[:n]).sum()) for unseen, n in cases.T.tolist()]
    wide = [min(k, n + unseen) for unseen, n in cases.T.tolist()]
    return float(np.average(np.array(stay) / np.array(wide), weights=times))


def _refusal(rules: CounterfactualRules, why: str, lists: int = 0) -> CounterfactualReport:
    return CounterfactualReport(
        estimates=(),
        refused=why,
        support=0.0,
        effective=0.0,
        clipped=0.0,
        corrected=0.0,
        logged=0.0,
        lists=lists,
        units=0,
        clicks=0,
        metric=rules.metric.digest,
        rules=rules,
        examination=(),
        examination_known=False,
        data="",
    )
