"""`sluice capacity`: how many of what for how many queries, what it costs, what breaks first, and a sales day."""

import json as to_json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from deploy.errors import SettingsError, SluiceError

if TYPE_CHECKING:
    from deploy.capacity.demand import Demand
    from deploy.capacity.fleet import Fleet
    from deploy.capacity.orders import Order
    from deploy.capacity.stages import StageCosts
    from deploy.capacity.surge import Surge, SurgeDay

_WIDTH = 112
_SECONDS = 12.0
_BLOCKS = " ▁▂▃▄▅▆▇█"


def capacity(
    peak: Annotated[float, typer.Option(help="Queries a second in the busiest minute.")] = 1000.0,
    mean: Annotated[float, typer.Option(help="Over the day; default: a third of the peak.")] = 0.0,
    candidates: Annotated[int, typer.Option(help="Of a query.")] = 100,
    columns: Annotated[int, typer.Option(help="Stored features of an item.")] = 136,
    shown: Annotated[int, typer.Option(help="Items of an answer.")] = 10,
    catalogue: Annotated[int, typer.Option(help="Items.")] = 1_000_000,
    skew: Annotated[float, typer.Option(help="Their popularity is rank**-skew.")] = 1.0,
    tier_rows: Annotated[int, typer.Option(help="Rows that a worker's memory has room for.")] = 200_000,
    updates: Annotated[float, typer.Option(help="Rows that change, a second.")] = 100.0,
    p99_ms: Annotated[float, typer.Option(help="What 99 of 100 answers must keep.")] = 120.0,
    deadline_ms: Annotated[float, typer.Option(help="After which an answer is of no use.")] = 200.0,
    spare: Annotated[int, typer.Option(help="Gateways and workers that may be gone at once.")] = 1,
    replicas_of_shard: Annotated[int, typer.Option(help="Copies of each Redis shard beside its master.")] = 1,
    stream_hours: Annotated[float, typer.Option(help="For so long the event stream's readers may be away.")] = 1.0,
    device: Annotated[str, typer.Option(help="What scores: cpu or gpu.")] = "cpu",
    pass_us: Annotated[float | None, typer.Option(help="Of a forward pass, apart from its candidates.")] = None,
    candidate_us: Annotated[float | None, typer.Option(help="Of a candidate in a forward pass.")] = None,
    flops: Annotated[float | None, typer.Option(help="Instead: operations of the model for one candidate,")] = None,
    tflops: Annotated[float | None, typer.Option(help="and 10**12 a second that the device reaches.")] = None,
    batch_candidates: Annotated[int, typer.Option(help="Of one forward pass at most.")] = 4096,
    machine_cores: Annotated[int, typer.Option(help="Of one node.")] = 32,
    price_core_hour: Annotated[float, typer.Option(help="Of one core.")] = 0.04,
    price_gpu_hour: Annotated[float, typer.Option(help="Of a GPU with its host.")] = 2.50,
    price_memory_gb_hour: Annotated[float, typer.Option(help="Of Redis' memory.")] = 0.006,
    price_archive_gb_month: Annotated[float, typer.Option(help="Of the archive.")] = 0.023,
    costs: Annotated[
        Path | None, typer.Option(help="Stage costs that --measure wrote; default: the shipped ones.")
    ] = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="From 10 to a million queries a second: what breaks first.")
    ] = False,
    surge: Annotated[
        bool, typer.Option("--surge", help="Simulate a sales day under the autoscaler that is shipped.")
    ] = False,
    autoscaler: Annotated[
        Path | None, typer.Option(help="For --surge: another HorizontalPodAutoscaler (autoscaling/v2).")
    ] = None,
    usual: Annotated[
        float | None, typer.Option(help="For --surge: queries a second at the busiest hour without a sale.")
    ] = None,
    pod_start_s: Annotated[float, typer.Option(help="For --surge: until a new pod takes queries.", min=0)] = 20.0,
    node_s: Annotated[
        float, typer.Option(help="For --surge: until a node is there; beyond the least pods.", min=0)
    ] = 0.0,
    seeds: Annotated[int, typer.Option(help="For --surge: days that are simulated.", min=1, max=100)] = 1,
    compare: Annotated[
        bool, typer.Option("--compare", help="For --surge: other settings beside the shipped, the first sale only.")
    ] = False,
    measure: Annotated[
        Path | None, typer.Option(help="Measure this machine's stage costs, a minute, into a file.")
    ] = None,
    seconds: Annotated[float, typer.Option(help="For --measure: of each load.", min=1, max=600)] = _SECONDS,
    seed: Annotated[int, typer.Option(help="Of what is drawn.", min=0)] = 7,
    json: Annotated[bool, typer.Option("--json", help="For scripts.")] = False,
) -> None:
    """Plan a fleet for your numbers from measured stage costs; try the autoscaler on a sales day.

    With --surge exit code 1 if a day does not hold.
    """
    from deploy.capacity.demand import Demand, Prices, candidate_us_of
    from deploy.capacity.stages import load, save

    if compare and not surge:
        raise SettingsError("--compare", "1", "--surge beside it", "sluice capacity --surge --compare")
    console = Console(width=None if sys.stdout.isatty() else _WIDTH)
    if measure is not None:
        from deploy.capacity.measuring import measure as measured

        found = measured(columns, seconds, seed, lambda what: None if json else console.print(f"[dim]{what}[/]"))
        save(found, measure)
        _told(console, found, json)
        return
    if (flops is None) != (tflops is None):
        raise SettingsError("--flops", flops, "--tflops beside it, and the other way round", "both, or --candidate-us")
    if flops is not None and tflops is not None:
        candidate_us = candidate_us_of(flops, tflops)
    stages = load(costs) if costs is not None else load()
    demand = Demand(
        peak_s=peak,
        mean_s=mean,
        candidates=candidates,
        columns=columns,
        shown=shown,
        catalogue=catalogue,
        skew=skew,
        tier_rows=tier_rows,
        updates_s=updates,
        p99_ms=p99_ms,
        deadline_ms=deadline_ms,
        spare=spare,
        replicas_of_shard=replicas_of_shard,
        stream_hours=stream_hours,
        device=cast('Literal["cpu", "gpu"]', device),
        pass_us=pass_us,
        candidate_us=candidate_us,
        batch_candidates=batch_candidates,
        machine_cores=machine_cores,
        prices=Prices(price_core_hour, price_gpu_hour, price_memory_gb_hour, price_archive_gb_month),
    )
    if surge:
        settings = _surge(replace(demand, device="gpu"), stages, autoscaler, usual, pod_start_s, node_s)
        if compare:
            _compare(console, settings, seed, json)
        else:
            _simulate(console, settings, seed, seeds, json)
    elif plan:
        from deploy.capacity.orders import orders

        lines = orders(demand, stages)
        if json:
            print(to_json.dumps([asdict(line) for line in lines]))
        else:
            _show_orders(console, lines, stages)
    else:
        from deploy.capacity.fleet import plan as planned

        fleet = planned(demand, stages)
        if json:
            print(to_json.dumps(asdict(fleet) | {"bottleneck": fleet.bottleneck.name, "costs": asdict(stages)}))
        else:
            _show_fleet(console, fleet, stages)


