"""What users see of a worker's reply, or of two: which candidates, in which order, with which probability."""

import functools
import random
from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from serving.exploration import Exploration, unexplored
from serving.frames import LoadedVersion, RankedReply
from serving.interleaving import team_draft


class Shown(msgspec.Struct):
    """One list. places: in the query's candidates, as shown.

    scores: float32 (shown,); features: float32 (shown, columns) in bytes; propensities: float32 (shown,) in
    bytes: all of the items shown. teams, team_version, explored: as in `RankingEvent`.
    """

    places: list[int]
    scores: NDArray[np.float32]
    features: bytes
    propensities: bytes
    teams: bytes = b""
    team_version: int = 0
    explored: bool = False


@functools.cache
def certain(shown: int) -> bytes:
    """Propensities where nothing was left to chance: ones, float32."""
    return np.ones(shown, dtype="<f4").tobytes()


def as_ranked(reply: RankedReply) -> Shown:
    """The list as the version ranked it."""
    places = reply.order.tolist()
    return Shown(places, reply.scores, reply.features, certain(len(places)))


def left_alone(reply: RankedReply, exploration: Exploration) -> Shown:
    """The list as the version ranked it, which might have been explored."""
    return Shown(reply.order.tolist(), reply.scores, reply.features, unexplored(exploration))


def explored(reply: RankedReply, exploration: Exploration, coins: random.Random) -> Shown:
    """The list with one item of the head in another's place. reply: of `exploration.rows` items."""
    swap = exploration.draw(coins)
    ranks = exploration.order(swap)
    return Shown(
        places=reply.order[ranks].tolist(),
        scores=reply.scores[ranks],
        features=_rows((reply,), [(0, rank) for rank in ranks]),
        propensities=exploration.propensities(swap).astype("<f4").tobytes(),
        explored=True,
    )


def interleaved(
    champion: tuple[RankedReply, LoadedVersion], challenger: tuple[RankedReply, LoadedVersion], coins: int
) -> Shown:
    """Both lists drafted into one; score and features of an item are its team's.

    coins: see `team_draft`. Features are left out unless both versions have one feature view.
    """
    replies = (champion[0], challenger[0])
    rankings = [reply.order.tolist() for reply in replies]
    draft = team_draft(rankings[0], rankings[1], coins)
    rank = [{place: i for i, place in enumerate(ranking)} for ranking in rankings]
    picks = [(team, rank[team][place]) for team, place in zip(draft.teams, draft.order, strict=True)]
    alike = champion[1].fingerprint == challenger[1].fingerprint
    return Shown(
        places=draft.order,
        scores=np.array([replies[team].scores[at] for team, at in picks], dtype=np.float32),
        features=_rows(replies, picks) if alike else b"",
        propensities=draft.propensities.astype("<f4").tobytes(),
        teams=draft.teams,
        team_version=challenger[1].version,
    )


def _rows(replies: Sequence[RankedReply], picks: Sequence[tuple[int, int]]) -> bytes:
    """Feature rows. picks: of which reply, and at which rank."""
    width = [len(reply.features) // len(reply.order) for reply in replies]
    return b"".join([replies[which].features[at * width[which] : (at + 1) * width[which]] for which, at in picks])
