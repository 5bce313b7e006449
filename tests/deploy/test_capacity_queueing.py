"""Closed forms against known values, the batch server's chain against them and against the simulated queue."""

from math import factorial

import numpy as np
import pytest
from numpy.typing import NDArray

from deploy.capacity.queueing import BatchServer, wait_mg1_s, wait_quantile_s
from deploy.capacity.replicas_queue import BINS_MS, ReplicasQueue, Served, quantile_ms
from deploy.capacity.residency import hit_ratio
from serving.features.slab import Slab

NEVER_S = 1e9
ONE_BY_ONE = BatchServer(1e-12, 0.010, 1)
GPU = BatchServer(0.004, 0.0004, 40)


def run(server: BatchServer, replicas: int, rate_s: float, seconds: float, gateways: int = 1) -> Served:
    queue = ReplicasQueue(server, replicas, gateways, NEVER_S, 0.001, np.random.default_rng(5), admission=None)
    opened = np.ones(replicas, bool)
    queue.run(0.0, np.full(2000, rate_s), opened)
    return queue.run(2.0, np.full(round(seconds / 0.001), rate_s), opened)


def mean_ms(counts: NDArray[np.int64]) -> float:
    middles = np.concatenate([[0.0], (BINS_MS[1:] + BINS_MS[:-1]) / 2])
    return float(counts @ middles / counts.sum())


def erlang_c(servers: int, load: float) -> float:
    """Chance that somebody must wait before so many servers. load: offered, in servers; A. K. Erlang, 1917."""
    last = load**servers / factorial(servers) * servers / (servers - load)
    return last / (sum(load**number / factorial(number) for number in range(servers)) + last)


def wait_ggc_s(rate_s: float, service_s: float, servers: int, variation: float) -> float:
    """Mean wait before servers with one line and Poisson arrivals: exact for M/M/c, where variation is 1.

    variation: squared coefficient of variation of the service time.
    Source: A. O. Allen, Probability, Statistics and Queueing Theory, 2nd ed., 1990, 5.3.5 (Allen-Cunneen).
    """
    load = rate_s * service_s
    return (1 + variation) / 2 * erlang_c(servers, load) * service_s / (servers - load)


def test_more_load_than_a_server_can_do_waits_for_ever():
    assert wait_mg1_s(2.0, 0.5, 0.0) == float("inf")


def test_a_quantile_of_the_wait_of_m_m_c_leaves_as_many_above_it():
    waits, mean_s = erlang_c(4, 3.0), wait_ggc_s(3.0, 1.0, 4, 1.0)
    at_s = wait_quantile_s(mean_s, waits, 0.95)

    assert waits * np.exp(-at_s * (4 - 3.0)) == pytest.approx(0.05)


@pytest.mark.parametrize("load", [0.3, 0.5, 0.7])
def test_a_batch_server_of_one_is_m_d_1(load: float):
    server = BatchServer(0.0, 1.0, 1)

    assert server.at(load).mean_s == pytest.approx(1 + wait_mg1_s(load, 1.0, 0.0), rel=0.02)
    assert server.at(load).busy == pytest.approx(load, rel=0.01)


@pytest.mark.parametrize("load", [0.5, 0.8])
def test_simulated_queries_before_one_server_wait_as_m_d_1(load: float):
    found = run(ONE_BY_ONE, 1, load / 0.010, 300.0)

    assert mean_ms(found.latencies) == pytest.approx(10 + 1e3 * wait_mg1_s(load / 0.010, 0.010, 0.0), rel=0.07)
    assert found.busy_s / found.seconds == pytest.approx(load, rel=0.03)


def test_simulated_queries_are_shared_out_nearly_as_if_they_waited_in_one_line():
    """M/D/4 by Allen and Cunneen is the least that balancing can reach; four lines of their own are the most."""
    rate_s = 0.8 * 4 / 0.010
    waited_ms = mean_ms(run(ONE_BY_ONE, 4, rate_s, 60.0).latencies) - 10

    assert 1e3 * wait_ggc_s(rate_s, 0.010, 4, 0.0) * 0.9 < waited_ms < 1e3 * wait_mg1_s(rate_s / 4, 0.010, 0.0)


