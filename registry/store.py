"""ModelStore: immutable model versions by number, and the aliases that name some of them."""

import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from registry.artefacts import verify
from registry.contracts.ids import model_name
from registry.contracts.manifest import ModelManifest, ModelPackage
from registry.errors import RefusedVersion, UnknownVersion
from registry.signatures import ANYBODY, Signer, TrustedKeys


@dataclass(frozen=True, slots=True)
class StoredVersion:
    """What a store knows of a version without opening its program.

    run_id: of the MLflow run that holds the training curves, empty without MLflow.
    archived_ms: since when it is archived, 0 if it is not. condemned: marked to be deleted, see `retirement`.
    untrusted: why it may not be loaded here, as far as its signatures go; empty if it may.
    """

    model: str
    version: int
    digest: str
    manifest: ModelManifest
    created_ms: int
    run_id: str = ""
    archived_ms: int = 0
    condemned: bool = False
    untrusted: str = ""

    @property
    def servable(self) -> bool:
        """Whether it may be given traffic."""
        return not (self.archived_ms or self.condemned or self.untrusted)


class ModelStore(Protocol):
    """Where versions live. Every method may raise StoreUnavailable."""

    def register(self, model: str, package: ModelPackage) -> int:
        """The package's version number, from 1 up: a new one, or the one it got before (by digest).
        No number is given twice, though its version be deleted. A version that is there gets the package's
        signatures in place of its own, if there are any, and a store with a signing key adds one to them.

        Raises RefusedVersion if the package fails `artefacts.verify` or is of another model,
        InvalidName if the model's name breaks its rule.
        """
        ...

    def get(self, model: str, version: int) -> StoredVersion:
        """Raises UnknownVersion."""
        ...

    def package(self, model: str, version: int) -> ModelPackage:
        """The version's files, verified. Raises UnknownVersion, RefusedVersion if they were changed."""
        ...

    def versions(self, model: str) -> list[StoredVersion]:
        """Ascending; empty if there are none."""
        ...

    def models(self) -> list[str]:
        """The names of all models, sorted."""
        ...

    def aliases(self, model: str) -> dict[str, int]:
        """Version by alias; empty if there are none."""
        ...

    def set_alias(self, model: str, alias: str, version: int) -> None:
        """Makes or moves the alias. Raises UnknownVersion."""
        ...

    def drop_alias(self, model: str, alias: str) -> None:
        """Removes the alias, if it is there."""
        ...

    def archive(self, model: str, version: int, now_ms: int) -> None:
        """Marks the version as archived, since now_ms if it was not. Raises UnknownVersion."""
        ...

    def unarchive(self, model: str, version: int) -> None:
        """Takes that mark away, if it is there. Raises UnknownVersion."""
        ...

    def show_traffic(self, model: str, words: Mapping[int, str]) -> None:
        """Shows on each version what it is in the traffic plan, in words; on one that is not named, nothing.
        For eyes: nothing is decided by it."""
        ...

    def condemn(self, model: str, version: int, wanted: bool) -> None:
        """Marks the version to be deleted, or takes that mark away. Raises UnknownVersion."""
        ...

    def delete(self, model: str, version: int) -> None:
        """Deletes the version with its files and aliases; one that is gone already is no error.

        Raises RefusedVersion if it was not condemned before; `retirement` says who may be.
        """
        ...


def check_package(model: str, package: ModelPackage, trusted: TrustedKeys = ANYBODY) -> ModelManifest:
    """The manifest of a package that may be registered under this name.

    Raises RefusedVersion, InvalidName.
    """
    manifest = verify(package, package.digest, trusted)
    if manifest.model != model_name(model):
        raise RefusedVersion(f"the manifest is of model {manifest.model!r}: register it under that name, not {model!r}")
    return manifest


def unknown_version(model: str, version: int) -> UnknownVersion:
    """The error that every store raises for a version that it does not have."""
    return UnknownVersion(f"there is no version {version} of model {model!r}: `sluice models list` shows what there is")


