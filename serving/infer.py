"""The use case beside `rank`: tensors in, tensors out, for any model. No HTTP, no sockets, no torch."""

import asyncio
import functools
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from registry.contracts.manifest import TensorSpec
from registry.contracts.traces import UNTRACED, Trace
from registry.contracts.traffic import TrafficPlan
from serving import metrics, statistics
from serving.begun import Begun
from serving.errors import Overloaded, QueryRefused, RankingError, ReplicaUnhealthy, UnknownModel
from serving.flow.retries import Attempts
from serving.frames import LoadedVersion
from serving.permits import Permits
from serving.rank import Ranker
from serving.replicas import ReplicaPool
from serving.router import Route
from serving.statistics import VersionStatistics
from serving.tally import CounterTally, HistogramTally
from serving.tensor_frames import ALL_OUTPUTS, MAX_OUTPUTS, InferredReply, InferRequest
from serving.tensors import Tensor
from serving.tracing.doors import HTTP_INFER, Door
from serving.tracing.spans import Stages
from serving.tracing.tracer import Tracer, of_model, tell_failed

CONTROL_WAIT_S = 60.0
CONTROL_LOOK_S = 0.02
CONTROL_OFF = "loading and unloading by API is off: start the platform with SLUICE_REPOSITORY_CONTROL=1"


class InferQuery(msgspec.Struct):
    """A request whose tensors are what their datatypes and shapes say; the model's own rules come later.

    version: None leaves the choice to the traffic plan. outputs: names wanted; empty means all.
    unit: whose arm is sticky; empty: the champion answers. priority: see `priority`.
    """

    model: str
    inputs: list[Tensor]
    outputs: tuple[str, ...] = ()
    version: int | None = None
    id: str = ""
    unit: str = ""
    priority: int = 0
    deadline_ms: int = 1000
    trace: Trace = UNTRACED
    door: Door = HTTP_INFER


