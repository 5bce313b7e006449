"""What a request's `priority` means, the same for rankings and tensors, over HTTP and gRPC.

As in Triton: 0 is the default level, 1 the most urgent, a larger number less urgent. The default
level is 4, so that three levels come before it. What a level is worth: `batching`.
"""

from serving.errors import QueryRefused

DEFAULT_LEVEL = 4
MAX_PRIORITY = 255


def check_priority(field: str, priority: int) -> int:
    """The priority. Raises QueryRefused, naming the field, if it is none."""
    if not 0 <= priority <= MAX_PRIORITY:
        raise QueryRefused(
            f"{field}={priority}: expected 0 (the default, as {DEFAULT_LEVEL}) or 1 (first) to {MAX_PRIORITY} (last)"
        )
    return priority


def steps_behind(priority: int) -> int:
    """Levels that a request stands behind one of the default level; negative: before it.

    >>> steps_behind(0), steps_behind(4), steps_behind(1), steps_behind(255)
    (0, 0, -3, 251)
    """
    return priority - DEFAULT_LEVEL if priority else 0
