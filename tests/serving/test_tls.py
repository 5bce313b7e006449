"""TLS between gateways and workers: who is let in, what stays in the clear, and what rotation takes."""

import asyncio
import contextlib
import logging
import socket
import ssl
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import uvloop
from prometheus_client import REGISTRY

from deploy.machine.certificates import Made, make_certificates
from serving.errors import RankingError
from serving.frames import RankedReply
from serving.replicas import ReplicaPool
from serving.tls import channel as tls_channel
from serving.tls.channel import WorkerTls
from serving.tls.contexts import LOOKED_EVERY_S, Certificates, UnusableCertificates
from serving.tls.settings import FleetTls, TlsFiles, parse_fleet_tls, parse_gateway_tls
from tests.free_ports import free_port
from tests.serving.workbench import LENGTHS, PATIENCE_S, Replica, a_replica, a_request


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Made]:
    return certificates_in(tmp_path_factory.mktemp("certificates"))


def certificates_in(folder: Path) -> dict[str, Made]:
    return {one.name: one for one in make_certificates(folder, 1)}


def told_of(role: str, made: dict[str, Made], authority: dict[str, Made] | None = None) -> FleetTls:
    own = made[role]
    return FleetTls(TlsFiles(own.certificate, own.key, (authority or made)["ca"].certificate))


@contextmanager
def a_secured_replica(made: dict[str, Made]) -> Iterator[Replica]:
    with a_replica(address=f"tcp:127.0.0.1:{free_port()}", tls=WorkerTls(told_of("worker", made))) as replica:
        yield replica


async def asked(replica: Replica, tls: FleetTls | None, items: list[str], within_s: float = PATIENCE_S) -> RankedReply:
    pool = ReplicaPool((replica.address,), tls=tls)
    await pool.start()
    try:
        deadline_s = asyncio.get_running_loop().time() + within_s
        reply, _ = await pool.score("codesearch", 1, deadline_s, lambda loaded: a_request(items, top_k=len(items)))
        return reply
    finally:
        await pool.stop()


def heard_by(context: ssl.SSLContext, plain: socket.socket) -> bytes:
    """What a worker says to who connects so: nothing, if it refuses him (with TLS 1.3 he learns that when he reads)."""
    try:
        with context.wrap_socket(plain, server_hostname="sluice-worker") as secured:
            return secured.recv(1)
    except OSError:
        return b""


def refusals(reason: str) -> float:
    return REGISTRY.get_sample_value("serving_tls_refusals_total", {"reason": reason}) or 0.0


def until(holds: Callable[[], bool], what: str) -> None:
    until_s = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < until_s, what
        time.sleep(0.005)


def test_a_gateway_of_the_fleet_is_answered_over_tls(made: dict[str, Made]) -> None:
    items = list(LENGTHS)

    with a_secured_replica(made) as replica:
        reply = uvloop.run(asked(replica, told_of("gateway", made), items))

    assert items[reply.order[0]] == max(LENGTHS, key=lambda item: LENGTHS[item])


def test_frames_of_many_records_arrive_whole_both_ways(made: dict[str, Made]) -> None:
    """A record is 16 KB at most: this query takes dozens, its answer hundreds."""
    items = [f"item-{i}" for i in range(40_000)]

    with a_secured_replica(made) as replica:
        reply = uvloop.run(asked(replica, told_of("gateway", made), items))

    assert sorted(reply.order.tolist()) == list(range(40_000))


@pytest.mark.parametrize("who", ["nobody", "a client of the authority", "a gateway of another authority"])
def test_who_is_no_gateway_of_the_fleet_is_told_nothing(
    who: str, made: dict[str, Made], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(made["ca"].certificate)
    reason = "handshake"
    if who == "a client of the authority":
        context.load_cert_chain(made["client"].certificate, made["client"].key)
        reason = "name"
    elif who == "a gateway of another authority":
        other = certificates_in(tmp_path)["gateway"]
        context.load_cert_chain(other.certificate, other.key)
    before = refusals(reason)

    with a_secured_replica(made) as replica, caplog.at_level(logging.WARNING):
        _, host, port = replica.address.split(":")
        with socket.create_connection((host, int(port)), PATIENCE_S) as plain:
            heard = heard_by(context, plain)
        until(lambda: refusals(reason) > before, "the refusal to be counted")
        reply = uvloop.run(asked(replica, told_of("gateway", made), ["item-1"]))

    assert heard == b""
    assert len(reply.order) == 1
    assert "refused a connection from 127.0.0.1" in caplog.text


def test_who_speaks_without_tls_is_refused_and_who_only_looks_is_not_counted(made: dict[str, Made]) -> None:
    before = refusals("handshake")

    with a_secured_replica(made) as replica:
        _, host, port = replica.address.split(":")
        socket.create_connection((host, int(port)), PATIENCE_S).close()
        with socket.create_connection((host, int(port)), PATIENCE_S) as plain:
            plain.sendall(a_request(["item-1"]).encode())
            with contextlib.suppress(ConnectionResetError):
                assert plain.recv(1 << 16)[:1] in (b"", b"\x15")  # a TLS alert at most, never a frame
        until(lambda: refusals("handshake") > before, "the refusal to be counted")
        uvloop.run(asked(replica, told_of("gateway", made), ["item-1"]))

    assert refusals("handshake") == before + 1


def test_a_peer_that_says_a_byte_and_resets_the_connection_is_refused_and_others_are_answered(
    made: dict[str, Made],
) -> None:
    before, at_once = refusals("handshake"), struct.pack("ii", 1, 0)

    with a_secured_replica(made) as replica:
        _, host, port = replica.address.split(":")
        for _ in range(20):  # some resets come before the worker looks, some after
            with socket.create_connection((host, int(port)), PATIENCE_S) as rude:
                rude.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)
                rude.sendall(b"\x16")
        reply = uvloop.run(asked(replica, told_of("gateway", made), ["item-1"]))
        until(lambda: refusals("handshake") > before, "a refusal to be counted")

    assert len(reply.order) == 1


