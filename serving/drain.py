"""When a worker that was told to stop may close: after its gateways have heard that it wants no more."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DrainRule:
    """quiet_s: how long nothing must have come before everything is taken to have come; longer than
    a gateway needs to read a state. grace_s: the most that draining takes, however busy a gateway
    that does not listen keeps it."""

    quiet_s: float = 0.1
    grace_s: float = 5.0

    def is_over(self, began_s: float, received_s: float, waiting: int, now_s: float) -> bool:
        """Whether nothing is left to wait for.

        began_s: when gateways were told. received_s: when the last request came. waiting: requests
        not answered yet.

        >>> rule = DrainRule(quiet_s=0.1, grace_s=5.0)
        >>> rule.is_over(10.0, 10.05, 0, 10.1), rule.is_over(10.0, 10.05, 0, 10.2), rule.is_over(10.0, 10.05, 3, 10.2)
        (False, True, False)
        >>> rule.is_over(10.0, 15.0, 3, 15.0)
        True
        """
        if now_s - began_s >= self.grace_s:
            return True
        return not waiting and now_s - max(began_s, received_s) >= self.quiet_s
