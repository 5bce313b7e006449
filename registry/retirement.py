"""Archiving versions and deleting archived ones, never one that is in use.

In use is what a plan names (champion, experiments, overrides), the champion that a rollback would go to,
the parent of any of these and of any version that is not archived, what an alias names, and what a rollout
holds. That can change while we look, so a version is deleted in three steps:

1. It is condemned: from here on nobody who asks `ServableVersions` for it gets it.
2. The plan takes a revision more, with a line in its history: who decided on the one before it has lost his
   compare-and-set, and who decides on the new one asks for the version afterwards, and does not get it.
3. What is in use now is spared; the rest is deleted.

What a rollback would go to is looked up at that revision: after another rollback it is an older one, which,
archived, could not have had traffic again anyway.

So whoever gives traffic to a version must read the plan first and ask for the version then. A crash leaves
condemned versions that nobody new can use; the next collection deletes or spares them.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from registry.contracts.manifest import ModelPackage
from registry.contracts.traffic import TrafficPlan
from registry.errors import RefusedVersion, StaleRevision
from registry.promotion import Promoter, previous_champion
from registry.store import ModelStore, StoredVersion
from registry.traffic_control import TrafficChange, TrafficControl

ATTEMPTS = 20


class ServableVersions:
    """A ModelStore whose `get` refuses what may have no traffic: for whoever decides on some."""

    def __init__(self, store: ModelStore) -> None:
        self._store = store

    def get(self, model: str, version: int) -> StoredVersion:
        """Raises RefusedVersion if it is archived, about to be deleted or of nobody who is trusted, UnknownVersion."""
        stored = self._store.get(model, version)
        if stored.condemned:
            raise RefusedVersion(f"version {version} of model {model!r} is being deleted: register it again")
        if stored.archived_ms:
            raise RefusedVersion(
                f"version {version} of model {model!r} is archived: `sluice models unarchive {model} {version}` first"
            )
        if stored.untrusted:
            raise RefusedVersion(f"{model}@{version} may have no traffic: {stored.untrusted}")
        return stored

    def register(self, model: str, package: ModelPackage) -> int:
        """See `ModelStore`."""
        return self._store.register(model, package)

    def package(self, model: str, version: int) -> ModelPackage:
        """See `ModelStore`."""
        return self._store.package(model, version)

    def versions(self, model: str) -> list[StoredVersion]:
        """See `ModelStore`."""
        return self._store.versions(model)

    def models(self) -> list[str]:
        """See `ModelStore`."""
        return self._store.models()

    def aliases(self, model: str) -> dict[str, int]:
        """See `ModelStore`."""
        return self._store.aliases(model)

    def set_alias(self, model: str, alias: str, version: int) -> None:
        """See `ModelStore`."""
        self._store.set_alias(model, alias, version)

    def drop_alias(self, model: str, alias: str) -> None:
        """See `ModelStore`."""
        self._store.drop_alias(model, alias)

    def archive(self, model: str, version: int, now_ms: int) -> None:
        """See `ModelStore`."""
        self._store.archive(model, version, now_ms)

    def unarchive(self, model: str, version: int) -> None:
        """See `ModelStore`."""
        self._store.unarchive(model, version)

    def show_traffic(self, model: str, words: Mapping[int, str]) -> None:
        """See `ModelStore`."""
        self._store.show_traffic(model, words)

    def condemn(self, model: str, version: int, wanted: bool) -> None:
        """See `ModelStore`."""
        self._store.condemn(model, version, wanted)

    def delete(self, model: str, version: int) -> None:
        """See `ModelStore`."""
        self._store.delete(model, version)


@dataclass(frozen=True, slots=True)
class Collected:
    """What a collection did to one model. deleted: version numbers; kept: archived ones and why they stay.

    dry: whether `deleted` is only what would be.
    """

    model: str
    deleted: tuple[int, ...] = ()
    kept: Mapping[int, str] = field(default_factory=dict)
    dry: bool = False


def in_use(
    plan: TrafficPlan | None,
    history: Sequence[TrafficChange],
    versions: Sequence[StoredVersion],
    aliases: Mapping[str, int],
    rollouts: Collection[int] = (),
) -> dict[int, str]:
    """What must not be deleted, and why; whether it is stored or not.

    rollouts: versions that a rollout which has not ended holds.
    """
    used: dict[int, str] = {}
    if plan:
        used[plan.champion] = "the champion"
        for experiment in plan.experiments:
            used.setdefault(experiment.version, f"in experiment {experiment.name!r}")
        for override in plan.overrides:
            used.setdefault(override.version, f"for tester {override.unit!r}")
    for version in rollouts:
        used.setdefault(version, "in a rollout")
    if (previous := previous_champion(history)) is not None:
        used.setdefault(previous, "the champion that a rollback goes to")
    for alias, version in aliases.items():
        used.setdefault(version, f"alias {alias!r}")
    users = {stored.version: stored for stored in versions if stored.version in used or stored.servable}
    for stored in users.values():
        if (parent := stored.manifest.lineage.parent) is not None:
            used.setdefault(parent, f"the parent of {stored.version}")
    return used


class Retirement:
    """Archives versions and collects archived ones, beside others who change plans; run one collection
    at a time.

    rollouts: the versions of a model that a rollout which has not ended holds.
    """

    def __init__(
        self,
        store: ModelStore,
        control: TrafficControl,
        promoter: Promoter,
        rollouts: Callable[[str], Collection[int]] = lambda model: (),
    ) -> None:
        self._store, self._control, self._promoter, self._rollouts = store, control, promoter, rollouts

    def archive(self, model: str, version: int, now_ms: int) -> None:
        """No traffic for this version from here on, and it may be collected; archived once is archived.

        Raises UnknownVersion, and RefusedVersion if a plan or a rollout has it now.
        """
        self._store.get(model, version)
        self._refuse_in_traffic(model, version)
        self._store.archive(model, version, now_ms)
        try:
            self._refuse_in_traffic(model, version)  # somebody may have been quicker
        except RefusedVersion:
            self._store.unarchive(model, version)
            raise

    def unarchive(self, model: str, version: int) -> None:
        """The version may have traffic again. Raises UnknownVersion, RefusedVersion if it is being deleted."""
        self._store.unarchive(model, version)
        ServableVersions(self._store).get(model, version)  # a collection may have been quicker

    def collect(
        self, model: str, *, keep: int, archived_before_ms: int, who: str, now_ms: int, dry: bool = False
    ) -> Collected:
        """Deletes archived versions that are not in use.

        keep: so many of the archived ones, the newest, stay. archived_before_ms: those archived later stay.
        Raises StaleRevision if the plan changes faster than we can look, StoreUnavailable; what is condemned
        by then is no loss, see above.
        """
        plan = self._control.plan(model)
        unservable = [stored for stored in self._store.versions(model) if not stored.servable]
        archived = [stored for stored in unservable if not stored.condemned]
        kept = {
            stored.version: "not archived long enough"
            for stored in archived
            if stored.archived_ms >= archived_before_ms
        }
        kept |= {stored.version: f"one of the {keep} newest" for stored in archived[max(0, len(archived) - keep) :]}
        used = self._in_use(model)
        kept |= {stored.version: used[stored.version] for stored in archived if stored.version in used}
        if plan is None:
            reason = "the model never had traffic: nothing says what will be in use"
            kept |= {stored.version: reason for stored in unservable}
        due = [stored.version for stored in unservable if stored.version not in kept]
        if dry or not due:
            return Collected(model, tuple(due), kept, dry)
        for version in due:
            self._store.condemn(model, version, wanted=True)
        self._fence(model, due, who, now_ms)
        used = self._in_use(model)
        for version in due:
            if version in used:
                kept[version] = used[version]
                self._store.condemn(model, version, wanted=False)
            else:
                self._store.delete(model, version)
        return Collected(model, tuple(version for version in due if version not in used), kept)

    def _in_use(self, model: str) -> dict[int, str]:
        return in_use(
            self._control.plan(model),
            self._control.history(model),
            self._store.versions(model),
            self._store.aliases(model),
            self._rollouts(model),
        )

    def _fence(self, model: str, due: Sequence[int], who: str, now_ms: int) -> None:
        """Whoever decided on the current plan, but has not changed it yet, decides again."""
        why = f"delete archived versions {', '.join(map(str, due))}: the plan stays as it is"
        for attempt in range(1, ATTEMPTS + 1):
            plan = self._control.plan(model)
            assert plan is not None  # a plan never goes
            same = msgspec.structs.replace(plan, revision=plan.revision + 1)
            try:
                self._promoter.apply(same, who=who, why=why, evidence={"deleted": list(due)}, now_ms=now_ms)
                return
            except StaleRevision:
                if attempt == ATTEMPTS:
                    raise

    def _refuse_in_traffic(self, model: str, version: int) -> None:
        plan = self._control.plan(model)
        if plan and version in plan.versions():
            reason = in_use(plan, (), (), {})[version]
            raise RefusedVersion(
                f"version {version} of model {model!r} is {reason}: take it out of traffic before archiving it"
            )
        if version in self._rollouts(model):
            raise RefusedVersion(
                f"version {version} of model {model!r} is in a rollout: abort that before archiving it"
            )
