"""Both forms of ranking over one store, on any device: what the device's tests hold against each other."""

import random
from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

from registry.contracts.features import FeatureView
from registry.contracts.manifest import ModelPackage
from serving.batch_ranker import Replies
from serving.device.ranker import DeviceRanker
from serving.device.streams import CpuDevice, Device, Lane
from serving.features.device import DeviceTier
from serving.features.host import HostTier
from serving.features.memory import MemoryTier
from serving.features.suspects import CheckRule
from serving.frames import RankedReply, ScoreRequest
from serving.program import TorchProgram
from serving.scoring import LoadedModel, score_batch
from tests.builders import NOW_MS
from tests.models import a_ranker
from tests.serving.workbench import a_request

COLUMNS, STORED = 8, 5
ITEMS = 60
LARGEST = 64


@cache
def program_of(kind: str, device: str = "cpu", precision: str = "fp32") -> tuple[ModelPackage, TorchProgram]:
    """A version over COLUMNS columns, of which STORED are stored, and its program on the device."""
    package = a_ranker(kind, COLUMNS, STORED)
    return package, TorchProgram(package, device, precision)


@cache
def values() -> NDArray[np.float32]:
    """Rows of the items, (ITEMS, STORED)."""
    return np.random.default_rng(3).standard_normal((ITEMS, STORED), dtype=np.float32)


class Store(MemoryTier):
    """Rows that can change, as those in Redis do."""

    def __init__(self, view: FeatureView) -> None:
        super().__init__(view, {f"item-{i}": row for i, row in enumerate(values())}, NOW_MS)

    def write(self, item: str, row: NDArray[np.float32]) -> None:
        """From now on that is the item's row."""
        self._rows[item.encode()] = row


class Workbench:
    """A version with both forms of ranking over one store: the host's on the CPU, the device's on it.

    resident: rows that the device holds.
    """

    def __init__(
        self,
        kind: str,
        device: Device | None = None,
        resident: int = 16,
        graphs: bool = True,
        precision: str = "fp32",
    ) -> None:
        self.device = device or CpuDevice()
        package, on_host = program_of(kind)
        _, on_device = program_of(kind, str(self.device.torch_device), precision)
        view = package.manifest.feature_view()
        self.store = Store(view)
        at_once = CheckRule(within_s=0)  # after a lost channel nothing is served without a look
        self.host_tier = HostTier(view.name, self.store, 64, view.defaults[view.positions("row")], rule=at_once)
        self.tier = DeviceTier(view.name, self.host_tier, resident, STORED, self.device, at_once)
        loaded = LoadedModel(
            model=kind,
            version=1,
            digest="0" * 64,
            program=on_host,
            view=view,
            tier=self.host_tier,
            reference_std=1.0,
        )
        self.loaded = loaded
        self.ranker = DeviceRanker(loaded, on_device, self.tier, Lane.of(self.device), LARGEST, graphs)

    def on_host(self, requests: Sequence[ScoreRequest], now_ms: int = NOW_MS) -> Replies:
        """What the host's form answers."""
        return score_batch(self.loaded, requests, [0.0] * len(requests), now_ms)


def requests_of(source: random.Random, queries: int, number: int = 0) -> list[ScoreRequest]:
    """Queries of 1 to 25 items, some unknown, with inline columns that may stand over stored ones."""
    requests = []
    for i in range(queries):
        size = source.randint(1, 25)
        items = [f"item-{i}" for i in source.sample(range(ITEMS + 5), size)]
        columns = [column for column in range(COLUMNS) if source.random() < (0.8 if column >= STORED else 0.1)]
        if source.random() < 0.15:
            columns = list(range(COLUMNS))
        in_candidates = {column: [source.gauss(0, 1) for _ in items] for column in columns}
        in_query = {column: source.gauss(0, 1) for column in range(COLUMNS) if source.random() < 0.15}
        requests.append(a_request(items, in_query, in_candidates, source.randint(1, 30), number + i))
    return requests


def assert_alike(found: Replies, expected: Replies, tolerance: float = 2e-5) -> None:
    """The same rankings, but for candidates whose scores differ by no more than a few tolerances."""
    assert [type(reply) for reply in found] == [type(reply) for reply in expected]
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.number == theirs.number
        if isinstance(ours, RankedReply) and isinstance(theirs, RankedReply):
            np.testing.assert_allclose(ours.scores, theirs.scores, rtol=tolerance, atol=tolerance)
            assert (ours.missing_rows, ours.stale_rows, ours.tier_away) == (
                theirs.missing_rows,
                theirs.stale_rows,
                theirs.tier_away,
            )
            np.testing.assert_allclose(ours.row_age_s, theirs.row_age_s)
            for sure in ("score_mean", "score_std", "margin", "entropy"):
                ours_is, theirs_is = getattr(ours, sure), getattr(theirs, sure)
                np.testing.assert_allclose(ours_is, theirs_is, rtol=5 * tolerance, atol=5 * tolerance)
            smallest_gap = -np.diff(theirs.scores).max(initial=-1.0)
            if smallest_gap > 5 * tolerance:
                # the last one shown may be a hair better than the first that is not
                sure_places = len(ours.order) - 1
                row_bytes = len(ours.features) // len(ours.order)
                assert ours.order[:sure_places].tolist() == theirs.order[:sure_places].tolist()
                assert ours.features[: sure_places * row_bytes] == theirs.features[: sure_places * row_bytes]


def request_hashes(items: Sequence[str]) -> list[int]:
    """What the tiers know the items by."""
    hashes: list[int] = a_request(items).hashes.tolist()
    return hashes
