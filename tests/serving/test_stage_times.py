"""Times by stage: each query in one bucket of each stage, and nothing lost between flushes."""

from hypothesis import given
from hypothesis import strategies as st

from registry.contracts.counters import STAGE_BOUNDS_MS, STAGE_BUCKETS, STAGES, CounterSnapshot
from serving.arm_counts import ArmCounts
from serving.stage_times import Seconds, StageTimes

seconds = st.floats(0, 100)
queries = st.lists(st.tuples(seconds, seconds, seconds, seconds, seconds), max_size=20)


@given(queries, queries)
def test_every_query_is_in_the_first_bucket_whose_bound_its_time_does_not_pass(
    before: list[Seconds], after: list[Seconds]
) -> None:
    times = StageTimes()
    for part in (before, after):
        for query in part:
            times.note("m", query)
        times.flush()

    wanted = [[0] * STAGE_BUCKETS for _ in STAGES]
    for query in (*before, *after):
        for stage, value in enumerate(query):
            wanted[stage][sum(bound / 1000 < value for bound in STAGE_BOUNDS_MS)] += 1
    counted = times.counters()
    assert [one.model for one in counted] == (["m"] if before or after else [])
    for one in counted:
        assert [list(stage) for stage in one.buckets] == wanted


def test_models_are_apart_and_go_out_with_the_arms() -> None:
    counts = ArmCounts()
    counts.stages.note("b", (0.0, 0.0, 0.0, 0.0, 0.0))
    counts.stages.note("a", (1.0, 1.0, 1.0, 1.0, 4.0))
    counts.flush()

    snapshot = CounterSnapshot.decode(counts.snapshot("gateway-0:1:1", 1).encode())

    assert [one.model for one in snapshot.stages] == ["a", "b"]
    assert [sum(stage) for stage in snapshot.stages[0].buckets] == [1] * len(STAGES)
    assert snapshot.stages[1].buckets[0][0] == 1
