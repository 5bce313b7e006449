"""The device's form of ranking against the host's, and against every order that streams allow."""

import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.contracts.features import Column, FeatureView
from serving.device.ranker import DeviceRanker
from serving.device.streams import CpuDevice, Lane
from serving.features.device import DeviceTier
from serving.features.host import HostTier
from serving.features.memory import MemoryTier
from serving.frames import FailedReply, RankedReply
from serving.program import TorchProgram
from serving.scoring import LoadedModel, score_batch
from tests.builders import NOW_MS
from tests.models import UNGUARDED, a_ranker, model_view
from tests.serving.devices import ShuffledDevice
from tests.serving.rankers import COLUMNS, ITEMS, STORED, Workbench, assert_alike, request_hashes, requests_of
from tests.serving.workbench import a_request

KINDS = pytest.mark.parametrize("kind", ["mlp", "deep_and_cross", "list_attention"])


@KINDS
@settings(max_examples=25)
@given(seed=st.integers(0, 2**32 - 1))
def test_a_device_ranks_as_the_host_does(kind: str, seed: int) -> None:
    source = random.Random(seed)
    bench = Workbench(kind)

    for round_ in range(4):
        requests = requests_of(source, source.randint(1, 6), 10 * round_)
        for request in requests:
            request.top_k = 100  # the whole order
        now_ms = NOW_MS + 1000 * round_
        found = bench.ranker.submit(requests, [1.0] * len(requests), now_ms).replies()
        assert_alike(found, bench.on_host(requests, now_ms))


@KINDS
@settings(max_examples=40)
@given(data=st.data(), seed=st.integers(0, 2**32 - 1))
def test_no_order_of_streams_mixes_batches_or_shows_old_rows(kind: str, data: st.DataObject, seed: int) -> None:
    source = random.Random(seed)
    order = random.Random(data.draw(st.integers(0, 2**32 - 1)))
    device = ShuffledDevice(order.randrange)
    bench = Workbench(kind, device, graphs=False)
    under_way, expected = [], []

    for round_ in range(6):
        item = f"item-{source.randrange(ITEMS)}"
        bench.store.write(item, np.full(STORED, round_, dtype=np.float32))
        bench.tier.drop(request_hashes([item]))
        requests = requests_of(source, source.randint(1, 5), 10 * round_)
        under_way.append(bench.ranker.submit(requests, [0.0] * len(requests), NOW_MS))
        expected.append(bench.on_host(requests))

    for batch, right in zip(under_way, expected, strict=True):
        assert_alike(batch.replies(), right)


def test_an_update_is_in_the_next_batch_and_not_in_the_one_under_way() -> None:
    device = ShuffledDevice(random.Random(1).randrange)
    bench = Workbench("mlp", device, graphs=False)
    request = a_request(["item-1"])
    seen = []

    for row in (1.0, 2.0):
        bench.store.write("item-1", np.full(STORED, row, dtype=np.float32))
        bench.tier.drop(request_hashes(["item-1"]))
        seen.append(bench.ranker.submit([request], [0.0], NOW_MS))

    for batch, row in zip(seen, (1.0, 2.0), strict=True):
        [reply] = batch.replies()
        assert isinstance(reply, RankedReply)
        assert np.frombuffer(reply.features, np.float32)[:STORED].tolist() == [row] * STORED


def test_resident_rows_are_not_fetched_again() -> None:
    bench = Workbench("mlp", resident=1024)
    request = a_request([f"item-{i}" for i in range(20)])
    [first] = bench.ranker.submit([request], [0.0], NOW_MS).replies()
    bench.host_tier.drop(request.hashes.tolist())
    for i in range(20):
        bench.store.write(f"item-{i}", np.zeros(STORED, dtype=np.float32))

    [again] = bench.ranker.submit([request], [0.0], NOW_MS).replies()

    assert bench.tier.size == 20
    assert isinstance(first, RankedReply) and isinstance(again, RankedReply)
    assert again.features == first.features


def test_rows_of_the_device_are_checked_when_changes_may_have_been_missed() -> None:
    bench = Workbench("mlp", resident=1024)
    request = a_request(["item-1"])
    bench.ranker.submit([request], [0.0], NOW_MS).replies()
    bench.store.write("item-1", np.full(STORED, 5.0, dtype=np.float32))
    bench.tier.distrust()

    [reply] = bench.ranker.submit([request], [0.0], NOW_MS).replies()

    assert isinstance(reply, RankedReply)
    assert np.frombuffer(reply.features, np.float32)[:STORED].tolist() == [5.0] * STORED


