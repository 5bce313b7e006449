"""Which replica a query goes to."""

from collections.abc import Sequence


def choose(loads: Sequence[float], turn: int) -> int:
    """The place of the smallest load; of several equally small ones, each in its turn.

    loads: of the replicas that hold the version: candidates outstanding, divided by capacity where
    replicas differ. turn: a number that grows by one a query.

    Not by whose rows are warm: all replicas see the same traffic, so the hot rows are warm in all
    of them, and a query's candidates are a mixture that no one replica owns.

    >>> [choose([3, 1, 1, 2], turn) for turn in range(4)]
    [1, 2, 1, 2]
    """
    least = min(loads)
    first = loads.index(least)
    ties = loads.count(least)
    if ties == 1:
        return first
    wanted = turn % ties
    for place in range(first, len(loads)):
        if loads[place] == least:
            if not wanted:
                return place
            wanted -= 1
    raise AssertionError("unreachable: there are as many ties as were counted")
