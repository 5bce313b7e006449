"""A version on its way into a worker: verified, loaded, warm."""

from collections.abc import Callable
from functools import partial
from typing import cast

from registry.artefacts import read
from registry.cache import VersionCache
from registry.contracts.features import FeatureView
from serving.device.opening import device_ranker, open_program
from serving.device.streams import Lane
from serving.features.device import DeviceTier
from serving.features.freshness import ValueCounts
from serving.features.host import HostTier
from serving.features.suspects import CheckRule
from serving.features.tier import RowTier
from serving.features.tiers import Tiers
from serving.footprint import Footprint, PeakMemory
from serving.loaded import LoadedProgram
from serving.passes import learn_score_pass, learn_tensor_pass
from serving.program import Program, TorchProgram, warm_up
from serving.scoring import LoadedModel
from serving.settings import WorkerSettings

SLAB_ROW_BYTES = 84  # of a row in the host slab, beside its values: key, age, count, its share of the sketch at most


def open_version(
    cache: VersionCache,
    tiers: Tiers,
    rows: Callable[[FeatureView], RowTier],
    mine: WorkerSettings,
    lane: Lane | None,
    model: str,
    version: int,
    digest: str,
) -> LoadedProgram:
    """A version, verified, loaded and warm; one that runs elsewhere, found fit over there.

    rows: the store of a view's rows. lane: of the worker's GPU, None on a CPU.
    """
    package = read(cache.get(model, version, digest))
    manifest = package.manifest
    on_cpu = manifest.remote is None and lane is None
    calls, release = None, _nothing
    if manifest.remote is None:
        program: Program = open_program(package, mine.device, mine.precision, mine.compile)
        platform = "pytorch_export"
    else:
        from serving.triton import open_remote  # 0.4 s and 20 MB: for those who have such a version

        program = remote = open_remote(manifest, mine.triton_servers)
        platform, calls, release = remote.platform, remote.calls, remote.close
    loads = partial(
        LoadedProgram,
        model=model,
        version=version,
        digest=digest,
        program=program,
        inputs=manifest.inputs,
        outputs=manifest.outputs,
        batchable=manifest.batchable,
        platform=platform,
        calls=calls,
        release=release,
    )
    if not manifest.ranks:
        pass_rows = learn_tensor_pass(program, manifest) if on_cpu and manifest.batchable else 0
        return loads(footprint=Footprint(len(package.program)), pass_rows=pass_rows)
    view = manifest.feature_view()
    columns = len(view.positions("row"))

    def tier() -> HostTier:
        rule = CheckRule(mine.check_rows_per_s, mine.check_within_s)
        defaults = view.defaults[view.positions("row")]
        # the second store is for the thread that fetches ahead: its client's pool gives it connections of its own
        counts = ValueCounts(view)
        told = counts if lane is None else None
        host = HostTier(view.name, rows(view), mine.slab_rows, defaults, told, rule, rows(view))
        if lane is None:
            return host
        above = DeviceTier(view.name, host, mine.device_rows, columns, lane.device, rule, counts=counts)
        # forgets what changed as a host tier does, which is what a worker's tiers are asked for
        return cast(HostTier, above)

    with PeakMemory(mine.device) as memory:
        warm_up(program, len(view.columns))
        pass_rows = learn_score_pass(program, len(view.columns)) if on_cpu else 0
    host_row_bytes = 4 * columns + view.missing_bytes + SLAB_ROW_BYTES
    slab_bytes = mine.device_rows * 4 * columns if lane else mine.slab_rows * host_row_bytes
    device_bytes = memory.bytes if manifest.remote is None else 0
    loaded = LoadedModel(
        **loads.keywords,  # as a version that takes tensors has them, which it is too
        footprint=Footprint(len(package.program), device_bytes, {view.fingerprint: slab_bytes}),
        view=view,
        tier=tiers.of(view.name, view.fingerprint, tier),
        reference_std=package.profile.scores.std,
        pass_rows=pass_rows,
    )
    if lane is not None and isinstance(program, TorchProgram):
        loaded.ranker = device_ranker(loaded, program, lane, mine.batch_candidates, mine.graphs)
    return loaded


def _nothing() -> None:
    """There is nothing to let go of."""
