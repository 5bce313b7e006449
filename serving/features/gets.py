"""Many GETs on one connection: sent in one write, read when the caller gets to it."""

import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self, cast

import redis
from redis.connection import Connection
from redis.exceptions import ResponseError

Answer = bytes | redis.RedisError | None  # a row, none, or why nothing can be said
ASKING = b"*1\r\n$6\r\nASKING\r\n"
_ERRORS_OF_A_KEY = ("WRONGTYPE",)  # such a key is no row, as MGET has it


class PipelinedGets:
    """The GETs of some keys at one node.

    asking: for keys on their way to this node, which it hands out only to who asks so. Leaving the
    context gives the connection back, closed if answers are still to come.
    """

    def __init__(self, pool: redis.ConnectionPool, keys: Sequence[bytes], asking: bool = False) -> None:
        self._pool, self._keys, self._asking = pool, keys, asking
        self._connection: Connection | None = None
        self._owed = False

    def send(self) -> None:
        """Connects if needed, and writes. Raises RedisError."""
        self._connection = self._pool.get_connection()
        self._owed = True
        # by hand: redis-py's packing of a command each costs more than everything else here
        before = ASKING if self._asking else b""
        packed = [b"%b*2\r\n$3\r\nGET\r\n$%d\r\n%b\r\n" % (before, len(key), key) for key in self._keys]
        self._connection.send_packed_command([b"".join(packed)])  # type: ignore[no-untyped-call]

    def read(self, deadline_s: float) -> list[Answer]:
        """The answers, aligned with the keys. deadline_s: of the monotonic clock; one that has passed
        still takes what has arrived. Raises RedisError if the node fails half-way."""
        assert self._connection is not None
        answers: list[Answer] = []
        for _ in self._keys:
            if self._asking:
                self._read_one(deadline_s)
            answers.append(self._read_one(deadline_s))
        self._owed = False
        return answers

    def _read_one(self, deadline_s: float) -> Answer:
        left_s = max(0.001, deadline_s - time.monotonic())
        try:
            return cast(Answer, self._connection.read_response(timeout=left_s))  # type: ignore[union-attr]
        except ResponseError as error:
            return None if str(error).startswith(_ERRORS_OF_A_KEY) else error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._connection is None:
            return
        if self._owed:
            self._connection.disconnect()  # type: ignore[no-untyped-call]
        self._pool.release(self._connection)