def _told(console: Console, costs: "StageCosts", json: bool) -> None:
    if json:
        print(to_json.dumps(asdict(costs)))
        return
    table = _table("process", ">us a query of 100", ">of 1,000")
    for name in ("gateway", "worker", "forward", "archiver", "redis"):
        cost = getattr(costs, name)
        table.add_row(name, f"{cost.of(100):,.0f}", f"{cost.of(1000):,.0f}")
    console.print(f"{costs.machine}, {costs.date}", highlight=False)
    console.print(table)
    console.print(
        f"and {costs.gateway_turn:,.0f} us a turn of a gateway's loop, {costs.worker_batch:,.0f} us a worker's batch",
        highlight=False,
        soft_wrap=True,
    )


def _show_fleet(console: Console, fleet: "Fleet", costs: "StageCosts") -> None:
    demand = fleet.demand
    console.print(
        f"{demand.peak_s:,.0f} queries/s at the peak, {demand.usual_s:,.0f} on average, {demand.candidates} candidates "
        f"of {demand.catalogue:,} items, {demand.columns} columns, on {demand.device.upper()}",
        highlight=False,
    )
    console.print(f"[dim]costs measured {costs.date}: {costs.machine}{_assumed(demand)}[/]\n", highlight=False)
    table = _table("process", ">how many", ">in use", "of")
    for part in fleet.parts:
        mark = "  < the fullest" if part is fleet.bottleneck else ""
        table.add_row(part.name, f"{part.count:,}", f"{part.use:.0%}", f"{part.of}[yellow]{mark}[/]")
    console.print(table)
    worker = fleet.part("worker")
    rows = (
        ("p50 / p99, predicted", f"{fleet.p50_ms:.1f} / {fleet.p99_ms:.1f} ms (asked: {demand.p99_ms:g})"),
        ("a worker: given / most", f"{demand.peak_s / worker.count:,.0f} / {fleet.worker_capacity_s:,.0f} queries/s"),
        ("a worker: at work", f"{fleet.busy:.0%} of the time, {fleet.batch:.1f} queries a batch"),
        ("rows found in tiers", f"{fleet.hit_ratio:.1%}; Redis is asked for {fleet.row_reads_s:,.0f} rows/s"),
        ("Redis memory", f"{_bytes(fleet.memory_bytes)} once, rows and {demand.stream_hours:g} h of events"),
        (
            "events",
            f"{_bytes(fleet.event_bytes_s)}/s at peak; {fleet.events_day:,.0f}, {_bytes(fleet.event_bytes_day)} a day",
        ),
        ("archive", f"{_bytes(fleet.archive_bytes_day)} a day"),
        (
            "network",
            f"{fleet.network_bytes_s * 8 / 1e9:.2f} Gbit/s, {fleet.connections:,} connections gateway to worker",
        ),
        ("cost", f"{fleet.cost_hour:,.2f} an hour at this size"),
        (
            "cost of a million queries",
            f"{fleet.cost_million_fixed:,.3f} at this size all day, {fleet.cost_million_following:,.3f} with the load",
        ),
    )
    facts = Table(box=None, pad_edge=False, show_header=False)
    for what, value in rows:
        facts.add_row(what, value)
    console.print()
    console.print(facts, highlight=False)


