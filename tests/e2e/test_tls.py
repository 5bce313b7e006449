"""A platform whose every port has TLS: commands, unmodified clients, and gateways with workers over TCP."""

import http.client
import os
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http

from deploy.client import GatewayClient
from deploy.machine.certificates import make_certificates
from serving.gateway.protos import ranking_pb2 as pb
from tests.e2e.platforms_under_fire import ITEMS, MODEL, PATIENCE_S, Platform
from tests.free_ports import free_port


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tls")
    make_certificates(folder, 1)
    return folder


@pytest.fixture(scope="module")
def platform(certificates: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """Two workers over TCP; clients must show a certificate. Gateways and workers of one machine share theirs."""
    pair = f"certificate={certificates}/gateway.pem,key={certificates}/gateway.key"
    started = Platform.start(
        tmp_path_factory.mktemp("home") / "home",
        workers=2,
        worker_host="127.0.0.1",
        worker_port=free_port(),
        fleet_tls=f"ca={certificates}/ca.pem,{pair},worker=sluice-gateway",
        gateway_tls=f"{pair},clients={certificates}/ca.pem",
    )
    try:
        started.serve()
        started.wait_until_held(f"{MODEL}@1", 2)
        yield started
    finally:
        started.stop()


def a_client(certificates: Path, shows: bool = True) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(certificates / "ca.pem"))
    if shows:
        context.load_cert_chain(certificates / "client.pem", certificates / "client.key")
    return context


def test_a_query_is_ranked_over_tls_all_the_way_and_commands_find_their_gateway(platform: Platform) -> None:
    with GatewayClient.of(platform.settings) as gateway:
        answers = [platform.rank(gateway, place) for place in range(20)]

    assert platform.settings.gateway_url.startswith("https://")
    assert all(len(answer["items"]) == 5 for answer in answers)
    told = subprocess.run(
        [sys.executable, "-m", "deploy.cli", "status"],
        env=os.environ | platform.settings.to_environment(),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert told.returncode == 0, told.stdout + told.stderr


def test_who_shows_no_certificate_gets_no_answer(platform: Platform, certificates: Path) -> None:
    port = platform.settings.gateway_port
    known = http.client.HTTPSConnection("localhost", port, timeout=PATIENCE_S, context=a_client(certificates))
    known.request("GET", "/health")
    assert known.getresponse().status == 200
    known.close()
    for stranger in (
        http.client.HTTPSConnection("localhost", port, timeout=PATIENCE_S, context=a_client(certificates, shows=False)),
        http.client.HTTPConnection("localhost", port, timeout=PATIENCE_S),
    ):
        with pytest.raises((OSError, http.client.HTTPException)):
            stranger.request("GET", "/health")
            stranger.getresponse()
        stranger.close()


def test_an_unmodified_tritonclient_works_over_tls(platform: Platform, certificates: Path) -> None:
    address = f"localhost:{platform.settings.gateway_port}"
    with tritonclient.http.InferenceServerClient(
        address, ssl=True, ssl_context_factory=lambda: a_client(certificates)
    ) as client:
        assert client.is_server_ready()
        assert client.get_model_metadata(MODEL)["name"] == MODEL
    with tritonclient.grpc.InferenceServerClient(
        f"localhost:{platform.settings.grpc_port}",
        ssl=True,
        root_certificates=str(certificates / "ca.pem"),
        private_key=str(certificates / "client.key"),
        certificate_chain=str(certificates / "client.pem"),
    ) as client:
        assert client.is_server_ready()
        specs = client.get_model_metadata(MODEL).inputs
        inputs = []
        for spec in specs:
            values = np.zeros([4 if size == -1 else size for size in spec.shape], dtype=np.float32)
            inputs.append(tritonclient.grpc.InferInput(spec.name, values.shape, spec.datatype))
            inputs[-1].set_data_from_numpy(values)
        answer = client.infer(MODEL, inputs)
        assert answer.as_numpy("scores").shape == (4,)


def test_a_ranking_by_grpc_goes_over_tls(platform: Platform, certificates: Path) -> None:
    shown = grpc.ssl_channel_credentials(
        *((certificates / name).read_bytes() for name in ("ca.pem", "client.key", "client.pem"))
    )
    with grpc.secure_channel(f"localhost:{platform.settings.grpc_port}", shown) as channel:
        rank = channel.unary_unary(
            "/sluice.ranking.v1.Ranking/Rank", pb.RankRequest.SerializeToString, pb.RankResponse.FromString
        )
        answer: pb.RankResponse = rank(pb.RankRequest(model=MODEL, candidates=ITEMS[:10]), timeout=PATIENCE_S)

    assert answer.items[0].id == ITEMS[9]
