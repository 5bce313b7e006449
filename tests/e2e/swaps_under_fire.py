"""Changes of the traffic under steady load while processes are killed at random, and all that happened, kept."""

import http.client
import json
import os
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from registry.contracts.traffic import TrafficPlan
from tests.e2e.platforms_under_fire import ITEMS, MODEL, PATIENCE_S, Platform, until
from tests.postgres import PostgresServer

CLIENTS = 4
DEADLINE_MS = 20_000
CHANGES = 100
VERSIONS = (1, 2, 3)
DATABASE = "database"
TARGETS = ("gateway-0", "gateway-1", "worker-0", "worker-1", "controller", "redis", DATABASE)
BETWEEN_QUERIES_S = 0.02
QUERIES_A_CONNECTION = 25  # then a new one, so that both gateways have work again
_TRY_AGAIN = (429, 503, 504)  # the README's words: repeat the request with the same Idempotency-Key


@dataclass(frozen=True)
class Served:
    """An answer. asked_s: monotonic, when its query was first sent. sent_s, at_s: around the attempt that got it;
    at_ms: the wall's, when it was there."""

    ranking_id: str
    unit: str
    version: int
    arm: str
    revision: int
    degraded: tuple[str, ...]
    asked_s: float
    sent_s: float
    at_s: float
    at_ms: int


@dataclass(frozen=True)
class Lost:
    """An attempt whose connection broke. tries: of its query so far."""

    query: str
    tries: int
    reason: str
    at_s: float


@dataclass(frozen=True)
class Failed:
    """A query without an answer, and why."""

    query: str
    reason: str
    at_s: float


@dataclass
class Kill:
    """kill -9 of one process. back_s: when it was ready again, infinite if it never was."""

    target: str
    at_s: float
    back_s: float = float("inf")


@dataclass
class Change:
    """One request to change the traffic. why: its own words, by which the history knows it.

    retried: whether it was asked again until answered. status, revision: of the answer, 0 if there was none.
    copies: how many asked at once with the one idempotency key. decided_s: when the answer was there.
    """

    number: int
    kind: str
    path: str
    body: dict[str, Any]
    retried: bool
    copies: int = 1
    asked_s: float = 0.0
    asked_ms: int = 0
    status: int = 0
    revision: int = 0
    attempts: int = 0
    decided_s: float = 0.0
    refusal: str = ""
    answers: set[str] = field(default_factory=set)

    @property
    def why(self) -> str:
        """As the history has it."""
        return str(self.body["why"])

    @property
    def acknowledged(self) -> bool:
        """Whether somebody was told that it is done."""
        return self.status in (200, 201)


