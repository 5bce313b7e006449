"""The fleet for a user's numbers, the orders of magnitude, the sales day under the shipped autoscaler, the command."""

import json
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from typer.testing import CliRunner

from deploy.capacity.autoscaler import DEFAULT_DOWN, DEFAULT_UP
from deploy.capacity.autoscaler_files import shipped
from deploy.capacity.demand import Demand, Prices, candidate_us_of
from deploy.capacity.fleet import TURN_QUERIES, batch_server, gateway_server, plan
from deploy.capacity.measuring import measure
from deploy.capacity.orders import limits, orders
from deploy.capacity.queueing import BatchServer
from deploy.capacity.sales_day import DAY_S, SalesDay
from deploy.capacity.stages import SHIPPED, load, save
from deploy.capacity.surge import Equilibrium, Surge, simulate
from deploy.cli import app
from deploy.errors import SettingsError, SluiceError

COSTS = load()
DEMAND = Demand(5000.0)


def surge() -> Surge:
    return Surge(shipped(), BatchServer(0.004, 0.0004, 40), SalesDay(12_300.0))


def test_twice_the_queries_need_twice_the_workers_beside_the_spare_one():
    small, large = plan(Demand(20_000.0), COSTS), plan(Demand(40_000.0), COSTS)

    assert large.part("worker").count - 1 == pytest.approx(2 * (small.part("worker").count - 1), abs=1)
    assert large.event_bytes_s == 2 * small.event_bytes_s
    assert large.row_reads_s == pytest.approx(2 * small.row_reads_s)


def test_a_fleet_keeps_the_p99_that_was_asked_for_and_no_part_is_overfull():
    for p99_ms in (8.0, 20.0, 120.0):
        fleet = plan(replace(DEMAND, p99_ms=p99_ms), COSTS)

        assert fleet.p99_ms <= p99_ms * 1.1
        assert fleet.p50_ms < fleet.p99_ms
        assert all(0 < part.use < 1 for part in fleet.parts)


def test_a_shorter_p99_needs_more_workers():
    assert plan(replace(DEMAND, p99_ms=6.0), COSTS).part("worker").count > plan(DEMAND, COSTS).part("worker").count


def test_more_room_misses_fewer_rows_and_all_room_none():
    few, many = (plan(replace(DEMAND, tier_rows=rows), COSTS).row_reads_s for rows in (10_000, 500_000))

    assert few > many > 0
    assert plan(replace(DEMAND, tier_rows=1_000_000), COSTS).row_reads_s == 0


def test_what_a_million_queries_cost_follows_the_prices():
    dear = replace(DEMAND, prices=Prices(core_hour=0.08, memory_gb_hour=0.012, archive_gb_month=0.046))

    assert plan(dear, COSTS).cost_million_fixed == pytest.approx(2 * plan(DEMAND, COSTS).cost_million_fixed)
    assert plan(DEMAND, COSTS).cost_million_following < plan(DEMAND, COSTS).cost_million_fixed


def test_a_model_by_its_operations_is_one_by_its_microseconds():
    assert candidate_us_of(flops=2e6, tflops=0.5) == 4.0
    gpu = replace(DEMAND, device="gpu", candidate_us=4.0, pass_us=4000.0)

    assert batch_server(gpu, COSTS) == BatchServer(0.004, 0.0004, 40)


