"""Held-out queries through the front door: what a client would send, and what came back."""

import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from deploy.client import GatewayClient
from deploy.settings import PlatformSettings
from pipelines.dataset import JudgedList, RankingDataset
from pipelines.feedback.clicks import ClickModel, simulate_clicks
from pipelines.ndcg import ndcg_of_served
from registry.contracts.features import FeatureView
from registry.contracts.manifest import MetricDefinition

DEADLINE_MS = 30_000
GATEWAY_PATIENCE_S = 30.0


@dataclass(frozen=True, slots=True)
class ServedList:
    """One answered query. ndcg: on the true labels, nan without a relevant candidate.

    latency_ms: as the client saw it. clicks: simulated, sent as feedback.
    """

    ranking_id: str
    version: int
    ndcg: float
    latency_ms: float
    degraded: tuple[str, ...]
    clicks: int


@dataclass(frozen=True, slots=True)
class Replayer:
    """Sends lists to a model. concurrency: clients at once, each one query after the other."""

    settings: PlatformSettings
    model: str
    view: FeatureView
    metric: MetricDefinition
    concurrency: int = 4
    seed: int = 0

    def run(self, dataset: RankingDataset, on_answer: Callable[[ServedList], None]) -> list[ServedList]:
        """Every list of the dataset, ranked, clicked and measured, in the dataset's order.

        on_answer: told of each, on a thread of this replay. Raises the first client's error.
        """
        lists = list(dataset.lists())
        served: list[ServedList | None] = [None] * len(lists)
        work: queue.SimpleQueue[int] = queue.SimpleQueue()
        for place in range(len(lists)):
            work.put(place)
        errors: list[Exception] = []

        def client() -> None:
            try:
                with GatewayClient.of(self.settings, patience_s=GATEWAY_PATIENCE_S) as gateway:
                    while not errors:
                        place = work.get_nowait()
                        served[place] = answer = self._serve(gateway, lists[place], place)
                        on_answer(answer)
            except queue.Empty:
                return
            except Exception as error:
                errors.append(error)

        clients = [threading.Thread(target=client) for _ in range(self.concurrency)]
        for thread in clients:
            thread.start()
        for thread in clients:
            thread.join()
        if errors:
            raise errors[0]
        return [answer for answer in served if answer is not None]

    def _serve(self, gateway: GatewayClient, judged: JudgedList, place: int) -> ServedList:
        body = rank_body(judged, self.view, unit=f"user-{place % 200}")
        began_s = time.perf_counter()
        answer = gateway.post(f"/v1/models/{self.model}/rank", body)
        latency_ms = (time.perf_counter() - began_s) * 1000
        label_of = dict(zip(judged.item_ids, judged.labels.tolist(), strict=True))
        labels = [label_of[item["id"]] for item in answer["items"]]
        clicked = self._click(gateway, answer, labels, place)
        return ServedList(
            ranking_id=answer["ranking_id"],
            version=answer["version"],
            ndcg=ndcg_of_served(labels, judged.labels, self.metric),
            latency_ms=latency_ms,
            degraded=tuple(answer["degraded"]),
            clicks=clicked,
        )

    def _click(self, gateway: GatewayClient, answer: Any, labels: Sequence[float], place: int) -> int:
        positions = simulate_clicks(labels, ClickModel(), np.random.default_rng([self.seed, place]))
        if not len(positions):
            return 0
        clicks = [
            {
                "event_id": f"{answer['ranking_id']}-{position}",
                "type": "click",
                "ranking_id": answer["ranking_id"],
                "item": answer["items"][position - 1]["id"],
                "position": position,
                "simulated": True,
            }
            for position in positions.tolist()
        ]
        gateway.post("/v1/feedback", {"events": clicks})
        return len(clicks)


def rank_body(judged: JudgedList, view: FeatureView, unit: str, top_k: int = 10) -> dict[str, Any]:
    """What a client sends for a list: ids, and the columns that no store holds."""
    body: dict[str, Any] = {
        "candidates": list(judged.item_ids),
        "unit": unit,
        "query": {"id": judged.query_id},
        "top_k": top_k,
        "deadline_ms": DEADLINE_MS,
    }
    names = [column.name for column in view.columns]
    if len(in_query := view.positions("query")):
        body["query"]["features"] = {names[i]: float(judged.features[0, i]) for i in in_query}
    if len(in_candidates := view.positions("candidate")):
        body["features"] = {names[i]: judged.features[:, i].tolist() for i in in_candidates}
    return body