def test_a_peer_that_does_not_go_on_with_its_handshake_holds_nobody_up_and_is_cut_off(
    made: dict[str, Made],
) -> None:
    before = refusals("timeout")

    with a_secured_replica(made) as replica:
        _, host, port = replica.address.split(":")
        with socket.create_connection((host, int(port)), PATIENCE_S) as slow:
            slow.sendall(b"\x16\x03\x01")  # the beginning of a hello
            uvloop.run(asked(replica, told_of("gateway", made), ["item-1"]))
            slow.settimeout(tls_channel.SHAKEN_WITHIN_S + PATIENCE_S)
            assert slow.recv(1) == b""

    assert refusals("timeout") == before + 1


def test_a_gateway_takes_no_other_worker_for_one_of_the_fleet(
    made: dict[str, Made], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    elsewhere = certificates_in(tmp_path)

    with a_secured_replica(elsewhere) as replica, pytest.raises(RankingError, match="no replica"):
        uvloop.run(asked(replica, told_of("gateway", made), ["item-1"], within_s=0.5))

    assert "no TLS connection" in caplog.text
    assert "certificate verify failed" in caplog.text


def test_a_certificate_that_is_not_made_out_to_workers_is_refused_by_gateways(made: dict[str, Made]) -> None:
    posing = told_of("gateway", made)
    address = f"tcp:127.0.0.1:{free_port()}"
    with a_replica(address=address, tls=WorkerTls(posing)) as replica, pytest.raises(RankingError, match="no replica"):
        uvloop.run(asked(replica, told_of("gateway", made), ["item-1"], within_s=0.5))


def test_certificates_that_change_are_read_again_without_a_restart(tmp_path: Path) -> None:
    made, now_s = certificates_in(tmp_path), [0.0]
    kept = Certificates(told_of("worker", made).files, server=True, clock=lambda: now_s[0])

    def shown() -> int:
        """The serial number of the certificate that a client is shown."""
        client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        client.load_verify_locations(made["ca"].certificate)
        client.load_cert_chain(made["gateway"].certificate, made["gateway"].key)
        to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
        ends = (
            client.wrap_bio(to_client, to_server, server_hostname="sluice-worker"),
            kept.fresh().wrap_bio(to_server, to_client, server_side=True),
        )
        for _ in range(4):
            for end in ends:
                try:
                    end.do_handshake()
                except ssl.SSLWantReadError:
                    continue
        certificate = ends[0].getpeercert()
        assert certificate is not None
        return int(str(certificate["serialNumber"]), 16)

    first = shown()
    made = certificates_in(tmp_path)
    assert shown() == first  # it does not look at its files for every connection
    now_s[0] += LOOKED_EVERY_S
    second = shown()
    made["worker"].key.write_text("nonsense")
    now_s[0] += LOOKED_EVERY_S

    assert second != first
    assert shown() == second  # what cannot be used is passed over


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda files: files.key.unlink(), "No such file"),
        (lambda files: files.certificate.write_text("nonsense"), "worker.pem"),
        (lambda files: files.ca.write_text("nonsense"), "ca.pem"),
    ],
)
def test_files_that_cannot_be_used_are_named_at_the_start(
    spoil: Callable[[TlsFiles], object], why: str, tmp_path: Path
) -> None:
    files = told_of("worker", certificates_in(tmp_path)).files
    spoil(files)

    with pytest.raises(UnusableCertificates, match=why):
        Certificates(files, server=True)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("certificate=/a,key=/b", "ca is missing"),
        ("ca=/c,certificate=/a,key=b", "absolute path"),
        ("ca=/c,certificate=/a,key=/b,name=x", "expected ca=PATH"),
        ("ca=/c,certificate=/a,key=/b,worker=no name", "DNS name"),
        ("ca=/c,ca=/d,certificate=/a,key=/b", "expected ca=PATH"),
    ],
)
def test_a_setting_that_cannot_be_read_says_what_was_expected(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse_fleet_tls(text)


def test_clients_are_asked_for_a_certificate_only_if_the_setting_says_whose() -> None:
    assert parse_gateway_tls("certificate=/a,key=/b").ca is None
    assert parse_gateway_tls("certificate=/a,key=/b,clients=/c").ca == Path("/c")