def _show_orders(console: Console, lines: "list[Order]", costs: "StageCosts") -> None:
    demand = lines[0].fleet.demand
    console.print(
        f"{demand.candidates} candidates, {demand.columns} columns, {demand.catalogue:,} items, "
        f"on {demand.device.upper()}; "
        f"[dim]costs measured {costs.date}: {costs.machine}{_assumed(demand)}[/]\n",
        highlight=False,
    )
    table = _table(
        ">queries/s",
        ">gateways",
        ">workers",
        ">shards",
        ">archivers",
        ">monitors",
        ">p99 ms",
        ">events/day",
        ">archive/day",
        ">per million",
    )
    for line in lines:
        fleet = line.fleet
        shards = fleet.part("Redis: rows").count + fleet.part("Redis: events").count
        counts = (fleet.part("gateway").count, fleet.part("worker").count, shards)
        behind = (fleet.part("archiver").count, fleet.part("drift monitor").count)
        table.add_row(
            f"{line.rate_s:,.0f}",
            *(f"{count:,}" for count in counts + behind),
            f"{fleet.p99_ms:.1f}",
            _bytes(fleet.event_bytes_day),
            _bytes(fleet.archive_bytes_day),
            f"{fleet.cost_million_following:,.3f}",
        )
    console.print(table)
    for line in lines:
        console.print(f"\n[bold]up to {line.rate_s:,.0f}/s[/]", highlight=False)
        if not line.breaks:
            console.print(
                f"  nothing more is full; next at {line.next.rate_s:,.0f}/s: {line.next.what}", highlight=False
            )
        for number, limit in enumerate(line.breaks):
            first = "[yellow]first[/] " if not number else "then  "
            console.print(f"  {first}{limit.rate_s:>10,.0f}/s  {limit.what}", highlight=False, soft_wrap=True)
            console.print(f"  [dim]{'':>20}> {limit.do}[/]", highlight=False, soft_wrap=True)


