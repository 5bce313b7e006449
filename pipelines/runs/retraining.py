"""The steps of a retraining: from clicks to a version that is measured on traffic, or to the reason why not.

    collect   the window's clicks as judgements, in parts of a week, and the champion they are to beat
    dataset   train, validation and test of them; lists of older weeks to be learnt again
    train     from the champion's weights, where they fit; with a checkpoint after each epoch
    export    the version as it will be served
    gate      against the champion on the newest lists: a veto
    register  the version gets its number, the evidence its version
    rollout   the version on its way to traffic

Whatever a step makes is a function of the run's record and of what the steps before left: done again after a kill, it
makes the same bytes. Side effects elsewhere (registry, evidence, rollout, the training's log) are found again by digest
or by the run's id.

Decisions

- The champion is the one of when the run began. Another one by the time of the rollout ends the run without one: the
  gate has not compared it.
- The gate's `failed` and `errored` end the run before anything is registered, and so does `inconclusive`: what could
  not be shown not to be worse gets no traffic by itself. The version's files stay with the run, for a person to decide.
- A champion from judged data is measured on the clicks anew, under the challenger's metric: refused, no model would
  ever begin to learn from clicks by itself.
- A window is collected once the archive has all of it, which its archiver says: by the clock alone, one that is behind
  would leave clicks out for good.
- Too few clicks are an outcome, not a failure: nothing is wrong, and there will be more.
- A rollout that cannot begin (another one is under way, its gate cannot finish or the year's alpha is spent) leaves
  the version registered, and says so.
"""

import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from pipelines.archive.files import Archive
from pipelines.dataset import DatasetSplits, RankingDataset
from pipelines.errors import DataRefused, NotYet, TrainingRefused
from pipelines.feedback.collection import Collected, CollectionRules, collect, window_folder
from pipelines.gates.log_evaluation import ScoredVersion, offline_evidence
from pipelines.gates.offline import OfflinePlan
from pipelines.runs.runner import Steps
from pipelines.runs.steps import StepContext, StepResult
from pipelines.settings import TrainSettings
from pipelines.training.export import export_package, weights_of
from pipelines.training.ranker import Weights
from pipelines.training.run_log import RunLog, epochs_to
from pipelines.training.splits import ClickSplits, TrainingReport, TrainingRules, replay_of, training_splits
from pipelines.training.train import TrainedRanker, fresh_ranker, train
from registry.artefacts import read, write
from registry.contracts.manifest import ATTRACTION_NDCG, Lineage, ModelPackage
from registry.contracts.rollouts import Evidence
from registry.contracts.runs import Run, RunKind
from registry.store import StoredVersion

log = logging.getLogger(__name__)

CHECKPOINT, REPLAY, REPORT, EVIDENCE, VERSION = (
    "checkpoint",
    "replay.parquet",
    "dataset.json",
    "evidence.json",
    "version",
)
LOOK_AGAIN_MS = 10_000  # at an archive that is behind


@dataclass(frozen=True, slots=True)
class Started:
    """What came of the wish for a rollout. rollout: its id, empty if there is none; why: in one line."""

    rollout: str
    why: str


@dataclass(frozen=True, slots=True)
class Retraining:
    """What the steps work with, handed over by `deploy`.

    collected: folder of collected windows. part_ms: longest window that is collected in one piece, and replay_windows
    how many older ones are looked for. on_collected: told of the newest window of each run once it is there; must not
    raise. archived_until: everything before is in the archive, ms since the epoch, or None if nobody has said so.
    champion: a model's, as registered and as it is served. register: gives the package's number, the same for the same
    package. evidence: keeps it, and says its id. rollout: starts one of a version of this run against that champion,
    once however often it is asked. run_log: the log of a run's training. All of them may raise StoreUnavailable;
    champion raises UnknownVersion.
    """

    archive: Archive
    collected: Path
    rules: CollectionRules
    champion: Callable[[str], tuple[StoredVersion, ModelPackage]]
    register: Callable[[str, ModelPackage], int]
    evidence: Callable[[Evidence], str]
    rollout: Callable[[Run, int, StoredVersion], Started]
    run_log: Callable[[Run], RunLog]
    archived_until: Callable[[], int | None]
    part_ms: int
    replay_windows: int = 8
    replay_lists: int = 20_000
    training: TrainingRules = field(default_factory=TrainingRules)
    settings: TrainSettings = field(default_factory=TrainSettings)
    on_collected: Callable[[Collected], None] = lambda collected: None
    plan: OfflinePlan = field(default_factory=lambda: OfflinePlan(metric=ATTRACTION_NDCG, champion_anew=True))