class InferAnswer(msgspec.Struct):
    """outputs: in the order asked for, or the manifest's. stages_ms: where its time went."""

    model: str
    version: int
    id: str
    outputs: list[Tensor]
    parameters: Mapping[str, Any] = msgspec.field(default_factory=dict)
    stages_ms: Mapping[str, float] = msgspec.field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What a model is for those who send tensors. versions: loaded somewhere, ascending.

    max_rows: of one request. platform: what runs it.
    """

    model: str
    versions: tuple[int, ...]
    platform: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    batchable: bool
    max_rows: int


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """state: READY or UNAVAILABLE, and then the reason."""

    name: str
    version: str
    state: str
    reason: str


class InferService:
    """Answers tensor requests by the plans that the ranker follows.

    max_rows: of one request. tracer: see `Ranker`. control: makes the platform hold a model or not (name, wanted); None
    where that is not allowed.
    """

    def __init__(
        self,
        ranker: Ranker,
        pool: ReplicaPool,
        permits: Permits,
        max_rows: int,
        control: Callable[[str, bool], Awaitable[None]] | None = None,
        clock: Callable[[], float] = time.monotonic,
        tracer: Tracer | None = None,
    ) -> None:
        self._tracer = tracer
        self._ranker, self._permits = ranker, permits
        self._pool, self._fleet = pool, pool.fleet
        self._max_rows, self._control, self._clock = max_rows, control, clock
        self._named: dict[str, CounterTally] = {}
        self._total = HistogramTally(metrics.STAGE_SECONDS.labels("total")).observe
        self._hop = HistogramTally(metrics.STAGE_SECONDS.labels("hop")).observe
        self._queue = HistogramTally(metrics.STAGE_SECONDS.labels("queue")).observe
        self._device = HistogramTally(metrics.STAGE_SECONDS.labels("device")).observe

    async def infer(self, query: InferQuery, attempts: Attempts | None = None) -> InferAnswer:
        """One answer. attempts: what the query has behind it. Raises RankingError."""
        plan, route = self._ranker.plans.get(query.model), None
        began_s = self._clock()
        came_s = began_s if attempts is None else attempts.since_s(began_s)
        try:
            plan = self._plan(query.model)
            with self._permits.one(query.model, query.deadline_ms / 1000, self._clock):
                if query.version is None:
                    route = self._ranker.router.of_tensors(plan, query.unit)
                    return await self._answer(query, plan, route, route.version, came_s, attempts)
                self._check_version(query.version, plan)
                return await self._answer(query, plan, None, query.version, came_s)
        except RankingError as error:
            self._ranker.count_refused(query.model, plan, route, error)
            tell_failed(self._tracer, query, error, self._clock() - came_s)
            raise

    def begin(self, query: InferQuery, done: Callable[[InferAnswer | RankingError], None]) -> Callable[[], None] | None:
        """As `infer`, without a coroutine: `done` is called once, later, unless the query is taken back.

        Returns how to take it back; None if it must go the long way, through `infer`: it would be
        refused, or no replica can have it now.
        """
        plan = self._ranker.plans.get(query.model)
        if plan is None or query.version is not None or not self.may_begin(query.model):
            return None
        route, began_s = self._ranker.router.of_tensors(plan, query.unit), self._clock()
        allowed_s = query.deadline_ms / 1000
        deadline_s = began_s + allowed_s

        def settle(reply: InferredReply, loaded: LoadedVersion) -> InferAnswer:
            return self._settle(query, plan, route, route.version, loaded, reply, began_s)

        def again(left_ms: int, attempts: Attempts) -> Awaitable[InferAnswer]:
            query.deadline_ms = left_ms
            return self.infer(query, attempts)

        def refused(error: RankingError) -> None:
            self._ranker.count_refused(query.model, plan, route, error)
            tell_failed(self._tracer, query, error, self._clock() - began_s)

        begun = Begun(self._permits, query.model, self._clock, allowed_s, deadline_s, settle, again, refused, done)

        def build(loaded: LoadedVersion) -> InferRequest:
            begun.loaded = loaded
            return build_infer(query, loaded, self._max_rows)

        try:
            take_back = self._pool.begin(query.model, route.version, deadline_s, build, begun)
        except RankingError:
            return None
        return None if take_back is None else begun.start(take_back)

    def may_begin(self, model: str) -> bool:
        """Whether a query for the model may be begun now, as far as that can be told without the query."""
        ranker = self._ranker
        return model in ranker.plans and model not in ranker.held_back and self._permits.free(model)

    def refused_now(self, model: str) -> Overloaded | None:
        """See `Ranker.refused_now`."""
        return self._ranker.refused_now(model)

    def _count_named(self, model: str) -> None:
        """An answer by the version in the path: of no arm."""
        counted = self._named.get(model)
        if counted is None:
            counted = self._named[model] = CounterTally(metrics.ANSWERS.labels(model, "", 200))
        counted.inc()

    def describe(self, model: str, version: int | None = None) -> ModelInfo:
        """Inputs, outputs and loaded versions. Raises UnknownModel if nothing of it is served."""
        plan = self._plan(model)
        held = self._held(model)
        loaded = held.get(plan.champion if version is None else version)
        if loaded is None:
            raise _not_loaded(model, plan.champion if version is None else version, held)
        return ModelInfo(
            model=model,
            versions=tuple(sorted(held)),
            platform=loaded.platform,
            inputs=loaded.inputs,
            outputs=loaded.outputs,
            batchable=loaded.batchable,
            max_rows=self._max_rows,
        )

    def ready(self, model: str, version: int | None = None) -> bool:
        """Whether some replica holds the version, or the champion. Raises UnknownModel."""
        plan = self._plan(model)
        return (plan.champion if version is None else version) in self._held(model)

    def index(self, ready_only: bool = False) -> list[IndexEntry]:
        """Every version that a plan names or a replica holds."""
        entries = []
        for model, plan in sorted(self._ranker.plans.items()):
            held = self._held(model)
            for version in sorted(held.keys() | plan.versions().keys()):
                if version in held:
                    entries.append(IndexEntry(model, str(version), "READY", ""))
                elif not ready_only:
                    entries.append(IndexEntry(model, str(version), "UNAVAILABLE", self._why_not(model, version)))
        return entries

    def statistics(self, model: str | None = None, version: int | None = None) -> list[VersionStatistics]:
        """What has been done, over all replicas. Raises UnknownModel if the model or version is not there."""
        if model is not None:
            held = self._held(self._plan(model).model)
            if version is not None and version not in held:
                raise _not_loaded(model, version, held)
        totals = statistics.total(self._fleet.statistics())
        for name in self._ranker.plans:
            for held_version in self._held(name):
                totals.setdefault((name, held_version), VersionStatistics(name, held_version))
        return [
            one for (name, number), one in sorted(totals.items()) if model in (None, name) and version in (None, number)
        ]

    async def load(self, model: str) -> None:
        """Has the platform hold the model again. Raises QueryRefused where that is not allowed."""
        await self._hold(model, True)

    async def unload(self, model: str) -> None:
        """Has the platform let go of the model; its plan stays. Raises QueryRefused where that is not allowed."""
        await self._hold(model, False)

    async def _hold(self, model: str, wanted: bool) -> None:
        if self._control is None:
            raise QueryRefused(CONTROL_OFF)
        plan = self._ranker.plans.get(model)
        if plan is None:
            self._plan(model)  # says what there is
            return
        await self._control(model, wanted)
        until_s = self._clock() + CONTROL_WAIT_S
        while (model in self._ranker.held_back) is wanted or (plan.champion in self._held(model)) is not wanted:
            if self._clock() >= until_s:
                why = "; ".join(self._fleet.failures(model)) or "see `sluice status` and the workers' log"
                raise ReplicaUnhealthy(f"model {model!r} is not {'loaded' if wanted else 'unloaded'} yet: {why}")
            await asyncio.sleep(CONTROL_LOOK_S)

    def _why_not(self, model: str, version: int) -> str:
        if model in self._ranker.held_back:
            return "unloaded"
        return "; ".join(self._fleet.failures(model, version)) or "no replica holds it"

    def _plan(self, model: str) -> TrafficPlan:
        return self._ranker.plan_of(model)

    def _held(self, model: str) -> dict[int, LoadedVersion]:
        return {
            version: loaded
            for replica in self._fleet.replicas
            for (name, version), loaded in replica.held.items()
            if name == model
        }

    def _check_version(self, version: int, plan: TrafficPlan) -> None:
        if version not in plan.versions() and not self._fleet.has(plan.model, version):
            raise _not_loaded(plan.model, version, self._held(plan.model))

    async def _answer(
        self,
        query: InferQuery,
        plan: TrafficPlan,
        route: Route | None,
        version: int,
        came_s: float,
        attempts: Attempts | None = None,
    ) -> InferAnswer:
        """came_s: when the query did; its deadline is counted from now, its answer's time from then."""
        began_s = self._clock()
        deadline_s = began_s + query.deadline_ms / 1000
        reply, loaded = await self._pool.infer(
            query.model, version, deadline_s, functools.partial(build_infer, query, max_rows=self._max_rows), attempts
        )
        return self._settle(query, plan, route, version, loaded, reply, came_s)

    def _settle(
        self,
        query: InferQuery,
        plan: TrafficPlan,
        route: Route | None,
        version: int,
        loaded: LoadedVersion,
        reply: InferredReply,
        began_s: float,
    ) -> InferAnswer:
        """The answer, counted. route: None if the query names its version."""
        outputs = reply.outputs
        if len(outputs) == 1 or not query.outputs:
            tensors = [tensor for _, tensor in outputs]
        else:
            by_place = dict(outputs)
            tensors = [by_place[place] for place in output_places(query, loaded)]
        total_s = self._clock() - began_s
        queue_s, device_s = reply.queue_us / 1e6, (reply.gather_us + reply.device_us) / 1e6
        self._queue(queue_s)
        self._device(device_s)
        self._hop(max(0.0, total_s - queue_s - device_s))
        self._total(total_s)
        if route is None:
            self._count_named(query.model)
        else:
            self._ranker.count_answer(query.model, plan, route, total_s, bool(route.without))
        if self._tracer is not None:
            self._trace(self._tracer, query, version, reply, total_s)
        return InferAnswer(query.model, version, query.id, tensors)

    def _trace(self, tracer: Tracer, query: InferQuery, version: int, reply: InferredReply, total_s: float) -> None:
        """Tells of the answer, if it is one that is told of."""
        tracer.answered(
            query.trace,
            query.door,
            total_s,
            lambda: of_model(query.model, version),
            lambda: Stages(reply.queue_us, reply.gather_us, reply.device_us),
            f"infer {query.model}@{version}",
        )