def not_condemned(model: str, version: int) -> RefusedVersion:
    """The error that every store raises instead of deleting such a version."""
    return RefusedVersion(f"version {version} of model {model!r} is not condemned: `sluice models gc` deletes versions")


class MemoryStore:
    """Versions inside one process; safe for several threads. signer, trusted: see `MlflowStore`."""

    def __init__(self, signer: Signer | None = None, trusted: TrustedKeys = ANYBODY) -> None:
        self._signer, self._trusted = signer, trusted
        self._lock = threading.Lock()
        self._packages: dict[str, list[ModelPackage | None]] = {}  # None: deleted
        self._archived_ms: dict[tuple[str, int], int] = {}
        self._condemned: set[tuple[str, int]] = set()
        self._aliases: dict[str, dict[str, int]] = {}

    def register(self, model: str, package: ModelPackage) -> int:
        """See `ModelStore`."""
        package = self._signer.signed(package) if self._signer else package
        check_package(model, package, self._trusted)
        with self._lock:
            known = self._packages.setdefault(model, [])
            if package not in known:
                known.append(package)
            at = known.index(package)
            if package.signatures_json:
                known[at] = package
            return at + 1

    def get(self, model: str, version: int) -> StoredVersion:
        """See `ModelStore`."""
        package = self._package(model, version)
        manifest = package.manifest
        stored = StoredVersion(model, version, package.digest, manifest, manifest.created_ms)
        key = (model, version)
        return replace(
            stored,
            archived_ms=self._archived_ms.get(key, 0),
            condemned=key in self._condemned,
            untrusted=self._trusted.refusal(package.digest, package.signatures_json),
        )

    def package(self, model: str, version: int) -> ModelPackage:
        """See `ModelStore`; nobody can change a package in memory."""
        package = self._package(model, version)
        self._trusted.check(package.digest, package.signatures_json)
        return package

    def versions(self, model: str) -> list[StoredVersion]:
        """See `ModelStore`."""
        there = [number for number, package in enumerate(self._packages.get(model, []), 1) if package]
        return [self.get(model, number) for number in there]

    def models(self) -> list[str]:
        """See `ModelStore`."""
        return sorted(model for model, packages in self._packages.items() if any(packages))

    def aliases(self, model: str) -> dict[str, int]:
        """See `ModelStore`."""
        return dict(self._aliases.get(model, {}))

    def set_alias(self, model: str, alias: str, version: int) -> None:
        """See `ModelStore`."""
        self._package(model, version)
        with self._lock:
            self._aliases.setdefault(model, {})[alias] = version

    def drop_alias(self, model: str, alias: str) -> None:
        """See `ModelStore`."""
        with self._lock:
            self._aliases.get(model, {}).pop(alias, None)

    def archive(self, model: str, version: int, now_ms: int) -> None:
        """See `ModelStore`."""
        self._package(model, version)
        self._archived_ms.setdefault((model, version), now_ms)

    def unarchive(self, model: str, version: int) -> None:
        """See `ModelStore`."""
        self._package(model, version)
        self._archived_ms.pop((model, version), None)

    def show_traffic(self, model: str, words: Mapping[int, str]) -> None:
        """See `ModelStore`; nobody looks into memory."""

    def condemn(self, model: str, version: int, wanted: bool) -> None:
        """See `ModelStore`."""
        self._package(model, version)
        with self._lock:
            (self._condemned.add if wanted else self._condemned.discard)((model, version))

    def delete(self, model: str, version: int) -> None:
        """See `ModelStore`."""
        try:
            self._package(model, version)
        except UnknownVersion:
            return
        with self._lock:
            if (model, version) not in self._condemned:
                raise not_condemned(model, version)
            self._packages[model][version - 1] = None
            aliases = self._aliases.get(model, {})
            for alias in [alias for alias, named in aliases.items() if named == version]:
                del aliases[alias]

    def _package(self, model: str, version: int) -> ModelPackage:
        known = self._packages.get(model, [])
        package = known[version - 1] if 1 <= version <= len(known) else None
        if package is None:
            raise unknown_version(model, version)
        return package
