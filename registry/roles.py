"""What a key or token may do: four roles, each with everything that the one before it may."""

from typing import Literal, get_args

Role = Literal["caller", "viewer", "operator", "admin"]
"""caller: asks queries, gives feedback, and sees nothing of the control plane. viewer: looks. operator: starts,
pauses, resumes, aborts and rolls back, and hands in evidence. admin: promotes, changes plans by hand, makes, rotates
and revokes keys, and reads the audit log."""

ROLES: tuple[Role, ...] = get_args(Role)


def includes(held: Role, needed: Role) -> bool:
    """Whether who has the first role may do what asks for the second.

    >>> includes("admin", "viewer"), includes("viewer", "operator"), includes("viewer", "caller")
    (True, False, True)
    """
    return ROLES.index(held) >= ROLES.index(needed)
