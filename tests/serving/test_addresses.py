"""Where workers listen: on a Unix socket of one user, or on a TCP port."""

import socket
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.addresses import BadAddress, TcpAddress, UnixAddress, check_peer, parse_address
from tests.free_ports import free_port


@pytest.fixture
def folder() -> Iterator[Path]:
    # not tmp_path: the path of a Unix socket may have 107 bytes at most
    with tempfile.TemporaryDirectory(prefix="sluice-", dir="/tmp") as made:
        yield Path(made)


@pytest.mark.parametrize("text", ["unix:/run/w.sock", "tcp:10.0.0.1:9000", "tcp:[::1]:9000", "tcp:worker-0.fleet:80"])
def test_an_address_is_written_as_it_is_read(text: str) -> None:
    assert str(parse_address(text)) == text


@pytest.mark.parametrize(
    "text", ["", "run/w.sock", "unix:", "unix:w.sock", "tcp:", "tcp:9000", "tcp:host:", "tcp:host:x", "tcp:host:65536"]
)
def test_what_is_no_address_is_refused_with_what_one_looks_like(text: str) -> None:
    with pytest.raises(BadAddress, match=r"expected .*tcp:host:port"):
        parse_address(text)


def test_a_path_too_long_for_a_socket_is_refused() -> None:
    with pytest.raises(BadAddress, match="at most 107 bytes"):
        parse_address(f"unix:/{'x' * 107}")


@pytest.mark.parametrize("kind", ["unix", "tcp"])
def test_who_connects_is_accepted_and_both_ends_talk(kind: str, folder: Path) -> None:
    address = UnixAddress(str(folder / "w.sock")) if kind == "unix" else TcpAddress("127.0.0.1", free_port())
    with address.listen() as listener, address.socket() as channel:
        channel.setblocking(True)
        channel.connect(address.target)
        listener.setblocking(True)
        accepted, _ = listener.accept()
        with accepted:
            channel.sendall(b"ping")
            assert accepted.recv(4) == b"ping"
            if kind == "tcp":
                assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_a_unix_socket_is_its_users_alone_and_takes_a_dead_ones_place(folder: Path) -> None:
    address = UnixAddress(str(folder / "w.sock"))
    address.listen().close()

    with address.listen():
        assert stat.S_IMODE((folder / "w.sock").stat().st_mode) == 0o600


def test_a_socket_that_has_connected_to_itself_has_found_nobody() -> None:
    address = TcpAddress("127.0.0.1", free_port())
    with address.socket() as channel:
        channel.setblocking(True)
        channel.bind(address.target)
        channel.connect(address.target)

        with pytest.raises(ConnectionRefusedError, match="connected to itself"):
            check_peer(channel)
