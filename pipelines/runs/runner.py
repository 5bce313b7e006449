"""Works on runs: takes one up, does its current step under a lease, and says in the tables what came of it.

One call, one step. Whatever the process dies of, the tables say who had the run until when; after that anybody
takes it up, finds the steps that are done on the disk, and goes on with the one that is not.
"""

import logging
import shutil
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from celery.exceptions import SoftTimeLimitExceeded

from pipelines import metrics
from pipelines.errors import NotYet, PipelineError, RunCancelled
from pipelines.runs.schedule import backoff_ms
from pipelines.runs.spans import run_span, step_span
from pipelines.runs.steps import Step, do_step, find_done
from pipelines.settings import RunSettings
from registry import run_moves
from registry.contracts.errors import ContractError
from registry.contracts.runs import Run, RunKind
from registry.contracts.traces import UNTRACED, Span, Trace
from registry.errors import RefusedVersion, RegistryError, RunConflict, StaleRun, StoreUnavailable
from registry.runs import RunStore

log = logging.getLogger(__name__)

Steps = Mapping[str, Step]
"""By name, in the order in which they are done."""

FOR_GOOD = (PipelineError, ContractError, RefusedVersion)
"""What fails again however often it is tried: the data or the model break a rule."""


@dataclass(frozen=True, slots=True)
class Runner:
    """folder: where runs leave what they make. clock: seconds since the epoch. holder: this process, for people.
    tell: of what was done, as spans, must not raise; None: nobody
    follows runs."""

    store: RunStore
    steps: Mapping[RunKind, Steps]
    folder: Path
    settings: RunSettings
    clock: Callable[[], float]
    holder: str
    tell: Callable[[Sequence[Span]], None] | None = None

    def advance(self, run_id: str, cause: Trace = UNTRACED) -> str:
        """One step of the run, if it is free; what came of it, in a word. cause: the message that asked for it.

        `busy`: somebody else has it, or it is not its turn; `lost`: somebody else has it by now. Raises
        StoreUnavailable: then the lease runs out, and what was done is found.
        """
        run = self.store.run(run_id)
        try:
            run = self.store.change(run_moves.claim(run, self.holder, now_ms=self._now_ms(), lease_ms=self._lease_ms))
        except (RunConflict, StaleRun) as error:
            log.info("run %s is left alone: %s", run_id, error)
            return "busy"
        lease = _Lease(self.store, run, self.clock, self.settings)
        if run.cancelling:
            return lease.end(lambda now: run_moves.stopped(now, now_ms=self._now_ms()), "cancelled")
        if (index := self._damaged(run)) is not None:
            log.error("run %s: what %s left is damaged: it is done again", run.id, run.steps[index].name)
            return lease.end(lambda now: run_moves.damaged(now, index, now_ms=self._now_ms()), "again")
        if run.step.attempts > self.settings.max_attempts:
            told = f"its worker ended {run.step.attempts - 1} times without a word: see the log, then retry it"
            return lease.end(lambda now: self._failed(now, told, for_good=False), "dead")
        began_ms = self._now_ms()
        with lease:
            what = self._do(run, lease)
        metrics.RUN_STEPS.labels(run.kind, run.step.name, what).inc()
        log.info("run %s: step %s: %s", run.id, run.step.name, what)
        if self.tell is not None and what != "lost":
            self._trace(self.tell, run, what, began_ms, cause)
        return what

    def _trace(self, tell: Callable[[Sequence[Span]], None], run: Run, what: str, began_ms: int, cause: Trace) -> None:
        now = self.store.run(run.id)
        spans = [step_span(now, run.step.name, what, began_ms, self._now_ms(), cause)]
        tell(spans if now.open else [*spans, run_span(now)])

    def _do(self, run: Run, lease: "_Lease") -> str:
        step = self.steps[run.kind][run.step.name]
        try:
            done = do_step(self.folder, run, step, self._now_ms, lease.report, lease.check)
        except RunCancelled:
            return lease.end(lambda now: run_moves.stopped(now, now_ms=self._now_ms()), "cancelled")
        except NotYet as error:
            told, until_ms = str(error), error.until_ms
            return lease.end(
                lambda now: run_moves.put_off(now, told, now_ms=self._now_ms(), until_ms=until_ms), "waiting"
            )
        except FOR_GOOD as error:
            log.warning("run %s: step %s: %s", run.id, run.step.name, error)
            told = str(error)
            return lease.end(lambda now: self._failed(now, told, for_good=True), "failed")
        except SoftTimeLimitExceeded:
            told = f"the step ran past its limit of {self.settings.limit_s(run.step.name):g} s"
            return lease.end(lambda now: self._failed(now, told, for_good=False), "late")
        except Exception as error:
            log.exception("run %s: step %s failed and will be tried again", run.id, run.step.name)
            told = traceback.format_exception_only(error)[-1].strip()
            return lease.end(lambda now: self._failed(now, told, for_good=False), "failed")
        return lease.end(
            lambda now: run_moves.step_done(
                now, dict(done.result.output), done.digest, now_ms=self._now_ms(), outcome=done.result.outcome
            ),
            "done",
        )

    def _failed(self, run: Run, error: str, *, for_good: bool) -> Run:
        mine = self.settings
        dead = run.step.attempts >= mine.max_attempts
        wait_ms = backoff_ms(max(1, run.step.attempts), int(mine.backoff_s * 1000), int(mine.most_backoff_s * 1000))
        retry_in_ms = None if for_good or dead else wait_ms
        return run_moves.step_failed(
            run, error, now_ms=self._now_ms(), retry_in_ms=retry_in_ms, dead=dead and not for_good
        )

    def _damaged(self, run: Run) -> int | None:
        """The first step that is done and whose files are not as it left them."""
        for index, step in enumerate(run.steps):
            if step.state == "done":
                found = find_done(self.folder, run, step)
                if found is None or found.digest != step.digest:
                    return index
        return None

    @property
    def _lease_ms(self) -> int:
        return int(self.settings.lease_s * 1000)

    def _now_ms(self) -> int:
        return int(self.clock() * 1000)