def rows_of(query: InferQuery) -> int:
    """How many candidates it counts for in quotas: dimension 0 of its first input, 1 of a scalar."""
    shape = query.inputs[0].shape if query.inputs else ()
    return shape[0] if shape else 1


def build_infer(query: InferQuery, loaded: LoadedVersion, max_rows: int) -> InferRequest:
    """The query in the loaded version's terms. Raises QueryRefused, naming the tensor and the rule."""
    inputs = fitting_inputs(query, loaded, max_rows)
    wanted = ALL_OUTPUTS
    if query.outputs and (query.outputs != loaded.output_names or len(query.outputs) > MAX_OUTPUTS):
        wanted = sum([1 << place for place in output_places(query, loaded)])
    return InferRequest(0, 0, inputs, wanted, 0, query.priority)


def fitting_inputs(query: InferQuery, loaded: LoadedVersion, max_rows: int) -> list[Tensor]:
    """The query's inputs in the manifest's order.

    Raises QueryRefused, naming the tensor and the rule, if one is missing, unknown, repeated, of
    another datatype or shape, or has too many rows.
    """
    given, specs = query.inputs, loaded.inputs
    if len(given) == 1 and len(specs) == 1 and given[0].name == specs[0].name:
        _check_fit(given[0], specs[0], loaded)
        _check_rows(given, loaded, max_rows)
        return given
    by_name = {tensor.name: tensor for tensor in given}
    names = [spec.name for spec in specs]
    if len(by_name) < len(given):
        repeated = next(tensor.name for tensor in given if by_name[tensor.name] is not tensor)
        raise QueryRefused(f"input {repeated!r}: given twice")
    if unknown := [name for name in by_name if name not in names]:
        raise QueryRefused(f"input {unknown[0]!r}: {loaded.model}@{loaded.version} takes {', '.join(names)}")
    if missing := [name for name in names if name not in by_name]:
        raise QueryRefused(f"input {missing[0]!r}: missing, {loaded.model}@{loaded.version} takes {', '.join(names)}")
    ordered = [by_name[name] for name in names]
    for tensor, spec in zip(ordered, specs, strict=True):
        _check_fit(tensor, spec, loaded)
    _check_rows(ordered, loaded, max_rows)
    return ordered


