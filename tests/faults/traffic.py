"""Clients that rank and click while something breaks, and what of it was acknowledged, lost, or had to wait."""

import functools
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from deploy.client import GatewayClient
from deploy.errors import SluiceError
from pipelines.archive.files import Archive
from tests.e2e.platforms_under_fire import MODEL, PATIENCE_S, Clients, Platform, until

FEEDBACK_EVERY = 3  # rankings a click
_AROUND_MS = 3 * 86_400_000  # clocks jump in these tests


@dataclass(frozen=True)
class Tally:
    """acknowledged: answers and events of feedback that clients got their 200 for. lost: of these, what is not in
    the archive; twice: what is there more than once. longest_pause_s: that a client had to wait for its next one."""

    acknowledged: int
    lost: int
    twice: int
    longest_pause_s: float


@dataclass
class Traffic(Clients):
    """Clients that rank without pause and click on what they were shown.

    seed: which queries they ask. patience_s: how long they try again when nobody listens. answered: ranking ids;
    told: event ids of acknowledged feedback; failed: what any request got instead of a 200, in the gateway's words.
    """

    platform: Platform
    seed: int
    clients: int = 3
    patience_s: float = 0.0
    answered: list[str] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    pauses_s: list[float] = field(default_factory=list)

    def _runs(self) -> Sequence[Callable[[], None]]:
        return [functools.partial(self._run, number) for number in range(self.clients)]

    def wait_for(self, more: int) -> None:
        """Until so many more queries were answered."""
        wanted = len(self.answered) + more
        until(lambda: len(self.answered) >= wanted, f"{more} more answers, failed: {self.failed[:3]}")

    def go_on_for(self, seconds: float) -> None:
        """Until so much time has passed, and somebody was answered in the second half of it."""
        half_s = time.monotonic() + seconds / 2
        until(lambda: time.monotonic() > half_s, "half of it")
        before = len(self.answered)
        until(lambda: time.monotonic() > half_s + seconds / 2, "the other half")
        assert len(self.answered) > before, f"nobody is answered: {self.failed[:3]}"

    def settle(self) -> Tally:
        """What became of all that was acknowledged, once it is in the archive or had its time to get there."""
        give_up_s = time.monotonic() + PATIENCE_S
        wanted = set(self.answered) | set(self.told)
        while True:
            found = self._archived()
            lost = wanted - set(found)
            if not lost or time.monotonic() > give_up_s:
                break
            time.sleep(0.2)  # reads the whole archive: not as often as the machine could
        acknowledged = len(self.answered) + len(self.told)
        return Tally(acknowledged, len(lost), len(found) - len(set(found)), max(self.pauses_s, default=0.0))

    def _archived(self) -> list[str]:
        archive, now_ms = Archive(self.platform.settings.archive_folder), time.time_ns() // 1_000_000
        span = (MODEL, now_ms - _AROUND_MS, now_ms + _AROUND_MS)
        rankings = archive.rankings(*span, columns=("ranking_id",)).column("ranking_id").to_pylist()
        return [*rankings, *archive.feedback(*span).column("event_id").to_pylist()]

    def _run(self, number: int) -> None:
        source = random.Random(self.seed * 1000 + number)
        heard_s = time.monotonic()
        with GatewayClient.of(self.platform.settings, patience_s=self.patience_s) as gateway:
            while not self._stopped:
                try:
                    answer = self.platform.rank(gateway, source.randrange(1 << 30))
                    self.answered.append(answer["ranking_id"])
                    if len(self.answered) % FEEDBACK_EVERY == 0:
                        self._click(gateway, source, answer)
                except SluiceError as error:
                    self.failed.append(str(error))
                    continue
                now_s = time.monotonic()
                self.pauses_s.append(now_s - heard_s)
                heard_s = now_s

    def _click(self, gateway: GatewayClient, source: random.Random, answer: dict) -> None:  # type: ignore[type-arg]
        shown = source.choice(answer["items"])
        event_id = f"{answer['ranking_id']}-{shown['position']}"
        click = {"event_id": event_id, "type": "click", "ranking_id": answer["ranking_id"], "item": shown["id"]}
        gateway.post("/v1/feedback", {"events": [click | {"position": shown["position"]}]})
        self.told.append(event_id)