@pytest.mark.parametrize("rate_s", [320.0, 1000.0, 1600.0])
def test_the_chain_of_batches_foretells_what_is_simulated(rate_s: float):
    told, found = GPU.at(rate_s), run(GPU, 1, rate_s, 40.0)

    assert quantile_ms(found.latencies, 0.5) == pytest.approx(1e3 * told.quantile_s(0.5), rel=0.06)
    assert quantile_ms(found.latencies, 0.99) == pytest.approx(1e3 * told.quantile_s(0.99), rel=0.08)
    assert found.busy_s / found.seconds == pytest.approx(told.busy, rel=0.03)


def test_balanced_replicas_answer_no_later_than_the_model_of_one_says():
    """The model gives each replica Poisson arrivals of its own: the safe side."""
    found = run(GPU, 8, 8 * 1000.0, 5.0, gateways=1)

    assert quantile_ms(found.latencies, 0.99) <= 1e3 * GPU.at(1000.0).quantile_s(0.99)


def test_being_at_work_says_little_of_how_full_a_batch_server_is():
    """At a quarter of what it can do it is at work for over nine tenths of the time: why a utilisation target
    misleads."""
    assert GPU.at(GPU.capacity_s / 4).busy > 0.9


def test_the_most_that_a_server_is_given_keeps_the_promise_and_a_tenth_more_does_not():
    rate_s = GPU.most_rate_s(0.99, 0.020)

    assert GPU.at(rate_s).quantile_s(0.99) <= 0.020 < GPU.at(1.1 * rate_s).quantile_s(0.99)
    assert GPU.most_rate_s(0.99, 0.004) == 0.0  # less than a batch of one takes


def test_no_query_is_lost_between_stretches():
    queue = ReplicasQueue(GPU, 4, 3, NEVER_S, 0.001, np.random.default_rng(3), admission=None)
    opened = np.ones(4, bool)
    some = [
        queue.run(part * 0.5, np.full(500, rate_s), opened) for part, rate_s in enumerate((6000.0, 9000.0, 0.0, 0.0))
    ]

    assert sum(one.arrived for one in some) == sum(int(one.latencies.sum()) for one in some)
    assert queue.outstanding == 0


def test_beyond_the_capacity_admission_refuses_and_those_let_in_keep_the_deadline():
    queue = ReplicasQueue(GPU, 4, 3, 0.2, 0.001, np.random.default_rng(3))
    opened = np.ones(4, bool)
    queue.run(0.0, np.full(3000, 3 * 4 * GPU.capacity_s), opened)
    found = queue.run(3.0, np.full(3000, 3 * 4 * GPU.capacity_s), opened)

    assert int(found.latencies.sum()) / found.seconds > 0.9 * 4 * GPU.capacity_s
    assert found.refused > 0.5 * found.arrived
    assert found.late < 0.01 * found.arrived


@pytest.mark.parametrize(("skew", "room"), [(1.0, 1024), (1.0, 4096), (0.8, 2048)])
def test_the_hit_ratio_is_the_real_slabs(skew: float, room: int):
    """Of 20,480 rows, 20 drawn for each query, which asks for none twice."""
    rng = np.random.default_rng(1)
    weights = np.arange(1, 20_481) ** -skew
    shares = np.cumsum(weights / weights.sum())
    slab, hits, asked, queries = Slab(room, columns=1), 0, 0, 0
    for number in range(9000):
        drawn = np.unique(np.searchsorted(shares, rng.random(20))).astype(np.uint64)
        hashes = (drawn + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        hashes ^= hashes >> np.uint64(29)
        found = slab.find(hashes) >= 0
        missed = hashes[~found]
        slab.place(missed, np.zeros((len(missed), 1), np.float32), np.ones(len(missed), np.uint64))
        if number >= 6000:  # as long as it takes to fill, and to learn who is asked for often
            hits, asked, queries = hits + int(found.sum()), asked + len(found), queries + 1

    assert hits / asked == pytest.approx(hit_ratio(20_480, skew, room, round(asked / queries)), abs=0.03)