def retraining_steps(parts: Retraining) -> Mapping[RunKind, Steps]:
    """Of both kinds of runs, in their order."""
    own = {
        "collect": _collect,
        "dataset": _dataset,
        "train": _train,
        "export": _export,
        "gate": _gate,
        "register": _register,
        "rollout": _rollout,
    }
    return {
        "collect": {"collect": partial(_collect_window, parts)},
        "retrain": {name: partial(step, parts) for name, step in own.items()},
    }


def parts_of(since_ms: int, until_ms: int, part_ms: int) -> list[tuple[int, int]]:
    """The span in pieces of at most that length, counted back from its end, oldest first.

    >>> parts_of(0, 10, 4)
    [(0, 2), (2, 6), (6, 10)]
    """
    ends = range(until_ms, since_ms, -part_ms)
    return [(max(since_ms, end - part_ms), end) for end in reversed(ends)]


def _collect_window(parts: Retraining, context: StepContext) -> StepResult:
    """A collection of its own, by the week: what retrainings will find done."""
    run = context.run
    collected = _collected(parts, context, (run.since_ms, run.until_ms))
    record = collected.record
    parts.on_collected(collected)
    return StepResult(
        _window(collected) | {"bias": record.bias.method},
        f"{record.lists} lists with {record.quality.clicks} clicks, position bias by {record.bias.method}",
    )


def _collect(parts: Retraining, context: StepContext) -> StepResult:
    run = context.run
    stored, package = parts.champion(run.model)
    if not package.manifest.ranks or package.manifest.remote is not None:
        return StepResult({}, f"champion @{stored.version} does not rank by features here: nothing to train from")
    spans = parts_of(run.since_ms, run.until_ms, parts.part_ms)
    windows = []
    for number, span in enumerate(spans):
        windows.append(_collected(parts, context, span, number, len(spans)))
    parts.on_collected(windows[-1])
    usable = [one for one in windows if one.record.lists and one.record.bias.method != "none"]
    output = {
        "champion": stored.version,
        "champion_digest": stored.digest,
        "lists": sum(one.record.lists for one in usable),
        "clicks": sum(one.record.quality.clicks for one in usable),
        "windows": [_window(one) for one in usable],
        "left_out": [_window(one) | {"why": _unusable(one)} for one in windows if one not in usable],
        "older": [_window(one) for one in _older(parts, run)],
    }
    (context.folder / "windows.json").write_bytes(msgspec.json.encode(output))
    if not usable:
        return StepResult(output, f"nothing to learn from: {_unusable(windows[-1])}")
    return StepResult(output)


def _dataset(parts: Retraining, context: StepContext) -> StepResult:
    found = context.run.output_of("collect")
    _, package = parts.champion(context.run.model)
    view = package.manifest.feature_view()
    windows = _opened(parts, context.run, found["windows"])
    try:
        splits = training_splits(windows, view, parts.plan.metric, parts.training)
    except DataRefused as error:  # whole windows, of one model and one source: there is too little in them
        return StepResult({}, f"nothing to learn from: {error}")
    splits.save(context.folder)
    (context.folder / REPORT).write_bytes(splits.report.encode())
    replayed = 0
    if found["older"] and parts.replay_lists:
        context.report(0.8, "lists of older windows")
        try:
            replay = replay_of(_opened(parts, context.run, found["older"]), view, parts.replay_lists, parts.training)
            replay.save(context.folder / REPLAY)
            replayed = len(replay)
        except DataRefused as error:
            log.info("run %s: no replay: %s", context.run.id, error)
    output = {
        "train": len(splits.train),
        "validation": len(splits.validation),
        "test": len(splits.test),
        "replay": replayed,
        "digest": splits.train.digest,
    }
    return StepResult(output)


def _train(parts: Retraining, context: StepContext) -> StepResult:
    """The checkpoint of the last epoch is what is left: `train` called with it gives the model."""
    run, settings = context.run, parts.settings
    run_log = parts.run_log(run)
    run_log.params({"run": run.id, "window": " to ".join(_iso(run)), **_plain(settings)})
    run_log.tags({"sluice.run": run.id, "sluice.model": run.model})
    run_log.artefact("dataset.json", (context.left_by("dataset") / REPORT).read_bytes())
    checkpoint = context.scratch / CHECKPOINT
    tell = epochs_to(run_log, parts.plan.metric)

    def on_epoch(report: Any) -> None:
        tell(report)
        told = f"epoch {report.epoch} of {settings.max_epochs} at most, validation {report.validation_ndcg:.4f}"
        context.report(report.epoch / settings.max_epochs, told)

    trained, went_on = _trained(parts, context, checkpoint, on_epoch)
    run_log.end(succeeded=True)
    shutil.copyfile(checkpoint, context.folder / CHECKPOINT)
    output = {
        "epochs": len(trained.epochs),
        "best_epoch": trained.best.epoch,
        f"validation_ndcg@{parts.plan.metric.k}": trained.best.validation_ndcg,
        "parent": run.output_of("collect")["champion"] if went_on else 0,
        "log": run_log.run_id,
    }
    return StepResult(output)


