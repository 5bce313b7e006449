from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from serving.tally import CounterTally, HistogramTally

BUCKETS = (0.125, 1.0, 10.0)


@given(
    st.lists(
        st.lists(st.sampled_from([0.0, 0.0625, 0.125, 0.5, 1.0, 9.0, 10.0, 11.0, 2.0**30]), max_size=5), max_size=4
    )
)
def test_a_flushed_tally_exports_what_direct_observation_does(flushes: list[list[float]]) -> None:
    direct, tallied = CollectorRegistry(), CollectorRegistry()
    observed = Histogram("h", "a histogram", buckets=BUCKETS, registry=direct)
    tally = HistogramTally(Histogram("h", "a histogram", buckets=BUCKETS, registry=tallied))
    counted = Counter("c", "a counter", registry=direct)
    counter = CounterTally(Counter("c", "a counter", registry=tallied))
    for values in flushes:
        for value in values:
            observed.observe(value)
            tally.observe(value)
            counted.inc()
            counter.inc()
        tally.flush()
        counter.flush()

    assert without_times(direct) == without_times(tallied)


def without_times(registry: CollectorRegistry) -> list[str]:
    lines = generate_latest(registry).decode().splitlines()
    return [line for line in lines if "_created" not in line]
