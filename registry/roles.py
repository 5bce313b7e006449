"""What a key may do: three roles, each with everything that the one before it may."""

from typing import Literal, get_args

Role = Literal["viewer", "operator", "admin"]
"""viewer: looks. operator: starts, pauses, resumes, aborts and rolls back, and hands in evidence.
admin: promotes, changes plans by hand, and makes and revokes keys."""

ROLES: tuple[Role, ...] = get_args(Role)


def includes(held: Role, needed: Role) -> bool:
    """Whether who has the first role may do what asks for the second.

    >>> includes("admin", "viewer"), includes("viewer", "operator")
    (True, False)
    """
    return ROLES.index(held) >= ROLES.index(needed)