def _export(parts: Retraining, context: StepContext) -> StepResult:
    run, found = context.run, context.run.output_of("train")
    checkpoint = context.scratch / CHECKPOINT
    shutil.copyfile(context.left_by("train") / CHECKPOINT, checkpoint)
    trained, _ = _trained(parts, context, checkpoint, lambda report: None)
    splits = _splits(context)
    lineage = Lineage(
        dataset=run.id,
        dataset_digest=splits.train.digest,
        training_window=_iso(run),
        parent=found["parent"] or None,
        seed=parts.settings.seed,
        run_id=found["log"],
    )
    package = export_package(
        trained, splits, run.model, lineage, run.created_ms, parts.plan.metric, f"retrained by run {run.id}"
    )
    write(package, context.folder / VERSION)
    return StepResult({"digest": package.digest} | package.manifest.metrics)


def _gate(parts: Retraining, context: StepContext) -> StepResult:
    """A veto: see the module's decisions."""
    run = context.run
    stored, champion = _champion_then(parts, run)
    package = read(context.left_by("export") / VERSION)
    newest = _opened(parts, run, run.output_of("collect")["windows"])[-1]
    evidence = offline_evidence(
        _splits(context),
        ScoredVersion(stored, champion),
        ScoredVersion.unregistered(package, run.created_ms),
        run.step.started_ms,
        parts.plan,
        newest,
    )
    (context.folder / EVIDENCE).write_bytes(evidence.encode())
    output = {"verdict": evidence.verdict, "why": evidence.why}
    if evidence.verdict == "passed":
        return StepResult(output)
    kept = parts.evidence(evidence)
    files = context.left_by("export") / VERSION
    words = {
        "failed": "not better: stopped at the offline gate",
        "inconclusive": "not proven: held at the offline gate",
        "errored": "not comparable: held at the offline gate",
    }[evidence.verdict]
    return StepResult(
        output | {"evidence": kept},
        f"{words} ({evidence.why}); evidence {kept[:12]}; the version lies in {files}: "
        f"`sluice models register {run.model} {files}` if you want it all the same",
    )


def _register(parts: Retraining, context: StepContext) -> StepResult:
    run = context.run
    version = parts.register(run.model, read(context.left_by("export") / VERSION))
    compared = Evidence.decode((context.left_by("gate") / EVIDENCE).read_bytes())
    kept = parts.evidence(msgspec.structs.replace(compared, challenger=version))
    return StepResult({"version": version, "evidence": kept})


def _rollout(parts: Retraining, context: StepContext) -> StepResult:
    run, version = context.run, context.run.output_of("register")["version"]
    stored, _ = _champion_then(parts, run)
    started = parts.rollout(run, version, stored)
    output = {"version": version, "rollout": started.rollout}
    if not started.rollout:
        return StepResult(output, f"version {version} is registered, and no rollout was started: {started.why}")
    return StepResult(output, f"version {version} is in rollout {started.rollout}")


def _trained(
    parts: Retraining, context: StepContext, checkpoint: Path, on_epoch: Callable[[Any], None]
) -> tuple[TrainedRanker, bool]:
    """The ranker, and whether it goes on from the champion's weights."""
    splits, folder = _splits(context), context.left_by("dataset")
    parent = _parent(parts, context, splits)
    replay = RankingDataset.load(folder / REPLAY) if (folder / REPLAY).exists() else None
    trained = train(splits, parts.settings, on_epoch, parent, parts.plan.metric, checkpoint, replay)
    return trained, parent is not None


def _parent(parts: Retraining, context: StepContext, splits: DatasetSplits) -> Weights | None:
    _, package = _champion_then(parts, context.run)
    weights = weights_of(package)
    if weights is None:
        return None
    try:
        fresh_ranker(splits.train, parts.settings, weights)
    except TrainingRefused as error:
        log.warning("run %s starts afresh: %s", context.run.id, error)
        return None
    return weights


def _champion_then(parts: Retraining, run: Run) -> tuple[StoredVersion, ModelPackage]:
    """The champion of when the run began. Raises DataRefused if there is another now."""
    stored, package = parts.champion(run.model)
    begun = run.output_of("collect")
    if stored.digest != begun["champion_digest"]:
        raise DataRefused(
            f"@{stored.version} has become champion since the run began with @{begun['champion']}: "
            f"`sluice runs retry {run.id} --from collect` compares with the one there is now"
        )
    return stored, package


