"""Why a query was not answered, and the status each reason becomes (HTTP, gRPC).

```
RankingError              500  INTERNAL
  ReplicaFailed           500  INTERNAL            it, or the model, broke; tried once more on another replica
  QueryRefused            400  INVALID_ARGUMENT    names the field and the rule
    UnknownModel          404  NOT_FOUND
    WrongMethod           405  UNIMPLEMENTED
    TooSlow               408  DEADLINE_EXCEEDED   it did not arrive in time
    BodyTooLarge          413  INVALID_ARGUMENT
    WrongContentType      415  INVALID_ARGUMENT
    NotServed             501  UNIMPLEMENTED       part of a protocol that is left out here
  NotAuthenticated        401  UNAUTHENTICATED     no key or token, or one that is not good
  NotAllowed              403  PERMISSION_DENIED   its role or models do not reach so far
  Overloaded              429  RESOURCE_EXHAUSTED  no permit; carries retry_after_s
    QuotaExceeded         429  RESOURCE_EXHAUSTED  a key's or a line's; names it
  ReplicaUnhealthy        503  UNAVAILABLE         no replica holds the version
    PlansUnknown          503                      just started, and Redis is away
    ReplicaLost           503                      it died with the query; retried, rarely seen
    BelowStandard         503                      could only be answered by less than the settings allow
    EventLogFull          503                      feedback cannot be kept safe now
    IdentityUnknown       503                      just started, and nobody says which keys are good
  ControlAway             503  UNAVAILABLE         the controller does not answer; queries go on
  DeadlineExceeded        504  DEADLINE_EXCEEDED
```
"""


class RankingError(Exception):
    """A query could not be answered."""

    status = 500
    retry_after_s: float | None = None


class ReplicaFailed(RankingError):
    """The replica could not answer the query, by its own or the model's fault. process: see `ReplicaLost`."""

    def __init__(self, message: str, process: tuple[str, int] = ("", 0)) -> None:
        super().__init__(message)
        self.process = process


class QueryRefused(RankingError):
    """The query breaks a rule; the message names field and rule."""

    status = 400


class UnknownModel(QueryRefused):
    """No traffic plan names this model."""

    status = 404


class WrongMethod(QueryRefused):
    """The route takes POST."""

    status = 405


class TooSlow(QueryRefused):
    """The request trickled in for longer than anybody waits for it."""

    status = 408


class BodyTooLarge(QueryRefused):
    """More bytes than the gateway takes."""

    status = 413


class WrongContentType(QueryRefused):
    """Not a body that this route reads."""

    status = 415


class NotServed(QueryRefused):
    """A part of the protocol that this platform leaves out; the message says what to do instead."""

    status = 501


class NotAuthenticated(RankingError):
    """Who asks is not known. reason: for metrics."""

    status = 401

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class UnknownSigner(NotAuthenticated):
    """The token names a key that its issuer has not shown yet: it may be a new one."""


class NotAllowed(RankingError):
    """Who asks is known, and may not. reason: what is too small, `role` or `model`, for the counter."""

    status = 403

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class Overloaded(RankingError):
    """All permits are out: try again in `retry_after_s`."""

    status = 429

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class QuotaExceeded(Overloaded):
    """More than the quota gives; its tokens are back in `retry_after_s`. reason: which quota, for metrics."""

    def __init__(self, message: str, retry_after_s: float, reason: str) -> None:
        super().__init__(message, retry_after_s)
        self.reason = reason


class ReplicaUnhealthy(RankingError):
    """No replica is there to answer."""

    status = 503
    retry_after_s = 1.0


class PlansUnknown(ReplicaUnhealthy):
    """The gateway has not seen a traffic plan yet: it cannot say that a model is not served."""


class ReplicaLost(ReplicaUnhealthy):
    """The connection to the replica broke while it held the query. process: its address and process id, if known."""

    def __init__(self, message: str, process: tuple[str, int] = ("", 0)) -> None:
        super().__init__(message)
        self.process = process


class RemoteUnfit(ReplicaUnhealthy):
    """The model on the remote server is gone, or is not what was registered."""


class BelowStandard(ReplicaUnhealthy):
    """The answer would have done without more than the settings allow."""


class EventLogFull(ReplicaUnhealthy):
    """The journal has no room: what cannot be kept is not accepted."""


class IdentityUnknown(ReplicaUnhealthy):
    """The gateway has not seen yet which keys are good: it cannot say that one is not."""


class ControlAway(RankingError):
    """Nobody can be asked to change traffic now; what is served stays as it is."""

    status = 503
    retry_after_s = 1.0


class DeadlineExceeded(RankingError):
    """The answer would have come too late."""

    status = 504
