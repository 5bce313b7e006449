"""From training window to promotion: the graph of one version."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from registry.contracts.manifest import Lineage
from registry.contracts.traffic import Experiment, Override, TrafficPlan
from registry.lineage import LineageGraph, Step, lineage, parents, version_id
from registry.promotion import promote, with_experiment, without_experiment
from registry.store import StoredVersion
from registry.traffic_control import MemoryControl, TrafficChange
from tests.builders import NOW_MS, a_manifest

DAY_MS = 86_400_000


def a_version(version: int, parent: int | None = None, window: str = "January", **changes: Any) -> StoredVersion:
    came = Lineage(
        f"{window} logs", f"digest of {window}", (f"{window} 1", f"{window} 14"), parent, 7, f"run-{version}"
    )
    manifest = a_manifest(lineage=came, **changes)
    return StoredVersion("codesearch", version, f"{version:064x}", manifest, NOW_MS + version, f"run-{version}")


class Traffic:
    """Changes one model's plan, a day later each time."""

    def __init__(self) -> None:
        self._control = MemoryControl()
        self.plan: TrafficPlan | None = None

    def change(self, plan: TrafficPlan, why: str, **evidence: Any) -> None:
        revision = self.plan.revision if self.plan else 0
        self.plan = self._control.change(
            plan, expected_revision=revision, who="ann", why=why, evidence=evidence, now_ms=NOW_MS + revision * DAY_MS
        )

    def promote(self, version: int, **evidence: Any) -> None:
        self.change(promote(self.plan, "codesearch", version, f"{version:064x}"), f"promote {version}", **evidence)

    @property
    def history(self) -> list[TrafficChange]:
        return self._control.history("codesearch")


def titles(graph: LineageGraph) -> list[str]:
    return [node.title for node in graph.happened()]


def test_the_way_goes_from_window_over_dataset_and_run_to_the_version():
    graph = lineage(1, [a_version(1)], [])

    run = graph.causes(version_id(1))[0]
    dataset = graph.causes(run.id)[0]
    window = graph.causes(dataset.id)[0]
    assert (run.kind, run.title, run.facts["seed"]) == ("run", "run-1", 7)
    assert (dataset.kind, dataset.title, dataset.facts) == ("dataset", "January logs", {"digest": "digest of January"})
    assert (window.kind, window.title, graph.causes(window.id)) == ("window", "January 1 to January 14", [])
    assert graph.node(version_id(1)).facts["digest"] == f"{1:064x}"


def test_data_without_time_has_no_window_and_a_version_without_run_comes_from_its_data():
    manifest = a_manifest(lineage=Lineage("made-up", ""))
    graph = lineage(1, [StoredVersion("codesearch", 1, "0" * 64, manifest, NOW_MS)], [])

    assert [(edge.source, edge.target) for edge in graph.edges] == [("dataset:made-up", "version:1")]


def test_parents_are_followed_to_the_first_and_share_their_data():
    versions = [a_version(1), a_version(2, parent=1, window="February"), a_version(3, parent=2, window="February")]

    graph = lineage(3, versions, [])

    assert [node.id for node in graph.nodes if node.kind == "version"] == ["version:1", "version:2", "version:3"]
    assert [edge.source for edge in graph.edges if edge.target == "version:3"] == ["run:run-3", "version:2"]
    assert [node.id for node in graph.nodes if node.kind == "dataset"] == [
        "dataset:digest of January",
        "dataset:digest of February",
    ]


def test_a_parent_that_is_not_stored_any_more_is_named():
    graph = lineage(2, [a_version(2, parent=1)], [])

    assert graph.node(version_id(1)).title == "version 1, no longer stored"


def test_promotion_and_rollback_are_told_with_who_when_why_and_evidence():
    traffic = Traffic()
    traffic.promote(1)
    traffic.promote(2, lift=0.01)
    traffic.promote(1)
    traffic.promote(3)

    first = lineage(1, [a_version(1)], traffic.history)
    second = lineage(2, [a_version(2)], traffic.history)

    assert titles(first) == [
        "promoted to champion",
        "replaced by 2",
        "champion again: rolled back from 2",
        "replaced by 3",
    ]
    assert titles(second) == ["promoted to champion", "rolled back: 1 is champion again"]
    promoted = second.happened()[0]
    assert promoted.at_ms == NOW_MS + DAY_MS
    assert promoted.facts == {"revision": 2, "who": "ann", "why": "promote 2", "evidence": {"lift": 0.01}}


def test_experiments_and_testers_are_told_as_they_change():
    traffic = Traffic()
    traffic.promote(1)
    assert traffic.plan
    for weight in (100, 250):
        test = Experiment("test", 2, f"{2:064x}", weight, mirror_share=50)
        traffic.change(with_experiment(traffic.plan, test, layer="rollout", salt="s"), "rollout")
    traffic.change(without_experiment(traffic.plan, "test"), "no difference")
    traffic.change(TrafficPlan("codesearch", 5, 1, f"{1:064x}", overrides=(Override("ann", 2, f"{2:064x}"),)), "look")

    assert titles(lineage(2, [a_version(2)], traffic.history)) == [
        "ab 'test' at 10 %, mirror 5 %",
        "ab 'test' at 25 %, mirror 5 %",
        "out of traffic (was ab 'test' at 25 %, mirror 5 %)",
        "for 1 tester",
    ]
    assert titles(lineage(1, [a_version(1)], traffic.history)) == ["promoted to champion"]


def test_steps_of_others_are_joined_in_the_order_of_time():
    traffic = Traffic()
    traffic.promote(1)
    traffic.promote(2)
    steps = [
        Step(2, NOW_MS + 2 * DAY_MS, "held back 1 %", {}),
        Step(2, NOW_MS + 1, "offline gate passed", {"lift": 0.02}),
        Step(1, NOW_MS, "of another version", {}),
    ]

    graph = lineage(2, [a_version(2)], traffic.history, steps)

    assert titles(graph) == ["offline gate passed", "promoted to champion", "held back 1 %"]
    assert graph.happened()[0].facts == {"lift": 0.02}


@given(st.lists(st.none() | st.integers(1, 8), min_size=1, max_size=8))
def test_a_graph_is_whole_whatever_the_manifests_claim(claimed: list[int | None]):
    versions = [a_version(number, parent=parent) for number, parent in enumerate(claimed, 1)]
    for stored in versions:
        graph = lineage(stored.version, versions, [])
        ids = [node.id for node in graph.nodes]
        chain = parents(stored.version, versions)

        assert len(set(ids)) == len(ids) and len(set(chain)) == len(chain)
        assert {end for edge in graph.edges for end in (edge.source, edge.target)} <= set(ids)
        assert {version_id(number) for number in chain} <= set(ids)