class Clients:
    """Threads that rank at a steady pace, each on a kept-alive connection of its own.

    A query whose connection breaks is asked again at once on a new one, until its deadline is over; nothing
    else is.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "", parts.port
        self.served: list[Served] = []
        self.lost: list[Lost] = []
        self.failed: list[Failed] = []
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(CLIENTS)]

    def __enter__(self) -> "Clients":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def wait_for(self, more: int, revision: int) -> None:
        """Until so many more answers came by this revision or a later one."""
        seen, found = len(self.served), 0

        def enough() -> bool:
            nonlocal seen, found
            fresh = self.served[seen:]
            seen += len(fresh)
            found += sum(answer.revision >= revision for answer in fresh)
            return found >= more

        until(enough, f"{more} answers by revision {revision}")

    def _run(self, number: int) -> None:
        connection = http.client.HTTPConnection(self._host, self._port, timeout=DEADLINE_MS / 1000 + 5)
        place = number * 1_000_000
        while not self._ended.wait(BETWEEN_QUERIES_S):
            place += 1
            if place % QUERIES_A_CONNECTION == 0:
                connection.close()
            self._ask(connection, f"u{place}", random.Random(place).sample(ITEMS, 5))
        connection.close()

    def _ask(self, connection: http.client.HTTPConnection, unit: str, candidates: Sequence[str]) -> None:
        given = {"query": {"features": {"query_words": 2}}, "features": {"match": [0.5] * len(candidates)}}
        body = json.dumps({"candidates": candidates, "unit": unit, "deadline_ms": DEADLINE_MS} | given)
        first_s, tries = time.monotonic(), 0
        while True:
            sent_s, tries = time.monotonic(), tries + 1
            try:
                headers = {"content-type": "application/json"}
                connection.request("POST", f"/v1/models/{MODEL}/rank", body, headers)
                response = connection.getresponse()
                raw = response.read()
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                at_s = time.monotonic()
                self.lost.append(Lost(unit, tries, repr(error), at_s))
                if at_s - first_s > DEADLINE_MS / 1000:
                    self.failed.append(Failed(unit, f"{tries} tries: {error!r}", at_s))
                    return
                self._ended.wait(BETWEEN_QUERIES_S)
                continue
            at_s = time.monotonic()
            if response.status != 200:
                self.failed.append(Failed(unit, f"{response.status}: {raw[:300].decode()}", at_s))
                return
            found = json.loads(raw)
            degraded, at_ms = tuple(found["degraded"]), time.time_ns() // 1_000_000
            answer = (found["ranking_id"], unit, found["version"], found["arm"], found["plan_revision"])
            self.served.append(Served(*answer, degraded, first_s, sent_s, at_s, at_ms))
            return


class Fire(threading.Thread):
    """Kills a process of the platform, or the database, every few seconds; which and when, the seed says.

    One that is not back yet is not killed again, and of two gateways or workers never the last one: others
    come first then.
    """

    def __init__(self, platform: Platform, database: PostgresServer, coins: random.Random) -> None:
        super().__init__(name="fire")
        self._platform, self._database, self._coins = platform, database, coins
        self._ended = threading.Event()
        self.kills: list[Kill] = []
        self.error: BaseException | None = None

    def __enter__(self) -> "Fire":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self.join()

    def run(self) -> None:
        """Until told to stop; then waits until all are back."""
        away: dict[str, tuple[Kill, int]] = {}
        try:
            order: list[str] = []
            while not self._ended.is_set():
                order = order or self._coins.sample(TARGETS, len(TARGETS))  # each once a round, in any order
                self._until(self._ended.is_set, self._coins.uniform(2.0, 6.0), away)
                ready = [target for target in order if self._can_be_spared(target, away)]
                if not ready or self._ended.is_set():
                    continue
                order.remove(target := ready[0])
                if target == DATABASE:
                    self._restart_database(self._coins.uniform(0.2, 1.5))
                    continue
                kill = Kill(target, time.monotonic())
                away[target] = kill, self._platform.kill(target)
                self.kills.append(kill)
            self._until(lambda: not away, PATIENCE_S, away)
        except BaseException as error:  # told in the test, which would go on without fire otherwise
            self.error = error

    def _can_be_spared(self, target: str, away: Mapping[str, object]) -> bool:
        """Whether it is there, and of gateways and workers the other one, which must hold what the plan names."""
        if target in away:
            return False
        kind, _, number = target.rpartition("-")
        if kind not in ("gateway", "worker"):
            return True
        other = f"{kind}-{1 - int(number)}"
        if other in away or kind == "gateway":
            return other not in away
        status = self._platform.status()
        held = [set(one["versions"]) for one in status.get("replicas", ()) if one["replica"] == other and one["ready"]]
        plan = status.get("plans", {}).get(MODEL)
        return bool(held and plan) and f"{MODEL}@{plan['champion']}" in held[0]

    def _restart_database(self, away_s: float) -> None:
        kill = Kill(DATABASE, time.monotonic())
        self._database.kill()
        self.kills.append(kill)
        self._ended.wait(away_s)
        self._database.start()
        kill.back_s = time.monotonic()

    def _until(self, done: Callable[[], bool], at_most_s: float, away: dict[str, tuple[Kill, int]]) -> None:
        """Notes who is back meanwhile."""
        give_up_s = time.monotonic() + at_most_s
        while not done() and time.monotonic() < give_up_s:
            for target, (kill, old) in list(away.items()):
                pid = self._platform.pid(target)
                if pid not in (None, old):
                    kill.back_s = time.monotonic()
                    del away[target]
            self._ended.wait(0.05) if not self._ended.is_set() else time.sleep(0.05)


class Operator:
    """Changes the traffic through the control API, one change after another, as the README tells to.

    coins: which change comes next, by what there is.
    """

    def __init__(self, platform: Platform, coins: random.Random) -> None:
        self._platform, self._coins = platform, coins
        self._prefix = f"{os.getpid()}-{time.time_ns()}"
        self.changes: list[Change] = []

    def get(self, path: str) -> Any:
        """The answer of a GET, asked until there is one."""
        return json.loads(until(lambda: self._got(path), f"an answer of {path}"))

    def next(self, plan: TrafficPlan) -> Change:
        """What is to be done to this plan."""
        number = len(self.changes)
        why = f"change {number}"
        coins, retried = self._coins, self._coins.random() >= 0.1
        copies = 2 if retried and coins.random() < 0.15 else 1
        others = [version for version in VERSIONS if version != plan.champion]
        promote = Change(number, "promote", "/promote", {"version": coins.choice(others), "why": why}, retried, copies)
        rollback = Change(number, "rollback", "/rollback", {"why": why}, retried, copies)
        if plan.challengers:
            rollout = f"{MODEL}-{plan.challengers[0].name.removeprefix('rollout-')}"
            abort = Change(number, "abort", f"/rollouts/{rollout}/abort", {"why": why}, retried, copies)
            return coins.choices((abort, rollback, promote), (6, 2, 2))[0]
        step = {"name": "ab", "kind": "ab", "weight": coins.choice((100, 250, 500)), "min_s": 3600.0}
        # a busy machine is slow to either arm, and a worker that was killed comes back without the challenger
        limits = {"p99_ms": 10_000.0, "degraded_share": 1.0}
        body = {"version": coins.choice(others), "why": why, "steps": [step], "guardrails": limits}
        start = Change(number, "start", "/rollouts", body | {"holdback_weight": 0}, retried, copies)
        return coins.choices((start, promote, rollback), (5, 3, 2))[0]

    def make(self, change: Change) -> None:
        """Asks for it, once, or again and again until there is an answer that is one."""
        self.changes.append(change)
        change.asked_s, change.asked_ms = time.monotonic(), time.time_ns() // 1_000_000
        with ThreadPoolExecutor(change.copies) as pool:
            for asked in [pool.submit(self._see_through, change) for _ in range(change.copies)]:
                status, raw = asked.result()
                change.status = status
                change.answers.add(raw)
        change.decided_s = time.monotonic()
        if change.acknowledged:
            change.revision = json.loads(raw)["plan_revision"]
        else:
            change.refusal = raw

    def _see_through(self, change: Change) -> tuple[int, str]:
        give_up_s = time.monotonic() + PATIENCE_S
        while True:
            change.attempts += 1
            status, raw = self._request("POST", change.path, json.dumps(change.body), change.number)
            if not change.retried or (status and status not in _TRY_AGAIN):
                return status, raw
            assert time.monotonic() < give_up_s, f"{change.kind} had no answer in {PATIENCE_S:g} s: {status} {raw}"
            time.sleep(0.2)

    def _got(self, path: str) -> str | None:
        status, raw = self._request("GET", path, None, None)
        assert status in (0, 200, *_TRY_AGAIN), raw
        return raw if status == 200 else None

    def _request(self, method: str, path: str, body: str | None, number: int | None) -> tuple[int, str]:
        """Status 0 if the connection broke."""
        settings = self._platform.settings
        headers = {"authorization": f"Bearer {settings.admin_key_file.read_text().strip()}"}
        if body is not None:
            headers |= {"content-type": "application/json", "idempotency-key": f"{self._prefix}-{number}"}
        parts = urlsplit(settings.gateway_url)
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=PATIENCE_S)
        try:
            connection.request(method, f"/v1/models/{MODEL}{path}", body, headers)
            response = connection.getresponse()
            return response.status, response.read().decode()
        except (OSError, http.client.HTTPException) as error:
            return 0, repr(error)
        finally:
            connection.close()


class Witness(threading.Thread):
    """Looks at the plan through the API all the time. seen: revision and champion, in the order of looking."""

    def __init__(self, operator: Operator) -> None:
        super().__init__(name="witness")
        self._operator, self._ended = operator, threading.Event()
        self.seen: list[tuple[int, int]] = []

    def __enter__(self) -> "Witness":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self.join()

    def run(self) -> None:
        """Until told to stop."""
        while not self._ended.wait(0.25):
            plan = self._operator.get("/plan")["plan"]
            self.seen.append((plan["revision"], plan["champion"]))