def output_places(query: InferQuery, loaded: LoadedVersion) -> Sequence[int]:
    """Where the wanted outputs stand in the manifest, in the order asked for.

    Raises QueryRefused if one is unknown or asked for twice.
    """
    if not query.outputs:
        return range(len(loaded.outputs))
    names = [output.name for output in loaded.outputs][:MAX_OUTPUTS]
    places = []
    for name in query.outputs:
        if name not in names:
            raise QueryRefused(f"output {name!r}: {loaded.model}@{loaded.version} gives {', '.join(names)}")
        places.append(names.index(name))
    if len(set(places)) < len(places):
        raise QueryRefused(f"outputs: {list(query.outputs)} names one twice")
    return places


def _check_fit(tensor: Tensor, spec: TensorSpec, loaded: LoadedVersion) -> None:
    if tensor.datatype != spec.datatype:
        raise QueryRefused(f"input {tensor.name!r}: datatype {tensor.datatype}, expected {spec.datatype}")
    if not _fits(tensor.shape, spec.shape):
        shape, expected = list(tensor.shape), list(spec.shape)
        raise QueryRefused(f"input {tensor.name!r}: shape {shape}, expected {expected} (-1: any size)")


@functools.lru_cache(maxsize=1024)
def _fits(shape: tuple[int, ...], expected: tuple[int, ...]) -> bool:
    """Whether a shape is one that is expected; -1 is any size."""
    return len(shape) == len(expected) and all(
        wanted in (-1, size) for size, wanted in zip(shape, expected, strict=True)
    )


def _check_rows(ordered: Sequence[Tensor], loaded: LoadedVersion, max_rows: int) -> None:
    """Dimension 0 of a batchable version counts rows, and is the same for all inputs."""
    if not loaded.batchable:
        return
    rows = -1
    for tensor in ordered:
        if not tensor.shape:
            raise QueryRefused(f"input {tensor.name!r}: a scalar, expected rows in dimension 0")
        if rows not in (-1, tensor.shape[0]):
            raise QueryRefused(
                f"input {tensor.name!r}: {tensor.shape[0]} rows, but {ordered[0].name!r} has {ordered[0].shape[0]}"
            )
        rows = tensor.shape[0]
    if not 1 <= rows <= max_rows and rows != -1:
        raise QueryRefused(f"input {ordered[0].name!r}: {rows} rows, expected 1 to {max_rows}")


def _not_loaded(model: str, version: int, held: Mapping[int, LoadedVersion]) -> UnknownModel:
    known = ", ".join(map(str, sorted(held))) or "none"
    return UnknownModel(f"version {version} of model {model!r} is not loaded (loaded: {known})")