def _surge(
    demand: "Demand", costs: "StageCosts", path: Path | None, usual: float | None, pod_start_s: float, node_s: float
) -> "Surge":
    from deploy.capacity.autoscaler_files import read, shipped
    from deploy.capacity.fleet import batch_server
    from deploy.capacity.sales_day import SalesDay
    from deploy.capacity.surge import PodTimes, Surge

    rule = shipped() if path is None else read(path)
    server = batch_server(demand, costs)
    tick_s = min(0.002, server.batch_s(1) / 2)
    if tick_s < 0.0002:
        raise SluiceError(
            f"a batch of one takes {server.batch_s(1) * 1e6:.0f} us: too short to simulate a day",
            "a --pass-us of 400 or more",
        )
    day = SalesDay(1.0)
    highest = max(day.rate_s(minute * 60.0) for minute in range(1440))
    # as many as fill the largest fleet to two thirds of what its batches can do
    usual = 0.57 * rule.most * server.capacity_s / highest if usual is None else usual
    if usual <= 0:
        raise SettingsError("--usual", usual, "more than 0 queries a second", "--usual 10000")
    return Surge(
        rule=rule,
        server=server,
        day=SalesDay(usual),
        deadline_s=demand.deadline_ms / 1e3,
        p99_ms=demand.p99_ms,
        pods=PodTimes(pod_start_s, node_s, rule.least if node_s else None),
        tick_s=tick_s,
    )


def _simulate(console: Console, settings: "Surge", seed: int, seeds: int, json: bool) -> None:
    """Days of the shipped settings. Raises SluiceError if one does not hold what is promised."""
    if not json:
        _show_settings(console, settings)
    with _simulator(settings, seed) as simulated:
        days = [simulated(f"day {1 + n} of {seeds}", settings, seed + n) for n in range(seeds)]
    if json:
        print(to_json.dumps([_day_json(day) for day in days]))
    else:
        for day in days:
            _show_day(console, day)
    if not all(day.holds for day in days):
        raise SluiceError(
            f"the day does not hold {settings.p99_ms:g} ms: p99 {max(day.p99_ms for day in days):.0f} ms, "
            f"{max(day.lost for day in days):.2%} lost",
            "a lower target of queries, a larger maxReplicas, nodes kept ready, or --compare",
        )


def _compare(console: Console, settings: "Surge", seed: int, json: bool) -> None:
    """The first sale with other settings beside the shipped."""
    from deploy.capacity.surge import variants

    if not json:
        _show_settings(console, settings)
    at_s = settings.day.sales[0].at_s
    with _simulator(settings, seed) as simulated:
        found = {
            name: simulated(name, variant, seed, at_s - 900, at_s + 1800)
            for name, variant in variants(settings).items()
        }
    if json:
        print(to_json.dumps({name: _day_json(day) for name, day in found.items()}))
    else:
        _show_variants(console, found)


@contextmanager
def _simulator(settings: "Surge", seed: int) -> Iterator[Callable[..., "SurgeDay"]]:
    """Simulates settings between two seconds of a day of its own seed, with a bar that has a name."""
    from deploy.capacity.sales_day import DAY_S
    from deploy.capacity.surge import Equilibrium, simulate

    with Progress(console=Console(stderr=True), transient=True) as bar:
        resting = Equilibrium(settings, seed)

        def simulated(words: str, of: "Surge", number: int, from_s: float = 0.0, to_s: float = DAY_S) -> "SurgeDay":
            task = bar.add_task(words, total=(to_s - from_s) / 60)
            return simulate(of, number, from_s, to_s, resting, on_minute=lambda _: bar.advance(task))

        yield simulated