def _collected(
    parts: Retraining, context: StepContext, span: tuple[int, int], part: int = 0, spans: int = 1
) -> Collected:
    """The judgements of a span, number `part` of so many."""
    since_ms, until_ms = span
    closes_ms = until_ms + parts.rules.cleaning.clicks_within_ms
    if context.now_ms() < closes_ms:
        raise NotYet(f"clicks can come until {_moment(closes_ms)}", closes_ms)
    if not window_folder(_folder(parts), context.run.model, since_ms, until_ms).exists():
        _check_archived(parts, closes_ms, context.now_ms())

    def on_hour(done: int, hours: int) -> None:
        told = f"hour {done} of {hours}" + (f", part {part + 1} of {spans}" if spans > 1 else "")
        context.report((part + done / hours) / spans, told)

    context.report(part / spans, f"part {part + 1} of {spans}")
    model, now_ms = context.run.model, context.now_ms()
    return collect(parts.archive, model, since_ms, until_ms, now_ms, _folder(parts), parts.rules, on_hour)


def _check_archived(parts: Retraining, closes_ms: int, now_ms: int) -> None:
    """Raises NotYet while events of the window may be on their way: what is collected stays as it is."""
    until_ms = parts.archived_until()
    if until_ms is None or until_ms < closes_ms:
        far = "no archiver has said how far the archive goes"
        if until_ms is not None:
            far = f"the archive is complete until {_moment(until_ms)} only"
        raise NotYet(
            f"{far}, and the window's clicks come until {_moment(closes_ms)}: see the archiver in `sluice status`",
            now_ms + LOOK_AGAIN_MS,
        )


def _folder(parts: Retraining) -> Path:
    """Windows that were collected by other rules are other windows."""
    told = msgspec.json.encode(parts.rules, order="deterministic")
    return parts.collected / f"rules={hashlib.sha256(told).hexdigest()[:12]}"


def _older(parts: Retraining, run: Run) -> list[Collected]:
    """The newest windows that were collected before this run's, with something in them, oldest first."""
    found = []
    for step in range(1, parts.replay_windows + 1):
        until_ms = run.since_ms - (step - 1) * parts.part_ms
        folder = window_folder(_folder(parts), run.model, until_ms - parts.part_ms, until_ms)
        if folder.exists():
            found.append(Collected.open(folder))
    usable = [one for one in found if one.record.lists and one.record.bias.method != "none"]
    return sorted(usable, key=lambda one: one.record.since_ms)


def _opened(parts: Retraining, run: Run, windows: Sequence[Mapping[str, Any]]) -> list[Collected]:
    """The windows of the step `collect`, as they were. Raises DataRefused if one is not."""
    found = []
    for window in windows:
        folder = window_folder(_folder(parts), run.model, window["since_ms"], window["until_ms"])
        there = Collected.open(folder)
        if there.record.digest != window["digest"]:
            raise DataRefused(f"{folder}: collected anew since: `sluice runs retry {run.id} --from collect`")
        found.append(there)
    return found


def _window(collected: Collected) -> dict[str, Any]:
    record = collected.record
    return {
        "since_ms": record.since_ms,
        "until_ms": record.until_ms,
        "digest": record.digest,
        "lists": record.lists,
        "clicks": record.quality.clicks,
    }


def _unusable(collected: Collected) -> str:
    record = collected.record
    if not record.lists:
        seen, others = record.quality.rankings, record.other_source
        return f"none of {seen} rankings counts, {others} have another source's clicks"
    return f"clicks could not be freed of position bias: {record.bias.why}"


def _splits(context: StepContext) -> ClickSplits:
    folder = context.left_by("dataset")
    splits = DatasetSplits.load(folder)
    report = msgspec.json.decode((folder / REPORT).read_bytes(), type=TrainingReport)
    return ClickSplits(splits.train, splits.validation, splits.test, report)


def _iso(run: Run) -> tuple[str, str]:
    since, until = (datetime.fromtimestamp(at_ms / 1000, UTC) for at_ms in (run.since_ms, run.until_ms))
    return since.isoformat(timespec="seconds"), until.isoformat(timespec="seconds")


def _moment(at_ms: int) -> str:
    return f"{datetime.fromtimestamp(at_ms / 1000, UTC):%Y-%m-%d %H:%M:%S} UTC"


def _plain(settings: TrainSettings) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(msgspec.json.encode(settings))
    return found
