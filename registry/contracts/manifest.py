"""ModelManifest: everything about a version except its weights, and the digest over all of it.

A version is three files: the exported program, the manifest, the reference profile. Its digest
is the SHA-256 over their lengths and bytes, so nobody can exchange one of them unseen.
"""

import hashlib
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from registry.contracts.errors import UNDECODABLE, ContractError
from registry.contracts.features import FeatureView
from registry.contracts.profile import ReferenceProfile

PROGRAM_FILE = "program.pt2"
MANIFEST_FILE = "manifest.json"
PROFILE_FILE = "profile.json"
SIGNATURES_FILE = "signatures.json"


class MetricDefinition(msgspec.Struct, frozen=True):
    """What "NDCG" means in a decision. Figures of different definitions are never compared.

    name: what the labels are: `ndcg`, judgements or clicks; `attraction_ndcg`, estimates of how likely an item is to
    be clicked when it is looked at. gain: `exponential` is 2**label - 1, `linear` is label. empty_lists: those
    without a relevant item are left out and counted, or score zero.
    """

    name: Literal["ndcg", "attraction_ndcg"] = "ndcg"
    k: int = 10
    gain: Literal["exponential", "linear"] = "exponential"
    discount: Literal["log2"] = "log2"
    ties: Literal["served_order"] = "served_order"
    empty_lists: Literal["left_out", "zero"] = "left_out"

    @property
    def digest(self) -> str:
        """16 hex characters."""
        return hashlib.sha256(msgspec.json.encode(self, order="deterministic")).hexdigest()[:16]


JUDGED_NDCG = MetricDefinition()
CLICK_NDCG = MetricDefinition(gain="linear", empty_lists="zero")
ATTRACTION_NDCG = MetricDefinition(name="attraction_ndcg", gain="linear")


class TensorSpec(msgspec.Struct, frozen=True):
    """datatype: in the Open Inference Protocol's words (FP32, INT64 …); shape: -1 is dynamic."""

    name: str
    datatype: str
    shape: tuple[int, ...]


class RemoteModel(msgspec.Struct, frozen=True):
    """A model that a remote inference server runs; such a version has an empty program.

    server: name of the server in the platform's settings (an address would not survive a move).
    model: its name there; version: there, empty for the server's own choice.
    """

    server: str
    model: str
    version: str = ""
    kind: Literal["triton"] = "triton"


class Lineage(msgspec.Struct, frozen=True):
    """Where a version comes from.

    parent: version it was trained on from, None for the first. training_window: ISO 8601 times,
    empty for data without time. seed: of the training run. run_id: MLflow's, empty outside.
    """

    dataset: str
    dataset_digest: str
    training_window: tuple[str, str] = ("", "")
    parent: int | None = None
    seed: int = 0
    run_id: str = ""
    code_version: str = ""


class ModelManifest(msgspec.Struct, frozen=True):
    """The contract of one version.

    view: its feature view in plain form, see `feature_view`; empty, with an empty fingerprint,
    for a model that takes tensors only and is not asked to rank. metrics: offline figures under
    `metric`, by name ("ndcg@10" and the like).
    batchable: dimension 0 of every input and output counts rows, and rows of different requests
    may share a forward pass (an input named `query_index` keeps their lists apart).
    remote: where the model runs if not here.
    """

    model: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    view: dict[str, Any]
    fingerprint: str
    metric: MetricDefinition
    metrics: dict[str, float]
    lineage: Lineage
    created_ms: int
    description: str = ""
    batchable: bool = True
    remote: RemoteModel | None = None
    schema: int = 1

    @property
    def ranks(self) -> bool:
        """Whether the model has a feature view, so that `/rank` can ask it."""
        return bool(self.view)

    def feature_view(self) -> FeatureView:
        """Raises ContractError if there is none, or its fingerprint is not the manifest's."""
        if not self.ranks:
            raise ContractError(f"model {self.model!r} has no feature view: it takes tensors only")
        view = FeatureView.from_json(self.view)
        if view.fingerprint != self.fingerprint:
            raise ContractError(
                f"model {self.model!r}: its feature view has fingerprint {view.fingerprint}, "
                f"the manifest says {self.fingerprint}: register the version again"
            )
        return view

    def encode(self) -> bytes:
        """Canonical JSON."""
        return msgspec.json.encode(self, order="deterministic")

    @staticmethod
    def decode(raw: bytes) -> "ModelManifest":
        """Raises ContractError naming what does not fit."""
        try:
            return msgspec.json.decode(raw, type=ModelManifest)
        except UNDECODABLE as error:
            raise ContractError(f"not a model manifest: {error}") from error


@dataclass(frozen=True, slots=True)
class ModelPackage:
    """A version's three files as bytes: what is stored, moved and verified.

    signatures_json: who vouches for their digest, see `registry.signatures`; may be empty, and is no part of what the
    version is: another signature does not make another version.
    """

    program: bytes
    manifest_json: bytes
    profile_json: bytes
    signatures_json: bytes = field(default=b"", compare=False)

    @staticmethod
    def of(program: bytes, manifest: ModelManifest, profile: ReferenceProfile) -> "ModelPackage":
        return ModelPackage(program, manifest.encode(), profile.encode())

    @property
    def manifest(self) -> ModelManifest:
        return ModelManifest.decode(self.manifest_json)

    @property
    def profile(self) -> ReferenceProfile:
        return ReferenceProfile.decode(self.profile_json)

    @property
    def digest(self) -> str:
        """SHA-256, 64 hex characters, over each file's length and bytes."""
        total = hashlib.sha256()
        for part in (self.program, self.manifest_json, self.profile_json):
            total.update(len(part).to_bytes(8, "big"))
            total.update(part)
        return total.hexdigest()

    def files(self) -> dict[str, bytes]:
        """By file name."""
        files = {PROGRAM_FILE: self.program, MANIFEST_FILE: self.manifest_json, PROFILE_FILE: self.profile_json}
        return {**files, SIGNATURES_FILE: self.signatures_json} if self.signatures_json else files
