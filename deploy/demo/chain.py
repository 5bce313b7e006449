"""The main job on real data, step by step: features in, ranker trained, version out, queries through.

Every step can be repeated: what is there already and fits is reused.
"""

import dataclasses
import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deploy import wiring
from deploy.client import GatewayClient
from deploy.control.client import ControlClient, model_path
from deploy.demo.replay import Replayer, ServedList
from deploy.errors import NotReady, NotRunning, SluiceError
from deploy.models.copies import local_version
from deploy.settings import PlatformSettings
from pipelines.archive.files import Archive
from pipelines.dataset import DatasetSplits, RankingDataset
from pipelines.feedback.click_ndcg import evidence as click_evidence
from pipelines.ndcg import mean_ndcg
from registry.contracts.errors import ContractError
from registry.contracts.manifest import JUDGED_NDCG, Lineage, ModelPackage

Progress = Callable[[int, int], None]
"""done, of how many."""

SERVED_WITHIN_S = 60.0
ARCHIVED_WITHIN_S = 60.0
MAX_DISAGREEMENT = 1e-6


@dataclass(frozen=True, slots=True)
class DemoData:
    """What the demo ranks. model: the name it is served under; title: what it is, in words."""

    model: str
    title: str
    splits: DatasetSplits


@dataclass(frozen=True, slots=True)
class DemoReport:
    """What came of it. archived_rankings: of `queries`, found in the Parquet archive at the end.
    click_ndcg: computed from the archive alone, over the simulated clicks of this replay."""

    model: str
    version: int
    queries: int
    counted: int
    served_ndcg: float
    offline_ndcg: float
    given_order_ndcg: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    degraded: int
    clicks: int
    archived_rankings: int
    archived_clicks: int
    click_ndcg: float

    @property
    def agrees(self) -> bool:
        """Whether serving ranks exactly as the offline evaluation says it does."""
        return math.isclose(self.served_ndcg, self.offline_ndcg, rel_tol=0, abs_tol=MAX_DISAGREEMENT)


def ingest(settings: PlatformSettings, data: DemoData, on_rows: Progress) -> int:
    """Writes the items' stored columns into Redis. Returns how many rows there are."""
    from deploy.features.store import feature_client
    from serving.features.materialiser import write_rows

    view = data.splits.view
    if not len(view.positions("row")):
        return 0
    stored = data.splits.stored_rows()
    total = len(stored.item_ids)
    client = feature_client(settings, wiring.REDIS_TIMEOUT_S)
    write_rows(client, view, stored.item_ids, stored.values, _now_ms(), lambda done: on_rows(done, total))
    return total


def current_champion(settings: PlatformSettings, data: DemoData) -> tuple[int, ModelPackage] | None:
    """The champion, if it was trained on just this data and its verified copy is at hand."""
    plan = wiring.traffic_control(settings).plan(data.model)
    if plan is None:
        return None
    try:
        package = local_version(settings, data.model, plan.champion, plan.champion_digest)
        manifest = package.manifest
        fits = manifest.lineage.dataset_digest == data.splits.train.digest
        return (plan.champion, package) if fits and manifest.feature_view() == data.splits.view else None
    except (OSError, ContractError):
        return None


def train_champion(settings: PlatformSettings, data: DemoData, on_epoch: Progress) -> tuple[int, ModelPackage]:
    """Trains, registers and promotes. Returns version and package."""
    from pipelines.settings import TrainSettings
    from pipelines.training.export import export_package
    from pipelines.training.train import train

    how = TrainSettings()
    trained = train(data.splits, how, lambda report: on_epoch(report.epoch, how.max_epochs))
    store = wiring.model_store(settings)
    run_id = store.record_training(
        data.model,
        data.title,
        params=dataclasses.asdict(how),
        curves={
            "loss": [report.loss for report in trained.epochs],
            "validation_ndcg@10": [report.validation_ndcg for report in trained.epochs],
        },
        now_ms=_now_ms(),
    )
    lineage = Lineage(dataset=data.title, dataset_digest=data.splits.train.digest, seed=how.seed, run_id=run_id)
    package = export_package(trained, data.splits, data.model, lineage, created_ms=_now_ms())
    version = store.register(data.model, package)
    evidence = {"metrics": package.manifest.metrics, "run_id": run_id}
    with ControlClient.local(settings, "sluice demo") as control:
        control.post(
            model_path(data.model, "promote"),
            {"version": version, "why": "first ranker of this data", "evidence": evidence},
        )
    return version, package


