"""The gRPC port of a running platform: shared by its gateways, drained when they stop."""

import socket
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
import tritonclient.grpc as triton

from deploy.client import GatewayClient
from deploy.errors import SluiceError
from deploy.machine.state import read_state
from serving.gateway.protos import ranking_pb2 as pb
from serving.gateway.protos.health_pb2 import HealthCheckRequest, HealthCheckResponse
from tests.e2e.platforms_under_fire import ITEMS, MODEL, PATIENCE_S, Platform, until


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[Platform]:
    started = Platform.start(tmp_path / "home", gateways=2)
    try:
        started.serve()
        yield started
    finally:
        started.stop()


def rank_once(address: str) -> pb.RankResponse:
    """Over a connection of its own, once its gateway is ready."""
    # channels to one address share a connection unless told otherwise
    with grpc.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
        check = channel.unary_unary(
            "/grpc.health.v1.Health/Check", HealthCheckRequest.SerializeToString, HealthCheckResponse.FromString
        )
        until(
            lambda: check(HealthCheckRequest(), timeout=PATIENCE_S).status == HealthCheckResponse.SERVING,
            "the gateway of this connection to be ready",
        )
        rank = channel.unary_unary(
            "/sluice.ranking.v1.Ranking/Rank", pb.RankRequest.SerializeToString, pb.RankResponse.FromString
        )
        answer: pb.RankResponse = rank(pb.RankRequest(model=MODEL, candidates=ITEMS[:10]), timeout=PATIENCE_S)
        return answer


def test_two_gateways_answer_on_one_port_and_what_they_rank_is_archived(platform: Platform) -> None:
    address = platform.settings.grpc_address

    ranked = [rank_once(address) for _ in range(24)]  # the kernel deals connections out: both get some

    assert all(answer.items[0].id == ITEMS[9] for answer in ranked)
    wanted = {answer.ranking_id for answer in ranked}
    until(lambda: wanted <= set(platform.archived()), "all rankings to be archived")
    with triton.InferenceServerClient(address) as client:
        assert client.is_server_live()
        assert client.get_server_metadata().name == "sluice"
    with GatewayClient(platform.settings.gateway_url) as gateway:
        status = gateway.get("/v1/status")
    assert status["ready"]


def test_a_gateway_that_is_killed_leaves_the_port_to_the_other(platform: Platform) -> None:
    address = platform.settings.grpc_address
    rank_once(address)
    platform.kill("gateway-0")

    def answered() -> bool:
        try:
            return bool(rank_once(address).items)
        except grpc.RpcError:
            return False  # its connection was dealt to the one that is gone

    until(answered, "the other gateway to answer")


def test_a_gateway_without_grpc_does_not_pay_for_it(tmp_path: Path) -> None:
    platform = Platform.start(tmp_path / "home", with_grpc=False)
    try:
        state = read_state(platform.settings)
        assert state is not None
        [gateway] = [process.pid for process in state.processes if process.name == "gateway-0"]
        assert "_upb" not in Path(f"/proc/{gateway}/maps").read_text()  # protobuf's library
    finally:
        platform.stop()


def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SluiceError, match=f"SLUICE_GRPC_PORT={port}"):
            Platform.start(tmp_path / "home", grpc_port=port)
