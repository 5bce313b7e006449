"""Why the registry refused or could not do something.

```
RegistryError          500
  UnknownVersion       404  no such model, version or alias
  RefusedVersion       400  wrong digest, a pickle inside, another feature view
  UnknownRollout       404  no such rollout
  StaleRevision        409  somebody changed the plan first; carries the actual revision
    StaleRollout       409  somebody changed the rollout first; carries its actual revision
    StaleRun           409  somebody changed the run first; carries its actual revision
  RolloutConflict      409  the rollout's state, or another rollout, does not allow it
  UnknownRun           404  no such run of a pipeline
  RunConflict          409  the run's state, or another run, does not allow it
    WindowTaken        409  the window has a run already; carries its id
  AnsweredBefore       409  the request was made before, under the same idempotency key
  UnknownKey           404  no such API key
  KeyConflict          409  the key's state does not allow it
  RefusedDatabase      500  the control database was made by a newer Sluice
  StoreUnavailable     503  Redis, Kafka, MLflow or SQL does not answer; try again
  EntryRefused         500  the event stream will never take this entry
```
"""


class RegistryError(Exception):
    """The message says in one line what to do."""


class UnknownVersion(RegistryError):
    """No such model, version or alias."""


class RefusedVersion(RegistryError):
    """The package is not what its manifest or digest says, or is unsafe to load."""


class StaleRevision(RegistryError):
    """A compare-and-set lost: decide again on what is there now."""

    def __init__(self, model: str, expected: int, actual: int) -> None:
        super().__init__(
            f"the traffic plan of {model!r} is at revision {actual}, not {expected}: "
            "look at it again, then repeat the change"
        )
        self.expected = expected
        self.actual = actual


class StaleRollout(StaleRevision):
    """A compare-and-set on a rollout lost."""

    def __init__(self, rollout: str, expected: int, actual: int) -> None:
        RegistryError.__init__(
            self,
            f"rollout {rollout!r} is at revision {actual}, not {expected}: look at it again, then repeat the change",
        )
        self.expected = expected
        self.actual = actual


class UnknownRollout(RegistryError):
    """No such rollout."""


class RolloutConflict(RegistryError):
    """What is asked for does not go together with a rollout as it is."""


class StaleRun(StaleRevision):
    """A compare-and-set on a run lost."""

    def __init__(self, run: str, expected: int, actual: int) -> None:
        RegistryError.__init__(
            self, f"run {run!r} is at revision {actual}, not {expected}: look at it again, then repeat the change"
        )
        self.expected = expected
        self.actual = actual


class UnknownRun(RegistryError):
    """No such run."""


class RunConflict(RegistryError):
    """What is asked for does not go together with a run as it is."""


class WindowTaken(RunConflict):
    """A window is never run twice."""

    def __init__(self, message: str, run_id: str) -> None:
        super().__init__(message)
        self.run_id = run_id


class AnsweredBefore(RegistryError):
    """There is a receipt for the request's idempotency key already; nothing was changed again."""


class UnknownKey(RegistryError):
    """No such API key."""


class KeyConflict(RegistryError):
    """What is asked for does not go together with the key as it is."""


class RefusedDatabase(RegistryError):
    """The control database has tables that this Sluice does not know."""


class StoreUnavailable(RegistryError):
    """A store behind the registry does not answer; what was asked for may be tried again."""


class EntryRefused(RegistryError):
    """The event stream will never take this entry, however often it is tried."""