@pytest.mark.parametrize("kind", ["mlp", UNGUARDED])
def test_a_query_without_finite_scores_fails_alone(kind: str) -> None:
    bench = Workbench(kind)
    good = a_request(["item-1", "item-2", "item-3"])
    bad = a_request(["item-4", "item-5"], in_candidates={STORED: [float("nan"), 1.0]}, number=9)
    [alone] = bench.on_host([good])

    before, failed, after = bench.ranker.submit([good, bad, good], [0.0] * 3, NOW_MS).replies()

    assert isinstance(failed, FailedReply)
    assert (failed.number, failed.status) == (9, 500)
    assert "not finite" in failed.message
    assert_alike([before, after], [alone, alone])


def test_padding_does_not_carry_an_earlier_batch_into_the_next() -> None:
    bench = Workbench(UNGUARDED)
    items = [f"item-{i}" for i in range(30)]
    nan = a_request(items, in_candidates={column: [float("nan")] * 30 for column in range(COLUMNS)})
    good = a_request(items[:3])
    bench.ranker.submit([nan], [0.0], NOW_MS).replies()

    found = bench.ranker.submit([good], [0.0], NOW_MS).replies()

    assert_alike(found, bench.on_host([good]))


def test_a_program_that_raises_leaves_the_ranker_as_it_was() -> None:
    bench = Workbench("mlp", resident=1024, graphs=False)
    requests = [a_request(["item-1", "item-2"]), a_request(["item-3"])]
    sound = bench.ranker.forward.compute

    def broken(room: object) -> None:
        raise RuntimeError("out of memory")

    bench.ranker.forward.compute = broken  # type: ignore[method-assign]
    for _ in range(3):
        with pytest.raises(RuntimeError, match="out of memory"):
            bench.ranker.submit(requests, [0.0, 0.0], NOW_MS)
    bench.ranker.forward.compute = sound  # type: ignore[method-assign]

    assert bench.tier.size == 0
    assert_alike(
        bench.ranker.submit(requests, [0.0, 0.0], NOW_MS).replies(),
        bench.on_host(requests),
    )


def test_a_view_of_stored_columns_alone_and_one_of_none() -> None:
    for stored in (COLUMNS, 0):
        package = a_ranker("mlp", COLUMNS, stored)
        view = model_view(COLUMNS, stored)
        slow = MemoryTier(view, {}, NOW_MS)
        tier = HostTier(view.name, slow, 64, view.defaults[:stored])
        program = TorchProgram(package, "cpu")
        loaded = LoadedModel(model="m", version=1, digest="", program=program, view=view, tier=tier, reference_std=1.0)
        device = CpuDevice()
        ranker = DeviceRanker(loaded, program, DeviceTier("m", tier, 16, stored, device), Lane.of(device), 32, True)
        request = a_request(["a", "b"], in_candidates={0: [1.0, 2.0], 7: [3.0, 4.0]})

        assert_alike(
            ranker.submit([request], [0.0], NOW_MS).replies(),
            score_batch(loaded, [request], [0.0], NOW_MS),
        )


def test_stale_rows_are_counted_as_the_host_counts_them() -> None:
    columns = tuple(Column(f"f{i}", freshness_s=60) for i in range(COLUMNS))
    package, program = a_ranker("mlp", COLUMNS), None
    view = FeatureView("fresh", "item", columns)
    slow = MemoryTier(view, {"a": np.ones(COLUMNS, np.float32)}, NOW_MS)
    tier = HostTier(view.name, slow, 64, view.defaults)
    program = TorchProgram(package, "cpu")
    loaded = LoadedModel(model="m", version=1, digest="", program=program, view=view, tier=tier, reference_std=1.0)
    device = CpuDevice()
    ranker = DeviceRanker(loaded, program, DeviceTier("m", tier, 16, COLUMNS, device), Lane.of(device), 32, False)

    [reply] = ranker.submit([a_request(["a", "b", "a"])], [0.0], NOW_MS + 60_001).replies()

    assert isinstance(reply, RankedReply)
    assert (reply.stale_rows, reply.missing_rows) == (2, 1)


def test_replies_may_be_asked_for_in_any_order_and_twice() -> None:
    bench = Workbench("mlp")
    batches = [bench.ranker.submit([a_request([f"item-{i}"], number=i)], [0.0], NOW_MS) for i in range(5)]

    for i in (4, 0, 2, 2, 1, 3):
        [reply] = batches[i].replies()
        assert reply.number == i


def test_reply_memory_is_not_the_slots() -> None:
    bench = Workbench("mlp")
    [first] = bench.ranker.submit([a_request(["item-1", "item-2"])], [0.0], NOW_MS).replies()
    assert isinstance(first, RankedReply)
    scores, features = first.scores.tolist(), bytes(first.features)

    for i in range(4):
        bench.ranker.submit([a_request([f"item-{i}", "item-9"])], [0.0], NOW_MS).replies()

    assert (first.scores.tolist(), first.features) == (scores, features)
    assert torch.is_inference_mode_enabled() is False
