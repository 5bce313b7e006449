"""Where a version comes from and what became of it, as a graph: training window, dataset, run, version,
its parents, and every change of traffic that it was part of, with who, when, why and the evidence. Pure.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal

from registry.contracts.manifest import Lineage
from registry.contracts.traffic import TrafficPlan
from registry.store import StoredVersion
from registry.traffic_control import TrafficChange

NodeKind = Literal["window", "dataset", "run", "version", "change", "step"]


@dataclass(frozen=True, slots=True)
class Node:
    """id: unique in the graph. title: in words. facts: plain JSON. at_ms: of what happened at a time."""

    id: str
    kind: NodeKind
    title: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    at_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Edge:
    """What led to what."""

    source: str
    target: str
    how: str


@dataclass(frozen=True, slots=True)
class Step:
    """What somebody else knows of a version's way, to be joined: a step of a rollout, say."""

    version: int
    at_ms: int
    title: str
    facts: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class LineageGraph:
    """nodes: causes before what they led to; what happened to a version in the order of time."""

    model: str
    version: int
    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]

    def node(self, id: str) -> Node:
        """Raises KeyError."""
        return {node.id: node for node in self.nodes}[id]

    def causes(self, id: str) -> list[Node]:
        """What led to the node directly."""
        return [self.node(edge.source) for edge in self.edges if edge.target == id]

    def happened(self) -> list[Node]:
        """Changes and steps of the version itself, oldest first."""
        mine = {edge.target for edge in self.edges if edge.source == version_id(self.version)}
        return [node for node in self.nodes if node.id in mine and node.kind in ("change", "step")]


def lineage(
    version: int, versions: Sequence[StoredVersion], history: Sequence[TrafficChange], steps: Sequence[Step] = ()
) -> LineageGraph:
    """The graph of one version.

    versions: all that are stored of its model, the version among them; a parent that is not stored any
    more is a node that says so. history: of the model, oldest first. steps: joined where they are of the
    version.
    """
    known = {stored.version: stored for stored in versions}
    nodes: dict[str, Node] = {}
    edges: list[Edge] = []
    for number in reversed(parents(version, versions)):
        _add_origin(number, known, nodes, edges)
    happened = [*_changes(version, history), *(_step(index, step) for index, step in enumerate(steps, 1))]
    mine = [node for of, node in happened if of == version]
    for node in sorted(mine, key=lambda node: node.at_ms or 0):
        nodes[node.id] = node
        edges.append(Edge(version_id(version), node.id, node.kind))
    return LineageGraph(known[version].model, version, tuple(nodes.values()), tuple(edges))


def parents(version: int, versions: Sequence[StoredVersion]) -> list[int]:
    """The version, what it was trained on from, and so on; the last one has no parent or is not stored."""
    known = {stored.version: stored for stored in versions}
    chain = [version]
    while (stored := known.get(chain[-1])) and (parent := stored.manifest.lineage.parent) is not None:
        if parent in chain:  # nobody is his own ancestor, but manifests come from others
            break
        chain.append(parent)
    return chain


def version_id(version: int) -> str:
    """Of a version's node."""
    return f"version:{version}"


def _add_origin(number: int, known: Mapping[int, StoredVersion], nodes: dict[str, Node], edges: list[Edge]) -> None:
    mine = version_id(number)
    if (stored := known.get(number)) is None:
        nodes[mine] = Node(mine, "version", f"version {number}, no longer stored")
        return
    manifest, came = stored.manifest, stored.manifest.lineage
    path = [*_origins(came, stored.run_id or came.run_id)]
    for node in path:
        nodes.setdefault(node.id, node)
    facts = {"digest": stored.digest, "metrics": manifest.metrics, "fingerprint": manifest.fingerprint}
    nodes[mine] = Node(mine, "version", f"{stored.model}@{number}", facts, stored.created_ms)
    ids = [*(node.id for node in path), mine]
    for source, target in pairwise(ids):
        if (edge := Edge(source, target, _HOW[target.partition(":")[0]])) not in edges:
            edges.append(edge)
    if came.parent is not None and version_id(came.parent) in nodes:
        edges.append(Edge(version_id(came.parent), mine, "trained on from"))


_HOW = {"dataset": "collected as", "run": "trained in", "version": "registered as"}


def _origins(came: Lineage, run_id: str) -> Iterator[Node]:
    window = " to ".join(filter(None, came.training_window))
    if window:
        yield Node(f"window:{window}", "window", window)
    dataset = came.dataset_digest or came.dataset
    yield Node(f"dataset:{dataset}", "dataset", came.dataset, {"digest": came.dataset_digest})
    if run_id:
        facts = {"seed": came.seed, "code_version": came.code_version}
        yield Node(f"run:{run_id}", "run", run_id, facts)


def _changes(version: int, history: Sequence[TrafficChange]) -> Iterator[tuple[int, Node]]:
    line: list[int] = []  # of champions; see `promotion.previous_champion`
    before: TrafficPlan | None = None
    for change in history:
        plan = change.plan
        back = plan.champion in line
        if (title := _title(version, before, plan, back)) is not None:
            facts = {
                "revision": change.revision,
                "who": change.who,
                "why": change.why,
                "evidence": dict(change.evidence),
            }
            yield version, Node(f"change:{change.revision}", "change", title, facts, change.at_ms)
        line = line[: line.index(plan.champion)] if back else line
        line.append(plan.champion)
        before = plan


def _title(version: int, before: TrafficPlan | None, plan: TrafficPlan, back: bool) -> str | None:
    """What the change did to the version, None if nothing."""
    was, now = roles(before, version) if before else (), roles(plan, version)
    if was == now:
        return None
    if "champion" in now and "champion" not in was:
        return f"champion again: rolled back from {before.champion}" if back and before else "promoted to champion"
    if "champion" in was and "champion" not in now:
        taken = f"rolled back: {plan.champion} is champion again" if back else f"replaced by {plan.champion}"
        return ", ".join((taken, *now))
    return ", ".join(now) or f"out of traffic (was {', '.join(was)})"


def roles(plan: TrafficPlan, version: int) -> tuple[str, ...]:
    """What the version is in the plan, in words; empty if it is not in it.

    >>> roles(TrafficPlan("search", 1, 3, "0" * 64), 3)
    ('champion',)
    """
    found = ["champion"] if plan.champion == version else []
    found += [
        f"{one.kind} {one.name!r} at {one.weight / 10:g} %"
        + (f", mirror {one.mirror_share / 10:g} %" * bool(one.mirror_share))
        for one in plan.experiments
        if one.version == version
    ]
    testers = sum(override.version == version for override in plan.overrides)
    return (*found, f"for {testers} tester{'s' * (testers > 1)}") if testers else tuple(found)


def all_roles(plan: TrafficPlan) -> dict[int, str]:
    """What each version of the plan is in it, in words: for `ModelStore.show_traffic`."""
    return {version: ", ".join(roles(plan, version)) for version in plan.versions()}


def _step(index: int, step: Step) -> tuple[int, Node]:
    return step.version, Node(f"step:{index}", "step", step.title, step.facts, step.at_ms)