def _show_settings(console: Console, settings: "Surge") -> None:
    rule, server = settings.rule, settings.server
    console.print(
        f"{rule.least} to {rule.most} workers; a batch: {server.fixed_s * 1e3:g} ms and "
        f"{server.per_query_s * 1e3:g} a query, "
        f"{server.most} at most: {server.capacity_s:,.0f} queries/s each",
        highlight=False,
    )
    console.print(
        f"autoscaler: {', '.join(f'{one.name} {one.target:g}' for one in rule.metrics)}; "
        f"metrics {settings.metric_age_s:g} s old, a pod takes {settings.pods.start_s:g} s\n",
        highlight=False,
        soft_wrap=True,
    )


def _day_json(day: "SurgeDay") -> dict[str, Any]:
    figures = (
        "queries",
        "one_by_one",
        "p50_ms",
        "p99_ms",
        "worst_minute_ms",
        "over",
        "lost",
        "worst_lost",
        "least_pods",
    )
    return {name: getattr(day, name) for name in (*figures, "most_pods", "pod_hours", "seed", "holds")} | {
        "minutes": [asdict(minute) for minute in day.minutes]
    }


def _show_variants(console: Console, found: "dict[str, SurgeDay]") -> None:
    table = _table(
        "around the first sale",
        ">p99 ms",
        ">worst minute",
        ">minutes over",
        ">lost",
        ">worst minute's",
        ">pods",
        ">pod hours",
    )
    for name, day in found.items():
        colour = "green" if not day.over else "yellow" if day.holds else "bold red"
        table.add_row(
            f"[{colour}]{name}[/]",
            f"{day.p99_ms:.0f}",
            f"{day.worst_minute_ms:.0f}",
            str(day.over),
            f"{day.lost:.3%}",
            f"{day.worst_lost:.2%}",
            f"{day.least_pods} to {day.most_pods}",
            f"{day.pod_hours:.1f}",
        )
    console.print(table)


def _show_day(console: Console, day: "SurgeDay") -> None:
    minutes = day.minutes
    width = 96
    spans = [minutes[place * len(minutes) // width : (place + 1) * len(minutes) // width] for place in range(width)]
    lines = (
        ("queries/s", [max(one.rate_s for one in span) for span in spans]),
        ("workers", [float(max(one.ready for one in span)) for span in spans]),
        ("p99", [max(one.p99_ms for one in span) for span in spans]),
    )
    for name, values in lines:
        top = max(values)
        bars = "".join(_BLOCKS[round(value / top * (len(_BLOCKS) - 1))] for value in values)
        console.print(f"{name:<10}{bars} {top:,.0f}", highlight=False, soft_wrap=True)
    hours = "".join(f"{hour:02d}:00".ljust(width // 8) for hour in range(0, 24, 3))
    console.print(f"{'':<10}[dim]{hours}[/]", highlight=False, soft_wrap=True)
    colour = "green" if day.holds else "bold red"
    console.print(
        f"\nseed {day.seed}: [{colour}]p99 {day.p99_ms:.1f} ms[/] over the day (bar {day.surge.p99_ms:g}), "
        f"worst minute {day.worst_minute_ms:.1f} ms, {day.over} of {len(minutes)} minutes over; "
        f"lost {day.lost:.4%}, in the worst minute {day.worst_lost:.2%}",
        highlight=False,
        soft_wrap=True,
    )
    console.print(
        f"{day.queries:,} queries, {day.one_by_one:,} of them one by one; {day.least_pods} to {day.most_pods} workers, "
        f"{day.pod_hours:,.0f} worker hours (always {day.surge.rule.most}: {day.surge.rule.most * 24})\n",
        highlight=False,
        soft_wrap=True,
    )


def _assumed(demand: "Demand") -> str:
    if demand.device == "gpu" and (demand.pass_us is None or demand.candidate_us is None):
        return "; of the GPU an assumption: say --pass-us and --candidate-us"
    return ""


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column.removeprefix(">"), justify="right" if column.startswith(">") else "left")
    return table


def _bytes(count: float) -> str:
    """
    >>> _bytes(1234.0), _bytes(5.6e12)
    ('1.23 KB', '5.6 TB')
    """
    for unit, size in (("PB", 1e15), ("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("KB", 1e3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count:.0f} B"
