"""The package of a version whose program others exported and logged in MLflow."""

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from registry.contracts.errors import ContractError
from registry.contracts.features import FeatureView
from registry.contracts.manifest import JUDGED_NDCG, Lineage, ModelManifest, ModelPackage, TensorSpec
from registry.contracts.profile import ReferenceProfile, confidences, describe, no_profile
from registry.errors import RefusedVersion
from registry.mlflow_foreign import ForeignModel

MIN_PROFILE_ROWS = 100  # with less, what drift compares with would be noise
EXPORT_ROWS = 'dynamic_shapes={"features": {0: torch.export.Dim("rows", min=1)}}'
QUERY_INDEX = "query_index"
SCORES = "scores"


@dataclass(frozen=True, slots=True)
class Adopted:
    """profiled_rows: of the input example that the reference profile was fitted on, 0 if there is none."""

    package: ModelPackage
    profiled_rows: int


def adopted_package(model: str, foreign: ForeignModel, view: FeatureView | None) -> Adopted:
    """The version as it would be registered, its program run before.

    view: what a ranker sees of a candidate, its columns the model's; None: the model takes tensors only.
    Equal foreign models give equal packages. Raises RefusedVersion if the program does not run, or is not
    what its signature or the view says.
    """
    from serving.device.flat import UnfitProgram
    from serving.program import TorchProgram, warm_up
    from serving.program_signature import read_signature

    try:
        found = read_signature(foreign.program)
        inputs = _named("input", found.inputs, foreign.inputs)
        outputs = _named("output", found.outputs, foreign.outputs)
        if view:
            _check_ranker(foreign.source, inputs, outputs, view)
            if len(outputs) == 1:
                outputs = (msgspec.structs.replace(outputs[0], name=SCORES),)
        manifest = ModelManifest(
            model=model,
            inputs=inputs,
            outputs=outputs,
            view=view.to_json() if view else {},
            fingerprint=view.fingerprint if view else "",
            metric=JUDGED_NDCG,
            metrics={},  # theirs were not measured under our definition
            lineage=Lineage(
                dataset=foreign.dataset or f"unknown: {foreign.source}",
                dataset_digest=foreign.dataset_digest,
                run_id=foreign.run_id,
                code_version=foreign.code_version,
            ),
            created_ms=foreign.created_ms,
            description=". ".join(filter(None, (f"Adopted from {foreign.source}", foreign.description))),
            batchable=found.batchable,
        )
        package = ModelPackage.of(foreign.program, manifest, no_profile())
        program = TorchProgram(package, "cpu")
        if not view:
            return Adopted(package, 0)
        warm_up(program, len(view.columns))
    except UnfitProgram as error:
        raise RefusedVersion(f"{foreign.source}: {error}") from error
    except (ContractError, ValueError) as error:
        raise RefusedVersion(f"{foreign.source} cannot be served as {model!r}: {error}") from error
    rows = _example(foreign, view)
    scores = program.score(rows, np.zeros(len(rows), dtype=np.int64)) if len(rows) else np.zeros(0, np.float32)
    profile = _profile(foreign, view, rows, scores)
    return Adopted(ModelPackage.of(foreign.program, manifest, profile), len(rows))


def _named(what: str, found: Sequence[TensorSpec], told: Sequence[TensorSpec] | None) -> tuple[TensorSpec, ...]:
    """The program's tensors under their signature's names. Raises RefusedVersion where the two disagree."""
    if told is None:
        return tuple(found)
    if len(told) != len(found):
        raise RefusedVersion(
            f"its signature has {len(told)} {what}s, the program {len(found)}: log it with its own signature"
        )
    by_name = {spec.name: spec for spec in told}
    if by_name.keys() == {spec.name for spec in found}:
        told = [by_name[spec.name] for spec in found]
    for spec, own in zip(told, found, strict=True):
        rows = f": export it with {EXPORT_ROWS}" if spec.shape[:1] == (-1,) != own.shape[:1] else ""
        fits = len(spec.shape) == len(own.shape) and all(
            size == mine or mine == -1 for size, mine in zip(spec.shape, own.shape, strict=True)
        )
        if spec.datatype != own.datatype or not fits:
            raise RefusedVersion(
                f"{what} {spec.name or own.name!r} is {_told(spec)} in its signature, {_told(own)} in the program{rows}"
            )
    return tuple(
        msgspec.structs.replace(own, name=spec.name or own.name) for spec, own in zip(told, found, strict=True)
    )


def _told(spec: TensorSpec) -> str:
    return f"{spec.datatype} {list(spec.shape)}"


def _check_ranker(source: str, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], view: FeatureView) -> None:
    wanted = TensorSpec("", "FP32", (-1, len(view.columns)))
    matrices = [spec for spec in inputs if spec.name != QUERY_INDEX]
    others = [spec for spec in inputs if spec.name == QUERY_INDEX]
    scores = [spec for spec in outputs if spec.name == SCORES] or list(outputs[:1])
    if (
        [msgspec.structs.replace(spec, name="") for spec in matrices] != [wanted]
        or any(_told(spec) != "INT64 [-1]" for spec in others)
        or [_told(spec) for spec in scores] not in (["FP32 [-1]"], ["FP32 [-1, 1]"])
    ):
        taken = ", ".join(f"{spec.name} {_told(spec)}" for spec in inputs)
        given = ", ".join(f"{spec.name} {_told(spec)}" for spec in outputs)
        raise RefusedVersion(
            f"{source} takes {taken} and gives {given}: a ranker over view {view.name!r} takes {_told(wanted)} (and "
            f"{QUERY_INDEX} INT64 [-1] if it looks at whole lists) and gives scores FP32 [-1]; "
            "adopt it without --view, or export it so"
        )


def _example(foreign: ForeignModel, view: FeatureView) -> NDArray[np.float32]:
    """The rows of the input example, if they are the view's and enough of them."""
    columns = len(view.columns)
    fits = len(foreign.example) >= MIN_PROFILE_ROWS and all(len(row) == columns for row in foreign.example)
    return np.array(foreign.example if fits else np.zeros((0, columns)), dtype=np.float32)


def _profile(
    foreign: ForeignModel, view: FeatureView, rows: NDArray[np.float32], scores: NDArray[np.float32]
) -> ReferenceProfile:
    """Of the example's rows as one list; without any, drift is `errored`, as nothing can be compared."""
    if not len(rows):
        population = f"none: {foreign.source} came with fewer than {MIN_PROFILE_ROWS} example rows"
        return msgspec.structs.replace(no_profile(), fingerprint=view.fingerprint, population=population)
    spread = describe("scores", scores)
    sureness = confidences(scores[np.newaxis], np.array([len(scores)], dtype=np.int64), spread.std)
    return ReferenceProfile(
        fingerprint=view.fingerprint,
        population=f"the {len(rows)} rows of the input example of {foreign.source}, as one list",
        lists=1,
        features=tuple(describe(column.name, rows[:, place]) for place, column in enumerate(view.columns)),
        scores=spread,
        margin=describe("margin", sureness.margin),
        entropy=describe("entropy", sureness.entropy),
    )
