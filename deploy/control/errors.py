"""Why a control request was refused, and the status each reason becomes.

```
ControlRefused     400  a field or header breaks a rule; names both
  NoKey            401  no key or token, or one that is not good
  NotAllowed       403  the key's role or models do not reach so far
  NotThere         404
  Conflict         409  the state forbids it; says what to do first
  OtherRevision    412  the plan is not at the revision of `If-Match`
  Contradiction    422  the Idempotency-Key is another request's, or the plan contradicts itself
  NotNow           503  a store is away
```
"""

from registry.contracts.errors import ContractError, InvalidName
from registry.errors import (
    AnsweredBefore,
    KeyConflict,
    RefusedVersion,
    RegistryError,
    RolloutConflict,
    RunConflict,
    StaleRevision,
    StoreUnavailable,
    UnknownKey,
    UnknownRollout,
    UnknownRun,
    UnknownVersion,
)


class ControlRefused(Exception):
    """The message says in one line what to do."""

    status = 400


class NoKey(ControlRefused):
    """Who asks is not known."""

    status = 401


class NotAllowed(ControlRefused):
    """Who asks is known, and may not."""

    status = 403


class NotThere(ControlRefused):
    """What is asked about does not exist."""

    status = 404


class Conflict(ControlRefused):
    """Not as things stand."""

    status = 409


class OtherRevision(ControlRefused):
    """The decision was made on a plan that is no more."""

    status = 412


class Contradiction(ControlRefused):
    """Readable, but it cannot be meant."""

    status = 422


class NotNow(ControlRefused):
    """Something behind the API does not answer; try again."""

    status = 503


_BECOMES: tuple[tuple[type[Exception], type[ControlRefused]], ...] = (
    (UnknownVersion, NotThere),
    (UnknownRollout, NotThere),
    (UnknownRun, NotThere),
    (UnknownKey, NotThere),
    (StaleRevision, Conflict),
    (RolloutConflict, Conflict),
    (RunConflict, Conflict),
    (AnsweredBefore, Conflict),
    (KeyConflict, Conflict),
    (RefusedVersion, Contradiction),
    (StoreUnavailable, NotNow),
    (InvalidName, ControlRefused),
    (ContractError, Contradiction),
)


def as_refusal(error: RegistryError | ContractError | ControlRefused) -> ControlRefused | None:
    """What the caller is told of it; None of what is a fault of ours."""
    if isinstance(error, ControlRefused):
        return error
    return next((refusal(str(error)) for kind, refusal in _BECOMES if isinstance(error, kind)), None)