def test_a_query_that_takes_too_long_alone_is_refused_with_what_would_help():
    with pytest.raises(SluiceError, match=r"a query alone takes .* no number of workers.*--device gpu"):
        plan(replace(DEMAND, candidate_us=5000.0), COSTS)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"peak_s": 0.0}, "--peak=0.0: expected 0 < queries/s"),
        ({"mean_s": 9000.0}, "--mean=9000.0: expected 0 to the peak, 5000"),
        ({"shown": 200}, "--shown=200: expected 1 to the candidates, 100"),
        ({"p99_ms": 500.0}, "--p99-ms=500.0: expected 1 to the deadline, 200"),
        ({"batch_candidates": 50}, "--batch-candidates=50: expected at least those of a query, 100"),
        ({"device": "tpu"}, "--device=tpu: expected cpu or gpu"),
        ({"candidate_us": -1.0}, "--candidate-us=-1.0: expected 0 to 10000000 microseconds"),
    ],
)
def test_a_wrong_number_names_option_value_and_rule(wrong: dict[str, object], told: str):
    with pytest.raises(SettingsError) as refused:
        replace(DEMAND, **wrong)  # type: ignore[arg-type]

    assert told in str(refused.value)


def test_each_limit_stands_in_the_order_that_it_breaks_and_in_no_other():
    lines, all_limits = orders(DEMAND, COSTS), limits(DEMAND, COSTS)

    assert [line.rate_s for line in lines] == [10.0, 100.0, 1e3, 1e4, 1e5, 1e6]
    told = [limit for line in lines for limit in line.breaks]
    assert told == [limit for limit in all_limits if limit.rate_s <= 1e6]
    assert all(before.rate_s <= after.rate_s for before, after in pairwise(told))


def test_at_the_limit_of_a_process_the_model_asks_for_a_second_one():
    for name, part in (("one archiver", "archiver"), ("one drift monitor", "drift monitor")):
        rate_s = next(limit.rate_s for limit in limits(DEMAND, COSTS) if limit.what == name)

        assert plan(DEMAND.at(0.99 * rate_s), COSTS).part(part).count == 1
        assert plan(DEMAND.at(1.01 * rate_s), COSTS).part(part).count == 2


def test_what_a_batch_costs_is_paid_by_the_queries_in_it():
    dear = replace(COSTS, worker_batch=COSTS.worker_batch + 500.0, gateway_turn=COSTS.gateway_turn + 500.0)
    alone, together = (batch_server(DEMAND, costs).batch_s(1) for costs in (COSTS, dear))
    assert together - alone == pytest.approx(500e-6)
    few, many = (gateway_server(DEMAND.candidates, costs) for costs in (COSTS, dear))
    assert 1 / many.capacity_s - 1 / few.capacity_s == pytest.approx(500e-6 / TURN_QUERIES)
    assert plan(DEMAND, dear).p99_ms > plan(DEMAND, COSTS).p99_ms


def test_a_gpu_workers_host_pays_for_a_batch_once_however_many_queries_are_in_it():
    gpu = replace(DEMAND, device="gpu", pass_us=4000.0, candidate_us=4.0)
    free, dear = (plan(gpu, replace(COSTS, worker_batch=us)) for us in (0.0, 1000.0))
    assert 0 < dear.part("worker").count / free.part("worker").count < 1.5


def test_stage_costs_are_read_as_they_were_written_and_say_when_and_where(tmp_path: Path):
    save(COSTS, tmp_path / "mine.json")

    assert load(tmp_path / "mine.json") == COSTS
    assert COSTS.date >= "2026-11-27"
    assert "core" in COSTS.machine


@pytest.mark.parametrize("text", ["", "{}", SHIPPED.read_text().replace('"fixed": ', '"fixed": -')])
def test_a_file_that_is_no_profile_is_refused_with_the_command_that_makes_one(tmp_path: Path, text: str):
    (path := tmp_path / "costs.json").write_text(text)

    with pytest.raises(SluiceError, match=r"sluice capacity --measure"):
        load(path)


def test_a_sales_day_rises_fourfold_within_three_minutes():
    day = SalesDay(1000.0)

    assert day.rate_s(36_000.0 + 180) / day.rate_s(36_000.0) == pytest.approx(4, rel=0.01)
    assert min(day.rate_s(minute * 60.0) for minute in range(1440)) == pytest.approx(300, rel=0.01)
    assert day.rate_s(DAY_S) == pytest.approx(day.rate_s(0.0), rel=0.5)  # what is left of the evening's sale


