"""nginx in front of two gateways that are closed to strangers, one of which is killed: HTTP and gRPC, by the
configuration that `sluice edges nginx` makes."""

import functools
import json
import os
import queue
import signal
import ssl
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http

from deploy.machine.certificates import make_certificates
from serving.gateway.protos import ranking_pb2 as pb
from serving.settings import GatewaySettings
from tests.e2e.platforms_under_fire import ITEMS, MODEL, PATIENCE_S, Clients, Platform, until
from tests.edge_server import Nginx, SecondGateway, nginx_before, nginx_executable, second_gateway

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
RANK = f"/v1/models/{MODEL}/rank"
BODY = {"candidates": ITEMS[:10], "top_k": 5, "deadline_ms": 30_000}
TRACE = "0af7651916cd43dd8448eb211c80319c"
# what a gRPC client says of calls whose connection broke: nginx cannot say it for them
RETRIES = {
    "methodConfig": [
        {
            "name": [{}],
            "retryPolicy": {
                "maxAttempts": 5,
                "initialBackoff": "0.02s",
                "maxBackoff": "0.5s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ]
}


@dataclass
class World:
    """A platform, a second gateway beside its own, and nginx before both. key: of a caller."""

    platform: Platform
    second: SecondGateway
    nginx: Nginx
    key: str

    @property
    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.key}"}

    @property
    def places(self) -> tuple[Any, Any]:
        settings = self.platform.settings
        return self.second.place, replace(
            self.second.place, http_port=settings.gateway_port, grpc_port=settings.grpc_port
        )


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    nginx_executable()
    folder = tmp_path_factory.mktemp("edge")
    platform = Platform.start(folder / "home", with_controller=True, auth="all")
    try:
        platform.serve()
        key = new_key(platform, "app")
        with second_gateway(platform) as second:
            settings = platform.settings
            own = replace(second.place, http_port=settings.gateway_port, grpc_port=settings.grpc_port)
            with nginx_before(folder / "nginx", own, second.place, key_rate=100_000, address_rate=100_000) as nginx:
                world = World(platform, second, nginx, key)
                until(lambda: known(world), "the key to be known at both gateways")
                yield world
    finally:
        platform.stop()


def new_key(platform: Platform, name: str) -> str:
    made = subprocess.run(
        [sys.executable, "-m", "deploy.cli", "keys", "create", name, "--role", "caller", "--json"],
        env=os.environ | platform.settings.to_environment(),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert made.returncode == 0, made.stderr
    return str(json.loads(made.stdout)["key"])


def known(world: World) -> bool:
    """Both gateways rank with the key."""
    return all(
        httpx.post(f"http://127.0.0.1:{place.http_port}{RANK}", json=BODY, headers=world.headers).status_code == 200
        for place in world.places
    )


@dataclass
class EdgeLoad(Clients):
    """Clients of HTTP and gRPC that rank and click without pause; each request is asked once."""

    world: World
    http_clients: int = 3
    grpc_clients: int = 2
    ranked: "queue.SimpleQueue[str]" = field(default_factory=queue.SimpleQueue)
    clicked: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    def _runs(self) -> Sequence[Callable[[], None]]:
        clients = [self._http] * self.http_clients + [self._grpc] * self.grpc_clients
        return [functools.partial(run, number) for number, run in enumerate(clients)]

    def wait_for(self, more: int) -> None:
        wanted = self.ranked.qsize() + more
        until(lambda: self.failed or self.ranked.qsize() >= wanted, f"{more} more answers")

    def _http(self, number: int) -> None:
        with httpx.Client(base_url=self.world.nginx.url, headers=self.world.headers, timeout=60.0) as client:
            count = 0
            while not self._stopped:
                count += 1
                answer = client.post(RANK, json=BODY)
                if answer.status_code != 200:
                    self.failed.append(f"rank: {answer.status_code} {answer.text[:200]}")
                    continue
                ranking_id = answer.json()["ranking_id"]
                self.ranked.put(ranking_id)
                event_id = f"click-{number}-{count}"
                click = {"event_id": event_id, "type": "click", "ranking_id": ranking_id, "item": ITEMS[9]}
                told = client.post("/v1/feedback", json={"events": [click]})
                if told.status_code == 202:
                    self.clicked.append(event_id)
                else:
                    self.failed.append(f"feedback: {told.status_code} {told.text[:200]}")

    def _grpc(self, number: int) -> None:
        options = [
            ("grpc.service_config", json.dumps(RETRIES)),
            ("grpc.enable_retries", 1),
            ("grpc.use_local_subchannel_pool", 1),
        ]
        with grpc.insecure_channel(self.world.nginx.grpc_address, options) as channel:
            rank = rank_call(channel)
            while not self._stopped:
                try:
                    answer = rank(
                        pb.RankRequest(model=MODEL, candidates=ITEMS[:10]),
                        timeout=60.0,
                        metadata=[("authorization", f"Bearer {self.world.key}")],
                    )
                except grpc.RpcError as error:
                    self.failed.append(f"gRPC: {error}")
                else:
                    self.ranked.put(answer.ranking_id)


def rank_call(channel: grpc.Channel) -> Any:
    return channel.unary_unary(
        "/sluice.ranking.v1.Ranking/Rank", pb.RankRequest.SerializeToString, pb.RankResponse.FromString
    )


def rank(url: str, headers: dict[str, str], **options: Any) -> httpx.Response:
    return httpx.post(url + RANK, json=BODY, headers=headers, timeout=60.0, **options)


def drained(ids: "queue.SimpleQueue[str]") -> list[str]:
    return [ids.get() for _ in range(ids.qsize())]


def test_no_query_fails_and_feedback_counts_once_when_a_gateway_is_killed_under_load(world: World) -> None:
    before = len(world.nginx.log())
    with EdgeLoad(world) as load:
        load.wait_for(400)
        balanced = len(world.nginx.log())
        world.second.end(signal.SIGKILL)
        load.wait_for(400)
        world.second.start()
        back = len(world.nginx.log())
        again = f"127.0.0.1:{world.second.settings.gateway_port}"
        until(lambda: [line for line in world.nginx.log()[back:] if line["gateway"] == again], "traffic to it again")

    assert load.failed == []
    log = world.nginx.log()
    shares = Counter(line["gateway"] for line in log[before:balanced] if line["path"] == RANK)
    assert len(shares) == 2
    assert min(shares.values()) / shares.total() >= 0.15, shares  # a slower gateway is to get less
    passed_on = sum("," in line["gateway"] for line in log[balanced:back])
    assert passed_on, "no request was passed on from the gateway that was killed"
    print(f"{load.ranked.qsize()} ranked, none failed, {passed_on} passed on to the other gateway; before: {shares}")

    answered = drained(load.ranked)
    assert len(set(answered)) == len(answered)
    until(lambda: set(answered) <= set(world.platform.archived()), "every answer in the archive")
    until(
        lambda: (
            sorted(one for one in world.platform.archived_feedback() if one.startswith("click-"))
            == sorted(load.clicked)
        ),
        "every click in the archive, once",
    )


def test_strangers_are_refused_and_the_log_knows_rankings_but_nobody(world: World) -> None:
    before = len(world.nginx.log())
    url = world.nginx.url

    answers = [
        rank(url, {}),
        rank(url, {"authorization": "Bearer sluice_wrong"}),
        rank(url, world.headers | {"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}, params={"who": "ann"}),
    ]
    asked = pb.RankRequest(model=MODEL, candidates=ITEMS[:3])
    with grpc.insecure_channel(world.nginx.grpc_address) as channel:
        with pytest.raises(grpc.RpcError) as stranger:
            rank_call(channel)(asked, timeout=60.0)
        ranked = rank_call(channel)(asked, timeout=60.0, metadata=[("authorization", world.headers["authorization"])])

    assert [answer.status_code for answer in answers] == [401, 401, 200]
    assert stranger.value.code() is grpc.StatusCode.UNAUTHENTICATED
    lines = world.nginx.until_logged(before + 5)[before:]
    assert [line["status"] for line in lines] == [401, 401, 200, 200, 200]
    assert (lines[2]["ranking_id"], lines[2]["trace_id"]) == (answers[2].json()["ranking_id"], TRACE)
    assert lines[3]["grpc_status"] == str(grpc.StatusCode.UNAUTHENTICATED.value[0])
    assert (lines[4]["ranking_id"], lines[4]["grpc_status"]) == (ranked.ranking_id, "0")
    raw = (world.nginx.folder / "access.log").read_text()
    clients = [line["gateway"].count("127.0.0.1") for line in lines]
    assert sum(clients) == json.dumps(lines).count("127.0.0.1")  # gateways' addresses, no client's
    assert [word for word in (world.key, "sluice_wrong", "Bearer", "who=", "python") if word in raw] == []
    assert world.key not in (world.nginx.folder / "error.log").read_text()


def test_an_unmodified_triton_client_works_over_the_edge(world: World) -> None:
    values = np.arange(30, dtype=np.float32).reshape(-1, 3)
    scores = {}
    address = world.nginx.url.removeprefix("http://")
    with triton_http.InferenceServerClient(address) as client:
        assert client.is_server_ready()
        rows = triton_http.InferInput("features", list(values.shape), "FP32")
        rows.set_data_from_numpy(values)
        scores["http"] = client.infer(MODEL, [rows], headers=world.headers).as_numpy("scores")
    streamed: queue.Queue[Any] = queue.Queue()
    with triton_grpc.InferenceServerClient(world.nginx.grpc_address) as client:
        assert client.is_server_live()
        rows = triton_grpc.InferInput("features", list(values.shape), "FP32")
        rows.set_data_from_numpy(values)
        scores["grpc"] = client.infer(MODEL, [rows], headers=world.headers).as_numpy("scores")
        client.start_stream(lambda result, error: streamed.put((result, error)), headers=world.headers)
        for _ in range(3):
            client.async_stream_infer(MODEL, [rows])
        told = [streamed.get(timeout=PATIENCE_S) for _ in range(3)]
        client.stop_stream()

    assert [error for _, error in told if error] == []
    scores |= {f"stream {i}": result.as_numpy("scores") for i, (result, _) in enumerate(told)}
    for name, found in scores.items():
        assert np.array_equal(found.ravel(), scores["http"].ravel()), name
    assert len(set(scores["http"].ravel().tolist())) == 10


def test_who_asks_too_often_is_told_to_wait_and_others_are_not(world: World, tmp_path: Path) -> None:
    other = {"authorization": f"Bearer {new_key(world.platform, 'other')}"}
    until(lambda: rank(world.nginx.url, other).status_code == 200, "the other key to be known")
    with nginx_before(tmp_path / "nginx", *world.places, key_rate=1, burst_s=5, address_rate=100_000) as nginx:
        answers = [rank(nginx.url, world.headers) for _ in range(12)]
        another = rank(nginx.url, other)
        with grpc.insecure_channel(nginx.grpc_address) as channel, pytest.raises(grpc.RpcError) as limited:
            for _ in range(12):
                rank_call(channel)(
                    pb.RankRequest(model=MODEL, candidates=ITEMS[:3]),
                    timeout=60.0,
                    metadata=[("authorization", world.headers["authorization"])],
                )
    with nginx_before(tmp_path / "narrow", *world.places, address_rate=1, burst_s=5) as nginx:
        mixed = [rank(nginx.url, headers).status_code for headers in (world.headers, other) * 6]

    found = Counter(answer.status_code for answer in answers)
    assert found.keys() == {200, 429}
    assert found[200] >= 6
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert (refused.headers["retry-after"], "key or address" in refused.json()["error"]) == ("1", True)
    assert another.status_code == 200
    assert limited.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert set(mixed) == {200, 429}


def test_a_body_is_refused_where_a_gateway_would_refuse_it(world: World) -> None:
    limit = GatewaySettings(journal=Path("j"), plan_copy=Path("p"), workers=("w",)).max_body_bytes
    json_type = world.headers | {"content-type": "application/json"}
    infer = f"{world.nginx.url}/v2/models/{MODEL}/infer"

    over = httpx.post(world.nginx.url + RANK, content=b" " * (limit + 1), headers=json_type, timeout=60.0)
    under = httpx.post(world.nginx.url + RANK, content=b" " * limit, headers=json_type, timeout=60.0)
    tensors = httpx.post(infer, content=b" " * (limit + 1), headers=json_type, timeout=60.0)

    assert (over.status_code, str(limit) in over.json()["error"]) == (413, True)
    assert (under.status_code, tensors.status_code) == (400, 400)  # the gateway's own words
    assert httpx.get(world.nginx.url + "/metrics", headers=world.headers).status_code == 404


def test_a_gateway_that_hangs_is_waited_for_as_long_as_the_deadline_says_and_nobody_is_asked_twice(
    world: World,
) -> None:
    own = until(lambda: world.platform.pid("gateway-0"), "the platform's gateway")
    assert world.second.process is not None
    before = len(world.nginx.log())
    pids = (own, world.second.process.pid)
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        answer = rank(world.nginx.url, world.headers | {"x-sluice-deadline-ms": "150"})
        with grpc.insecure_channel(world.nginx.grpc_address) as channel, pytest.raises(grpc.RpcError) as late:
            rank_call(channel)(pb.RankRequest(model=MODEL, candidates=ITEMS[:3]), timeout=0.9)
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)

    assert (answer.status_code, "in time" in answer.json()["error"]) == (504, True)
    assert late.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    first = world.nginx.until_logged(before + 1)[before]
    assert "," not in first["gateway"]
    until(lambda: rank(world.nginx.url, world.headers).status_code == 200, "the gateways to go on")


def test_tls_ends_at_the_edge_and_begins_again_behind_it(world: World, tmp_path: Path) -> None:
    certificates = tmp_path / "tls"
    make_certificates(certificates, 30, ("127.0.0.1", "localhost"))
    gateway_tls = f"certificate={certificates}/gateway.pem,key={certificates}/gateway.key"
    behind = replace(world.second.settings, gateway_tls=gateway_tls)
    world.second.end()
    closed = SecondGateway(behind)
    trust = ssl.create_default_context(cafile=str(certificates / "ca.pem"))
    try:
        closed.start(trust)
        with nginx_before(
            tmp_path / "nginx",
            closed.place,
            certificate=str(certificates / "gateway.pem"),
            key=str(certificates / "gateway.key"),
            gateway_ca=str(certificates / "ca.pem"),
        ) as nginx:
            url = nginx.url.replace("http:", "https:")
            answer = httpx.post(url + RANK, json=BODY, headers=world.headers, timeout=60.0, verify=trust)
            authority = grpc.ssl_channel_credentials((certificates / "ca.pem").read_bytes())
            with grpc.secure_channel(nginx.grpc_address, authority) as channel:
                called = rank_call(channel)(
                    pb.RankRequest(model=MODEL, candidates=ITEMS[:10]),
                    timeout=60.0,
                    metadata=[("authorization", world.headers["authorization"])],
                )
    finally:
        closed.end()
        world.second.start()

    assert answer.status_code == 200, answer.text
    assert called.items[0].id == answer.json()["items"][0]["id"] == ITEMS[9]
