"""What every replica board does: it shows who is there, for as long as that was announced."""

import time

from registry.contracts.replicas import ReplicaRecord
from registry.replica_board import ReplicaBoard
from tests.builders import a_replica_record

PATIENCE_S = 10.0
LONG_S = 60.0


class ReplicaBoardSuite:
    """Subclasses supply the fixture `board`, an empty one."""

    def test_a_new_board_is_empty(self, board: ReplicaBoard) -> None:
        assert board.read() == {}

    def test_it_shows_every_replica_by_its_address(self, board: ReplicaBoard) -> None:
        one, other = a_replica_record("unix:/run/é.sock"), a_replica_record("tcp:10.0.0.1:9000", device="cuda:0")
        board.announce(one, LONG_S)
        board.announce(other, LONG_S)

        assert board.read() == {one.address: one, other.address: other}

    def test_a_record_whose_time_is_over_is_gone(self, board: ReplicaBoard) -> None:
        board.announce(a_replica_record("unix:/brief"), 0.05)
        board.announce(a_replica_record("unix:/long"), LONG_S)

        give_up_s = time.monotonic() + PATIENCE_S
        while board.read().keys() != {"unix:/long"}:
            assert time.monotonic() < give_up_s

    def test_announcing_again_prolongs_its_time(self, board: ReplicaBoard) -> None:
        for _ in range(3):
            board.announce(a_replica_record("unix:/a"), 0.05)
        board.announce(a_replica_record("unix:/a"), LONG_S)
        board.announce(a_replica_record("unix:/brief"), 0.05)

        give_up_s = time.monotonic() + PATIENCE_S
        while "unix:/brief" in board.read():
            assert time.monotonic() < give_up_s
        assert board.read().keys() == {"unix:/a"}

    def test_a_replica_that_drains_says_so(self, board: ReplicaBoard) -> None:
        board.announce(a_replica_record(), LONG_S)
        board.announce(a_replica_record(draining=True), LONG_S)

        assert [record.draining for record in board.read().values()] == [True]

    def test_a_process_that_drains_does_not_replace_its_successor(self, board: ReplicaBoard) -> None:
        old, new = a_replica_record(pid=10), a_replica_record(pid=11)
        board.announce(old, LONG_S)
        board.announce(new, LONG_S)
        board.announce(a_replica_record(pid=10, draining=True), LONG_S)
        assert board.read() == {new.address: new}

        same_pid = a_replica_record(pid=11, started_ms=new.started_ms + 1, draining=True)
        board.announce(same_pid, LONG_S)
        assert board.read() == {new.address: new}

    def test_a_successor_replaces_a_process_that_drains(self, board: ReplicaBoard) -> None:
        board.announce(a_replica_record(pid=10, draining=True), LONG_S)
        board.announce(a_replica_record(pid=11), LONG_S)

        assert [record.pid for record in board.read().values()] == [11]

    def test_records_survive_their_encoding(self, board: ReplicaBoard) -> None:
        record = a_replica_record(capacity=1 << 40, started_ms=1_767_225_600_123, draining=True)
        board.announce(record, LONG_S)

        assert board.read() == {record.address: record}
        assert ReplicaRecord.decode(record.encode()) == record
