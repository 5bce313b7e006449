"""Following the traffic plans: newest revision wins, and the last ones known outlive their source.

Beside the plans a watcher follows which models are held back (unloaded by the operator).
"""

import contextlib
import logging
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from registry.board import PlanBoard
from registry.contracts.errors import UNDECODABLE, ContractError
from registry.contracts.traffic import Experiment, TrafficPlan
from registry.errors import RegistryError

log = logging.getLogger(__name__)

Plans = Mapping[str, TrafficPlan]


def newer(known: Plans, read: Plans) -> dict[str, TrafficPlan]:
    """Both, each model's higher revision. A plan that vanished from the board stays: a wiped
    Redis must not stop serving.

    >>> plan = TrafficPlan("m", 2, 1, "d")
    >>> newer({"m": plan}, {}) == {"m": plan}
    True
    """
    merged = dict(known)
    for model, plan in read.items():
        if model not in merged or plan.revision > merged[model].revision:
            merged[model] = plan
    return merged


def ignore_held_back(models: frozenset[str]) -> None:
    """For those who do not care which models are held back."""


class PlanWatcher(threading.Thread):
    """Polls the board and calls `changed(plans)` on this thread whenever a revision is new, and once
    when it knows which plans there are, even if there are none; and calls
    `hold_back(models)` whenever other models than before are held back.

    copy: file that keeps the last plans for a start without the board. looked: set when the copy was read and
    the board asked once, whether it answered or not: what can be known at a start is known then.
    """

    def __init__(
        self,
        board: PlanBoard,
        copy: Path,
        changed: Callable[[Plans], None],
        period_s: float = 0.25,
        hold_back: Callable[[frozenset[str]], None] = ignore_held_back,
    ) -> None:
        super().__init__(name="plans", daemon=True)
        self._board, self._copy, self._changed, self._period_s = board, copy, changed, period_s
        self._hold_back = hold_back
        self.held_back: frozenset[str] = frozenset()
        self._stop_asked, self.looked = threading.Event(), threading.Event()
        self._away = self._informed = False
        self.plans: dict[str, TrafficPlan] = {}

    def run(self) -> None:
        """Watches until stopped."""
        with contextlib.suppress(RegistryError):  # `poll` tells of it
            self._follow_held_back(self._board.held_back())  # before the copy: it must not be loaded first
        if copy := self._read_copy():
            self._take(copy)
        while not self._stop_asked.is_set():
            self.poll()
            self.looked.set()
            self._stop_asked.wait(self._period_s)

    @property
    def idle(self) -> bool:
        """Whether it is known that there is no plan at all."""
        return self._informed and not self.plans

    def stop(self) -> None:
        """Ends the thread within a period."""
        self._stop_asked.set()

    def poll(self) -> None:
        """One look at the board."""
        try:
            held_back, read = self._board.held_back(), self._board.read()
        except (RegistryError, ContractError) as error:
            if not self._away:
                log.warning("the plan board is away, the last plans stay: %s", error)
            self._away = True
            return
        self._away = False
        self._follow_held_back(held_back)
        if self._take(read):
            try:
                self._write_copy()
            except OSError as error:
                log.warning("could not keep a copy of the plans for a start without the board: %s", error)

    def _follow_held_back(self, models: frozenset[str]) -> None:
        if models != self.held_back:
            self.held_back = models
            log.info("models held back: %s", ", ".join(sorted(models)) or "none")
            self._hold_back(models)

    def _take(self, read: Plans) -> bool:
        merged = newer(self.plans, read)
        if merged == self.plans:
            if not self._informed:
                self._informed = True
                self._changed(merged)
            return False
        self.plans, self._informed = merged, True
        for plan in merged.values():
            log.info("plan of %s: revision %d, champion %d", plan.model, plan.revision, plan.champion)
        self._changed(merged)
        return True

    def _read_copy(self) -> dict[str, TrafficPlan]:
        try:
            return msgspec.json.decode(self._copy.read_bytes(), type=dict[str, TrafficPlan])
        except FileNotFoundError:
            return {}
        except UNDECODABLE as error:
            log.warning("left out the unreadable copy of the plans: %s", error)
            return {}

    def _write_copy(self) -> None:
        self._copy.parent.mkdir(parents=True, exist_ok=True)
        fresh = self._copy.with_suffix(".new")
        fresh.write_bytes(msgspec.json.encode(self.plans))
        fresh.replace(self._copy)


def newly_served(plan: TrafficPlan, followed: TrafficPlan) -> dict[int, str]:
    """Digest by version of what must be held before the plan is followed: its versions that the plan
    followed until now does not name, and a champion that was none; the latter alone if it takes traffic
    from a version."""
    known = followed.versions()
    if any(_lessened(plan, experiment) for experiment in followed.experiments):
        known = plan.versions()
    fresh = {version: digest for version, digest in plan.versions().items() if known.get(version) != digest}
    if plan.champion != followed.champion:
        fresh[plan.champion] = plan.champion_digest
    return fresh


def _lessened(plan: TrafficPlan, experiment: Experiment) -> bool:
    """Whether the version gets fewer units in the plan than it has in this experiment."""
    there = plan.experiment(experiment.name)
    kept = there.weight if there is not None and there.digest == experiment.digest else 0
    return kept < experiment.weight