@pytest.fixture(scope="module")
def resting() -> Equilibrium:
    return Equilibrium(surge(), seed=7)


def test_the_shipped_autoscaler_holds_p99_in_each_minute_of_the_first_sale(resting: Equilibrium):
    found = simulate(surge(), 7, 35_940.0, 36_240.0, resting)

    assert found.holds
    assert (found.over, found.lost) == (0, pytest.approx(0, abs=1e-4))
    assert found.worst_minute_ms < 60  # half of the bar: the margin that docs/capacity.md claims
    assert found.least_pods <= 12
    assert found.most_pods == 32
    assert found.one_by_one > 1_000_000


def test_over_the_whole_day_the_shipped_autoscaler_goes_down_to_its_least_and_holds(resting: Equilibrium):
    """The day without its sales' first minutes, which are the test above: 2 is enough for the evening's slope."""
    quiet = replace(surge(), day=replace(surge().day, sales=()))
    found = simulate(quiet, 7, equilibrium=resting)

    assert found.holds
    assert found.over == 0
    assert (found.least_pods, found.one_by_one) == (8, 0)


def test_queries_alone_and_five_minutes_of_stabilisation_do_not_hold_the_first_sale(resting: Equilibrium):
    """What the test above would not notice if nothing could fail."""
    rule = shipped()
    alone = tuple(metric for metric in rule.metrics if "queries" in metric.name)
    slow = replace(
        surge(), rule=replace(rule, metrics=alone, up=replace(DEFAULT_UP, stabilisation_s=300.0), down=DEFAULT_DOWN)
    )
    found = simulate(slow, 7, 36_000.0, 36_180.0, resting)

    assert not found.holds
    assert found.over > 0
    assert found.worst_lost > 0.3


def test_a_simulated_day_is_its_seeds(resting: Equilibrium):
    first, again, other = (simulate(surge(), seed, 0.0, 600.0, resting) for seed in (1, 1, 2))

    assert first == again
    assert first.queries != other.queries


def test_the_command_prints_a_plan_for_scripts_and_for_people():
    told = CliRunner().invoke(app, ["capacity", "--peak", "3000", "--json"])
    fleet = json.loads(told.stdout)

    assert {"gateway", "worker", "archiver"} <= {part["name"] for part in fleet["parts"]}
    assert fleet["p99_ms"] <= 120
    shown = CliRunner().invoke(app, ["capacity", "--peak", "3000"]).stdout
    assert f"{fleet['cost_million_fixed']:,.3f} at this size all day" in shown
    assert COSTS.date in shown


def test_the_command_says_of_an_order_of_magnitude_what_breaks_first():
    shown = CliRunner().invoke(app, ["capacity", "--plan"]).stdout

    assert "up to 1,000,000/s" in shown
    assert "one event stream" in shown


@pytest.mark.skipif(sys.platform != "linux", reason="CPU times are read from /proc")
def test_stage_costs_are_measured_on_real_processes():
    costs = measure(columns=8, seconds=1.0, seed=7, told=lambda what: None)

    assert costs.columns == 8
    assert 10 < costs.gateway.of(100) < 20_000
    assert 10 < costs.worker.of(100) + costs.worker_batch < 20_000
    assert costs.worker_batch > 0 and costs.gateway_turn > 0
    assert costs.forward.of(1000) > costs.forward.of(100) > 0
    assert costs.event.of(10) > 10 * 8 * 4  # eight float32 of each item that was shown
    assert 0 < costs.redis_row < 100


def test_a_comparison_of_settings_without_a_sales_day_is_refused():
    refused = CliRunner().invoke(app, ["capacity", "--compare"]).exception

    assert isinstance(refused, SettingsError)
    assert str(refused) == "--compare=1: expected --surge beside it; try: sluice capacity --surge --compare"
