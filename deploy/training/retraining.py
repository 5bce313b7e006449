"""What runs of pipelines are given: archive, registry, tables, the log of training, and the way to a rollout."""

import functools
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import msgspec

from deploy import wiring
from deploy.models.copies import local_version
from deploy.settings import PlatformSettings
from deploy.telemetry.open import exporter_of
from pipelines.runs.drift_trigger import DriftRule
from pipelines.runs.runner import Steps
from pipelines.runs.schedule import Period
from pipelines.runs.tasks import RunWiring
from pipelines.runs.tick import Schedule
from pipelines.settings import RetrainSettings, RunSettings, parse_limits, parse_retraining, parse_train
from registry import rollout_moves
from registry.contracts.drift import ShiftRecord
from registry.contracts.rollouts import RolloutSpec, default_spec
from registry.contracts.runs import Run, RunKind
from registry.errors import AnsweredBefore, RolloutConflict, StaleRevision, StoreUnavailable, UnknownVersion
from registry.receipts import Receipt
from registry.rollouts import RolloutControl
from registry.runs import SqlRuns
from registry.store import StoredVersion

if TYPE_CHECKING:
    from pipelines.gates.planning import GatePlanner
    from pipelines.runs.retraining import Retraining, Started
    from registry.contracts.manifest import ModelPackage

log = logging.getLogger(__name__)

CALLER = "pipelines"  # whose receipts rollouts of runs are
TRIES = 10
DAY_MS = 86_400_000
SETTLE_MORE_MS = 60_000  # after the last click may come, until the archive has it


def run_wiring(settings: PlatformSettings) -> RunWiring:
    """For the Celery app. Nothing is opened yet."""
    mine = parse_retraining(settings.retraining, settings.retrain_anchor)
    exporter = exporter_of(settings)
    return RunWiring(
        store=lambda: SqlRuns(wiring.traffic_control(settings).engine),
        steps=lambda: steps(settings, mine),
        folder=settings.runs_folder,
        served=Served(settings),
        schedule=schedule(mine),
        drift=lambda model: drift(settings, model),
        settings=run_settings(settings),
        tell=exporter.send if exporter else None,
    )


def run_settings(settings: PlatformSettings) -> RunSettings:
    """With the limits that the platform was told."""
    found = RunSettings()
    return replace(found, limits=dict(found.limits) | parse_limits(settings.run_limits))


def schedule(mine: RetrainSettings) -> Schedule:
    """Collection by the week and retraining by the fortnight, unless told otherwise; drift beside them."""
    settle_ms = int(mine.clicks_within_s * 1000) + SETTLE_MORE_MS
    periods: dict[RunKind, Period] = {}
    if mine.collect_days:
        periods["collect"] = Period(mine.anchor_ms, mine.part_ms, settle_ms)
    if mine.days:
        periods["retrain"] = Period(mine.anchor_ms, mine.window_ms, settle_ms, newest_only=True)
    rule = DriftRule(int(mine.cool_down_days * DAY_MS), mine.window_ms) if mine.cool_down_days else None
    return Schedule(periods, rule)


def drift(settings: PlatformSettings, model: str) -> tuple[ShiftRecord, ...]:
    """The newest verdicts on the model's champion. Raises StoreUnavailable."""
    from registry.drift_board import RedisDriftBoard, latest_drift

    return latest_drift(RedisDriftBoard(wiring.redis_client(settings)), model)


class Served:
    """Models that learn from clicks, and since when each is served: those whose champion ranks by features here."""

    def __init__(self, settings: PlatformSettings) -> None:
        self._settings = settings
        self._born_ms: dict[str, int] = {}
        self._ranks: dict[str, bool] = {}  # by digest, they never change

    def __call__(self) -> Mapping[str, int]:
        """By name. Raises StoreUnavailable."""
        control = wiring.traffic_control(self._settings)
        found = {}
        for model in control.models():
            plan = control.plan(model)
            if plan is not None and self._learns(model, plan.champion, plan.champion_digest):
                if model not in self._born_ms:
                    self._born_ms[model] = control.history(model)[0].at_ms
                found[model] = self._born_ms[model]
        return found

    def _learns(self, model: str, version: int, digest: str) -> bool:
        """As its copy on this machine says; one that no worker has loaded here is asked for later."""
        from registry.artefacts import read
        from registry.contracts.errors import ContractError
        from registry.errors import RegistryError

        folder = self._settings.versions_folder / model / str(version)
        if digest not in self._ranks and folder.exists():
            try:
                manifest = read(folder).manifest
            except (OSError, ContractError, RegistryError) as error:
                log.warning("whether %s@%d can be retrained is not known: %s", model, version, error)
                return False
            self._ranks[digest] = manifest.ranks and manifest.remote is None
        return self._ranks.get(digest, False)


def steps(settings: PlatformSettings, mine: RetrainSettings) -> Mapping[RunKind, Steps]:
    """Of both kinds of runs. Imports what trains, so it is for the process that does a step."""
    from pipelines.runs.retraining import retraining_steps

    return retraining_steps(retraining(settings, mine))


