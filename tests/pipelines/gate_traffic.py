"""Traffic of simulated users through a plan into an archive, without processes: what gates are judged on."""

from dataclasses import dataclass, field
from itertools import count

import numpy as np

from pipelines.archive.files import Archive
from pipelines.feedback.clicks import ClickModel
from registry.contracts.events import SCHEMA, Click, Event, encode_event, join_events
from registry.contracts.traffic import TrafficPlan
from registry.stream import StreamEntry
from serving.interleaving import team_draft
from tests.builders import NOW_MS, a_ranking

ITEMS = 10
QUERIES = 40
MODEL = "codesearch"


@dataclass
class Traffic:
    """noise: by version, of what it sees of the labels; 0 ranks perfectly, a large one at random.

    units: so many users; each has a taste of its own for clicking. Every list is of a random unit and query.
    """

    archive: Archive
    noise: dict[int, float]
    units: int = 400
    seed: int = 1
    simulated: bool = True
    clicks_after_ms: int = 500
    clicks: int = 0
    lists: int = 0
    names: "count[int]" = field(default_factory=count)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)
        self.labels = self.rng.choice(5, size=(QUERIES, ITEMS), p=[0.5, 0.2, 0.15, 0.1, 0.05]).astype(float)
        self.taste = self.rng.uniform(0.2, 1.0, self.units)
        self.examined = ClickModel(eta=1.0).examination(ITEMS)
        self.attraction = ClickModel(eta=1.0).attraction(self.labels)

    def run(self, plan: TrafficPlan, lists: int, since_ms: int = NOW_MS, until_ms: int = NOW_MS + 10_000) -> None:
        """So many lists, evenly over the time, and their clicks, into the archive as one batch."""
        events: list[Event] = []
        for at_ms in np.linspace(since_ms, until_ms, lists, endpoint=False).astype(int).tolist():
            events += self._one(plan, at_ms)
        self.lists += lists
        name = f"{next(self.names) + 1}-{self.seed}"
        self.archive.write([StreamEntry(name, join_events([encode_event(event) for event in events]))])

    def _one(self, plan: TrafficPlan, at_ms: int) -> list[Event]:
        who, query = int(self.rng.integers(self.units)), int(self.rng.integers(QUERIES))
        assigned = plan.assign(f"user-{who}")
        experiment = assigned.experiment
        teams = b""
        if assigned.arm == "interleaved" and experiment is not None:
            draft = team_draft(
                self._order(plan.champion, query), self._order(experiment.version, query), int(self.rng.integers(1024))
            )
            order, teams = draft.order, draft.teams
        else:
            order = self._order(assigned.version, query)
        ranking_id = f"{self.seed:04x}{next(self.names):046x}"
        found: list[Event] = [
            a_ranking(
                ranking_id,
                tuple(f"item-{item}" for item in order),
                answered_ms=at_ms,
                version=plan.champion if teams else assigned.version,
                arm=assigned.arm,
                plan_revision=plan.revision,
                unit=f"user-{who}",
                query_id=f"query-{query}",
                experiment=experiment.name if experiment else "",
                teams=teams,
                team_version=experiment.version if teams and experiment else 0,
            )
        ]
        chance = self.examined * self.attraction[query][order] * self.taste[who]
        for place in np.flatnonzero(self.rng.random(ITEMS) < chance).tolist():
            self.clicks += 1
            heard_ms = at_ms + self.clicks_after_ms
            event_id = f"{ranking_id}-{place}"
            item = f"item-{order[place]}"
            found.append(
                Click(SCHEMA, event_id, ranking_id, MODEL, item, place + 1, heard_ms, heard_ms, self.simulated)
            )
        return found

    def _order(self, version: int, query: int) -> list[int]:
        seen = self.labels[query] + self.rng.normal(0, self.noise[version] + 1e-9, ITEMS)
        return np.argsort(-seen, kind="stable").tolist()