def wait_until_served(settings: PlatformSettings, model: str, version: int) -> None:
    """Until a gateway has the version as champion on a warm replica.

    Raises NotReady after a minute.
    """
    until_s = time.monotonic() + SERVED_WITHIN_S
    while time.monotonic() < until_s:
        try:
            with GatewayClient.of(settings) as gateway:
                status = gateway.get("/v1/status")
        except NotRunning:
            status = {"plans": {}, "replicas": []}
        planned = status["plans"].get(model, {}).get("champion") == version
        if planned and any(f"{model}@{version}" in replica["versions"] for replica in status["replicas"]):
            return
        time.sleep(0.1)
    raise NotReady(f"{model}@{version} is not served after {SERVED_WITHIN_S:g} s", "sluice logs worker-0")


def replay(
    settings: PlatformSettings, data: DemoData, version: int, package: ModelPackage, seed: int, on_answer: Progress
) -> DemoReport:
    """Held-out queries through HTTP, clicks after them, and the figures of both.

    Raises SluiceError if a query fails.
    """
    test = data.splits.test
    began_ms = _now_ms()
    answered = 0
    lock = threading.Lock()

    def told(_: ServedList) -> None:
        nonlocal answered
        with lock:
            answered += 1
            on_answer(answered, len(test))

    replayer = Replayer(settings, data.model, test.view, JUDGED_NDCG, seed=seed)
    served = replayer.run(test, told)
    if strangers := {answer.version for answer in served} - {version}:
        raise SluiceError(f"versions {sorted(strangers)} answered, not {version}", "sluice status")
    found = wait_until_archived(settings, data.model, served)
    clicked = click_evidence(Archive(settings.archive_folder), data.model, began_ms, _now_ms() + 1)
    ndcgs = np.array([answer.ndcg for answer in served])
    latencies = np.array([answer.latency_ms for answer in served])
    return DemoReport(
        model=data.model,
        version=version,
        queries=len(served),
        counted=int((~np.isnan(ndcgs)).sum()),
        served_ndcg=float(np.nanmean(ndcgs)),
        offline_ndcg=offline_ndcg(package, test),
        given_order_ndcg=mean_ndcg(test.labels, np.zeros(len(test.labels)), test.offsets, JUDGED_NDCG).mean,
        p50_ms=float(np.percentile(latencies, 50)),
        p95_ms=float(np.percentile(latencies, 95)),
        p99_ms=float(np.percentile(latencies, 99)),
        degraded=sum(bool(answer.degraded) for answer in served),
        clicks=sum(answer.clicks for answer in served),
        archived_rankings=found[0],
        archived_clicks=found[1],
        click_ndcg=next((arm.mean for arm in clicked.arms if arm.version == version and arm.simulated), math.nan),
    )


def offline_ndcg(package: ModelPackage, dataset: RankingDataset) -> float:
    """The same program and lists without any server."""
    from pipelines.training.export import offline_scores

    return mean_ndcg(dataset.labels, offline_scores(package, dataset), dataset.offsets, JUDGED_NDCG).mean


def wait_until_archived(settings: PlatformSettings, model: str, served: Sequence[ServedList]) -> tuple[int, int]:
    """How many of these rankings, and of their clicks, the archive holds; all, or what is there
    after a minute."""
    archive = Archive(settings.archive_folder)
    wanted = {answer.ranking_id for answer in served}
    clicks = sum(answer.clicks for answer in served)
    until_s = time.monotonic() + ARCHIVED_WITHIN_S
    while True:
        found = archived(archive, model, wanted)
        if found == (len(wanted), clicks) or time.monotonic() > until_s:
            return found
        time.sleep(0.2)


def archived(archive: Archive, model: str, ranking_ids: set[str]) -> tuple[int, int]:
    """Rankings and feedback events of these ids, each counted once."""
    now_ms = _now_ms()
    since_ms = now_ms - 3_600_000
    rankings = archive.rankings(model, since_ms, now_ms + 60_000).column("ranking_id").to_pylist()
    feedback = archive.feedback(model, since_ms, now_ms + 60_000).column("ranking_id").to_pylist()
    return len(ranking_ids.intersection(rankings)), sum(ranking_id in ranking_ids for ranking_id in feedback)


def default_model_name(path: Path | None) -> str:
    """A model's name from where its data lies.

    >>> default_model_name(None), default_model_name(Path("/data/MSLR WEB10K"))
    ('codesearch', 'mslr-web10k')
    """
    if path is None:
        return "codesearch"
    kept = "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in path.stem.lower())
    return kept.strip("-")[:64] or "judged"


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