def retraining(settings: PlatformSettings, mine: RetrainSettings) -> "Retraining":
    """Over the platform's archive, registry and tables. MLflow is asked only by the steps that need it."""
    from deploy.verdicts.calibration import Calibrations
    from pipelines.archive.completeness import complete_until
    from pipelines.archive.files import Archive
    from pipelines.feedback.bias_evidence import BiasRules
    from pipelines.feedback.cleaning import CleaningRules
    from pipelines.feedback.collection import CollectionRules
    from pipelines.gates.planning import GatePlanner
    from pipelines.runs.retraining import Retraining
    from pipelines.settings import parse_gates
    from registry.drift_board import RedisDriftBoard

    control = wiring.traffic_control(settings)
    archive = Archive(settings.archive_folder)
    planner = GatePlanner(archive, parse_gates(settings.gates))
    store = functools.cache(lambda: wiring.model_store(settings))
    simulated = mine.source == "simulated"
    rules = CollectionRules(
        source="simulated" if simulated else "people",
        cleaning=CleaningRules(clicks_within_ms=int(mine.clicks_within_s * 1000)),
        bias=BiasRules(most_error=mine.bias_error),
    )

    def champion(model: str) -> tuple[StoredVersion, "ModelPackage"]:
        plan = control.plan(model)
        if plan is None:
            raise UnknownVersion(f"model {model!r} has no champion: promote a version first")
        package = local_version(settings, model, plan.champion, plan.champion_digest)
        manifest = package.manifest
        return StoredVersion(model, plan.champion, plan.champion_digest, manifest, manifest.created_ms), package

    def rollout(run: Run, version: int, champion: StoredVersion) -> "Started":
        challenger = store().get(run.model, version)
        spec = default_spec() if not simulated else of_simulated_clicks(default_spec())
        return start_once(control, planner, run, challenger, champion, spec, bool(mine.underpowered), _now_ms)

    calibrations = Calibrations(archive, lambda: RedisDriftBoard(wiring.redis_client(settings)))
    return Retraining(
        archive=archive,
        collected=settings.collected_folder,
        rules=rules,
        champion=champion,
        register=lambda model, package: store().register(model, package),
        evidence=control.add_evidence,
        rollout=rollout,
        run_log=lambda run: wiring.run_log(store(), run.model, run.id, run.id),
        part_ms=mine.part_ms,
        replay_windows=mine.replay_windows,
        replay_lists=mine.replay_lists,
        archived_until=lambda: complete_until(settings.archive_folder),
        on_collected=calibrations.keep,
        settings=parse_train(settings.train),
    )


def of_simulated_clicks(spec: RolloutSpec) -> RolloutSpec:
    """The spec with gates that count a click model's clicks."""
    steps = tuple(
        msgspec.structs.replace(step, gate=msgspec.structs.replace(step.gate, simulated=True)) if step.gate else step
        for step in spec.steps
    )
    return msgspec.structs.replace(spec, steps=steps)


def start_once(
    control: RolloutControl,
    planner: "GatePlanner",
    run: Run,
    challenger: StoredVersion,
    champion: StoredVersion,
    spec: RolloutSpec,
    underpowered: bool,
    now_ms: Callable[[], int],
) -> "Started":
    """A rollout of the run's version, once: under a receipt of the run's id, in the transaction that starts it.

    underpowered: also where its gate is not sure to come to an answer. What stands in the way is the answer, not an
    error. Raises StoreUnavailable.
    """
    from pipelines.runs.retraining import Started

    for _ in range(TRIES):
        if (receipt := control.receipt(CALLER, run.id)) is not None:
            return msgspec.json.decode(receipt.response, type=Started)
        plan, rollouts = control.plan(run.model), control.rollouts(run.model)
        # receipts are kept for a week: a run may be retried later than that
        if mine := [one for one in rollouts if one.challenger_digest == challenger.digest]:
            return Started(mine[0].id, f"it is {mine[0].state}")
        if plan is None or plan.champion_digest != champion.digest:
            return Started(
                "", f"another version than @{champion.version} is champion by now: the gate did not compare it"
            )
        at_ms = now_ms()
        planned = planner.plan(run.model, spec, plan, rollout_moves.ROLLOUT_LAYER, rollouts, at_ms)
        if words := planned.refusal(underpowered=underpowered, over_budget=False):
            return Started("", words)
        words = f"{run.notes[0].why} (run {run.id})"
        try:
            decision = rollout_moves.start(plan, challenger, planned.as_it_is, who=CALLER, why=words, now_ms=at_ms)
            started = Started(decision.moves[0].rollout.id, words)
            response = msgspec.json.encode(started).decode()
            receipt = Receipt(CALLER, run.id, "start_rollout", challenger.digest, 201, response, at_ms)
            control.decide(replace(decision, receipt=receipt))
        except (StaleRevision, AnsweredBefore):
            continue  # somebody was quicker: perhaps this very run
        except RolloutConflict as error:
            return Started("", str(error))
        return started
    raise StoreUnavailable(f"the traffic of {run.model!r} changed {TRIES} times meanwhile")


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