def sweep(folder: Path, keep: Sequence[str]) -> int:
    """Deletes what other runs left; how many they were. keep: ids."""
    old = [path for path in folder.glob("*") if path.is_dir() and path.name not in keep]
    for path in old:
        shutil.rmtree(path, ignore_errors=True)
    return len(old)


@dataclass
class _Lease:
    """The right to work on a run, renewed by a thread; gone when another has it, or nobody wants the run.

    Every word of it is a compare-and-set on the run as it is then, so that it minds who cancels meanwhile.
    """

    store: RunStore
    run: Run
    clock: Callable[[], float]
    settings: RunSettings
    _progress: float = 0.0
    _saying: str = ""
    _gone: str = ""
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> "_Lease":
        self._thread = threading.Thread(target=self._renew, name=f"lease of {self.run.id}", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._rest()

    def report(self, progress: float, saying: str) -> None:
        """See `StepContext`."""
        self._progress, self._saying = progress, saying
        if self._gone:
            raise RunCancelled(self._gone)

    def check(self) -> bool:
        """Whether the run is still ours, by the tables. Raises RunCancelled if nobody wants it."""
        found = self.store.run(self.run.id)
        if self._is_mine(found) and found.cancelling:
            raise RunCancelled(f"run {self.run.id!r} was cancelled")
        return self._is_mine(found)

    def end(self, move: Callable[[Run], Run], what: str) -> str:
        """Makes the move, the last under this lease; `lost` if it is another's by now."""
        self._rest()
        while True:
            found = self.store.run(self.run.id)
            if not self._is_mine(found):
                log.warning("run %s: somebody else has it by now: what came of %s is left", found.id, found.step.name)
                return "lost"
            try:
                self.store.change(move(found))
                return what
            except StaleRun:
                continue

    def _rest(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _renew(self) -> None:
        while not self._stop.wait(self.settings.beat_s):
            try:
                self._beat()
            except StaleRun:
                continue  # somebody asked for something: the next beat sees what
            except (StoreUnavailable, RunConflict) as error:
                log.warning("the lease of run %s could not be renewed: %s", self.run.id, error)
            except (RegistryError, ContractError):
                log.exception("the lease of run %s is not renewed any more", self.run.id)
                self._gone = "its record cannot be read"
                return

    def _beat(self) -> None:
        found = self.store.run(self.run.id)
        if not self._is_mine(found):
            self._gone = f"run {found.id!r} was taken up by another worker"
        elif found.cancelling:
            self._gone = f"run {found.id!r} was cancelled"
        if not self._gone or (found.cancelling and self._is_mine(found)):
            now_ms, lease_ms = int(self.clock() * 1000), int(self.settings.lease_s * 1000)
            self.store.change(run_moves.beat(found, self._progress, self._saying, now_ms=now_ms, lease_ms=lease_ms))

    def _is_mine(self, found: Run) -> bool:
        return (found.state, found.lease) == ("running", self.run.lease)
