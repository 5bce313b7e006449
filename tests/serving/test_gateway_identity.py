"""A gateway that is closed without a key: real HTTP and gRPC, the unmodified tritonclient, tokens of a real issuer."""

import asyncio
import contextlib
import http.client
import itertools
import json
import logging
import queue
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
from tritonclient.utils import InferenceServerException

from registry.quotas import MemoryLedger
from serving.gateway.protos import ranking_pb2 as pb
from serving.identity.doorkeeper import Doorkeeper
from serving.identity.key_sets import KeySet
from serving.identity.leases import Leases
from serving.identity.tokens import TokenVerifier
from serving.settings import QuotaSettings, parse_quotas
from tests.serving.doors import Keys, a_doorkeeper, a_text
from tests.serving.grpc_gateway import Gateway, a_worker, served
from tests.serving.http_gateway import RunningGateway, a_running_gateway
from tests.serving.issuers import Issuer, an_issuer, rsa_key
from tests.serving.oip_gateway import PLAN, check, inputs_of, serve
from tests.serving.test_infer import two_inputs
from tests.serving.workbench import Replica, a_replica

MODEL = "codesearch"
RANK = f"/v1/models/{MODEL}/rank"
QUERY = {"candidates": ["item-1", "item-2", "item-3"]}
CALLER, ELSEWHERE, VIEWER, SCOPED_VIEWER, OPERATOR, SMALL, UNKNOWN = range(7)


@dataclass
class Closed:
    """Doors, one a gateway, that the same keys open."""

    issuer: Issuer
    keys: Keys = field(default_factory=Keys)
    quotas: QuotaSettings = field(default_factory=lambda: parse_quotas("burst_s=10000"))

    def __post_init__(self) -> None:
        self.keys.make(CALLER, models=(MODEL, "tensors", "every"))
        self.keys.make(ELSEWHERE, models=("another",))
        self.keys.make(VIEWER, "viewer")
        self.keys.make(SCOPED_VIEWER, "viewer", models=(MODEL,))
        self.keys.make(OPERATOR, "operator")
        self.keys.make(SMALL, requests_per_s=0.0002, candidates_per_s=0.0015)  # bursts of 2 and 15

    def doorkeeper(self, clock: Callable[[], float] = time.monotonic) -> Doorkeeper:
        """clock: of what is known of the issuer's keys."""
        settings = self.issuer.settings()
        key_set = KeySet(settings, clock=clock)
        key_set.refresh()
        leases = Leases(MemoryLedger(), self.quotas, "g1")
        leases.start()
        doorkeeper = a_doorkeeper(self.keys, quotas=self.quotas, leases=leases, tokens=TokenVerifier(settings, key_set))
        doorkeeper._wall_ms = lambda: time.time_ns() // 1_000_000
        return doorkeeper


@pytest.fixture(scope="module")
def closed() -> Iterator[Closed]:
    with an_issuer() as issuer:
        yield Closed(issuer)


@pytest.fixture(scope="module")
def gateway(closed: Closed) -> Iterator[RunningGateway]:
    with a_replica() as replica, a_running_gateway(replica.address, doorkeeper=closed.doorkeeper) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def worker() -> Iterator[Replica]:
    with a_worker() as worker:
        yield worker


def bearer(key: int | str | None) -> dict[str, str]:
    """key: a number of ours, or a token; None for none."""
    if key is None:
        return {}
    return {"authorization": f"Bearer {a_text(key) if isinstance(key, int) else key}"}


def ask(
    gateway: RunningGateway, method: str, path: str, key: int | str | None = None, **options: Any
) -> httpx.Response:
    return httpx.request(method, f"http://{gateway.address}{path}", headers=bearer(key), timeout=30, **options)


def test_a_query_needs_a_key_for_its_model(gateway: RunningGateway, closed: Closed) -> None:
    told = {key: ask(gateway, "POST", RANK, key, json=QUERY) for key in (CALLER, ELSEWHERE, OPERATOR, UNKNOWN, None)}
    by_token = ask(gateway, "POST", RANK, closed.issuer.token(), json=QUERY)

    assert {key: answer.status_code for key, answer in told.items()} == {
        CALLER: 200,
        ELSEWHERE: 403,
        OPERATOR: 200,
        UNKNOWN: 401,
        None: 401,
    }
    assert by_token.status_code == 200, by_token.text
    assert told[None].headers["www-authenticate"] == 'Bearer realm="sluice"'
    assert "sluice keys create" in told[None].json()["error"]
    assert "is for another" in told[ELSEWHERE].json()["error"]


def test_the_answer_comes_by_the_short_way_too(gateway: RunningGateway) -> None:
    """One connection, kept: heads are read once, and who asks is looked at each time."""
    connection = http.client.HTTPConnection(gateway.address, timeout=30)
    statuses = []
    for key in (CALLER, CALLER, None, ELSEWHERE, CALLER, UNKNOWN):
        connection.request("POST", RANK, json.dumps(QUERY), {"content-type": "application/json"} | bearer(key))
        response = connection.getresponse()
        response.read()
        statuses.append(response.status)
    connection.close()

    assert statuses == [200, 200, 401, 403, 200, 401]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/metrics"),
        ("GET", "/v1/status"),
        ("GET", "/v1/models"),
        ("GET", "/v2/repository/index"),
        ("GET", "/v2/models/codesearch/config"),
        ("POST", "/v2/repository/models/codesearch/unload"),
    ],
)
def test_a_path_that_only_looks_like_another_opens_nothing(gateway: RunningGateway, method: str, path: str) -> None:
    """A route's pattern ends before a last line's end as well; what it needs was looked up by the whole path."""
    for end in ("%0A", "%0D%0A", "%00"):
        assert ask(gateway, method, path + end, ELSEWHERE).status_code == 400
        assert ask(gateway, method, path + end, CALLER).status_code == 400


def test_a_stranger_is_refused_before_the_body_is_sent(gateway: RunningGateway) -> None:
    head = f"POST {RANK} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n\r\n"
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=30) as connection:
        connection.sendall(head.encode() + b"{")

        assert connection.recv(4096).startswith(b"HTTP/1.1 401 ")


def test_feedback_is_taken_for_the_keys_models_alone(gateway: RunningGateway) -> None:
    ranking = ask(gateway, "POST", RANK, CALLER, json=QUERY).json()
    click = {"event_id": "e1", "type": "click", "ranking_id": ranking["ranking_id"], "item": "item-1"}
    statuses = [
        ask(gateway, "POST", "/v1/feedback", key, json={"events": [click]}).status_code
        for key in (CALLER, ELSEWHERE, None, UNKNOWN)
    ]

    assert statuses == [202, 403, 401, 401]


def test_a_key_is_revoked_while_its_connection_is_open(gateway: RunningGateway, closed: Closed) -> None:
    key_id = closed.keys.make(50)
    with httpx.Client(base_url=f"http://{gateway.address}", headers=bearer(50), timeout=30) as client:
        assert client.post(RANK, json=QUERY).status_code == 200
        closed.keys.ring.revoke(key_id, 1)
        gateway.loop.call_soon_threadsafe(closed.keys.follow)
        gateway.turn()

        assert client.post(RANK, json=QUERY).status_code == 401


@pytest.mark.parametrize(
    ("method", "path", "statuses"),
    [
        # nobody, a caller of three models, a viewer of one, a viewer of all
        ("GET", "/health", (200, 200, 200, 200)),
        ("GET", "/v2/health/live", (200, 200, 200, 200)),
        ("GET", "/v2/health/ready", (200, 200, 200, 200)),
        ("GET", "/openapi.json", (200, 200, 200, 200)),
        ("GET", "/console/", (200, 200, 200, 200)),
        ("GET", "/console/app.js", (200, 200, 200, 200)),
        ("GET", "/console.js", (401, 404, 404, 404)),
        ("GET", "/metrics", (401, 403, 403, 200)),
        ("GET", "/v1/status", (401, 403, 403, 200)),
        ("GET", "/v1/models", (401, 403, 403, 200)),
        ("GET", f"/v1/models/{MODEL}", (401, 200, 200, 200)),
        ("GET", "/v2", (401, 200, 200, 200)),
        ("GET", f"/v2/models/{MODEL}", (401, 200, 200, 200)),
        ("GET", f"/v2/models/{MODEL}/versions/1/ready", (401, 200, 200, 200)),
        ("GET", "/v2/models/another/ready", (401, 403, 403, 404)),
        ("GET", "/v2/models/stats", (401, 403, 403, 200)),
        ("POST", "/v2/repository/index", (401, 403, 403, 200)),
        ("POST", f"/v2/repository/models/{MODEL}/unload", (401, 403, 403, 403)),
        ("GET", "/v2/systemsharedmemory/status", (401, 200, 200, 200)),
        ("GET", "/no/such/route", (401, 404, 404, 404)),
        ("GET", f"/v1/models/{MODEL}/rank", (405, 405, 405, 405)),
        ("GET", "/metrics/", (401, 307, 307, 307)),
        ("GET", "//metrics", (401, 404, 404, 404)),
        ("GET", "/v1/models/%63odesearch", (401, 200, 200, 200)),
    ],
)
def test_every_other_route_is_for_those_it_is_for(
    gateway: RunningGateway, method: str, path: str, statuses: tuple[int, ...]
) -> None:
    told = [ask(gateway, method, path, key).status_code for key in (None, CALLER, SCOPED_VIEWER, VIEWER)]

    assert tuple(told) == statuses


def test_a_used_up_quota_is_429_with_its_name_and_a_time(gateway: RunningGateway) -> None:
    large = ask(gateway, "POST", RANK, SMALL, json={"candidates": [f"item-{i}" for i in range(16)]})
    first = ask(gateway, "POST", RANK, SMALL, json={"candidates": [f"item-{i}" for i in range(9)]})
    candidates = ask(gateway, "POST", RANK, SMALL, json={"candidates": [f"item-{i}" for i in range(7)]})
    second = ask(gateway, "POST", RANK, SMALL, json={"candidates": ["item-1"]})
    requests = ask(gateway, "POST", RANK, SMALL, json={"candidates": ["item-1"]})

    told = [answer.status_code for answer in (large, first, candidates, second, requests)]
    assert told == [400, 200, 429, 200, 429], [large.text, candidates.text, requests.text]
    assert "never has more than 15 of them at once" in large.json()["error"]
    assert "API key 'k5' has a quota of 0.0015 candidates/s" in candidates.json()["error"]
    assert "0.0002 requests/s" in requests.json()["error"]
    assert 4000 < int(requests.headers["retry-after"]) <= 5000


def test_neither_keys_nor_tokens_are_in_the_log(
    gateway: RunningGateway, closed: Closed, caplog: pytest.LogCaptureFixture
) -> None:
    forged = closed.issuer.token(iss="https://elsewhere")
    with caplog.at_level(logging.DEBUG):
        for key in (CALLER, UNKNOWN, ELSEWHERE, closed.issuer.token(), forged):
            ask(gateway, "POST", RANK, key, json=QUERY)
            ask(gateway, "GET", "/metrics", key)

    said = " ".join(record.getMessage() + str(vars(record)) for record in caplog.records if record.name != "httpx")
    assert [secret for secret in (*map(a_text, range(7)), forged) if secret[15:] in said] == []


def test_tritonclient_over_http_sends_a_key_as_a_header(closed: Closed) -> None:
    with serve(two_inputs(), PLAN, doorkeeper=closed.doorkeeper) as served_model, served_model.client() as client:
        for binary in (True, False):
            check(client.infer("tensors", inputs_of(3, binary=binary), headers=bearer(CALLER)), 3)
        assert client.is_server_ready() and client.is_model_ready("tensors", headers=bearer(CALLER))
        assert client.get_model_metadata("tensors", headers=bearer(CALLER))["name"] == "tensors"
        for headers, words in (({}, "have a key or token"), (bearer(ELSEWHERE), "is for another")):
            with pytest.raises(InferenceServerException, match=words):
                client.infer("tensors", inputs_of(3), headers=headers)
        assert not client.is_model_ready("tensors")


def grpc_code(call: Callable[[Any, dict[str, str]], Any], client: Any, key: dict[str, str]) -> str:
    """What became of a call."""
    try:
        call(client, key)
    except InferenceServerException as error:
        return str(error.status()).removeprefix("StatusCode.")
    return "OK"


def test_tritonclient_over_grpc_sends_a_key_as_metadata(worker: Replica, closed: Closed) -> None:
    random = np.random.default_rng(0)
    inputs = [
        triton_grpc.InferInput(name, [3, 3], "FP32").set_data_from_numpy(random.normal(size=(3, 3)).astype(np.float32))
        for name in ("left", "right")
    ]

    calls: dict[str, Callable[[Any, dict[str, str]], Any]] = {
        "infer": lambda client, key: client.infer("tensors", inputs, headers=key),
        "metadata": lambda client, key: client.get_model_metadata("tensors", headers=key),
        "index": lambda client, key: client.get_model_repository_index(headers=key),
        "unload": lambda client, key: client.unload_model("tensors", headers=key),
        "shared": lambda client, key: client.get_system_shared_memory_status(headers=key),
        "live": lambda client, key: client.is_server_live(headers=key),
        "ready": lambda client, key: client.is_server_ready(headers=key),
    }

    def use(client: triton_grpc.InferenceServerClient) -> dict[str, list[str]]:
        keys = (bearer(CALLER), bearer(ELSEWHERE), bearer(OPERATOR), bearer(UNKNOWN), {})
        return {name: [grpc_code(call, client, key) for key in keys] for name, call in calls.items()}

    told = served(lambda gateway: gateway.client(use), worker, doorkeeper=closed.doorkeeper)

    denied, unknown = "PERMISSION_DENIED", "UNAUTHENTICATED"
    assert told == {
        "infer": ["OK", denied, "OK", unknown, unknown],
        "metadata": ["OK", denied, "OK", unknown, unknown],
        "index": [denied, denied, "OK", unknown, unknown],
        "unload": [denied, denied, "INVALID_ARGUMENT", unknown, unknown],  # an operator may, but it is off
        "shared": ["OK", "OK", "OK", unknown, unknown],
        "live": ["OK"] * 5,
        "ready": ["OK"] * 5,
    }


def test_no_method_of_the_table_is_for_strangers_unless_it_is_open(worker: Replica, closed: Closed) -> None:
    """Whatever it checks itself; also for those whose token names a key that the issuer may show in a moment."""
    curious = partial(next, itertools.count(0.0, 100.0))  # it is always time to ask the issuer again
    made_up = closed.issuer.token("nobody", key=rsa_key(9))

    async def scenario(gateway: Gateway, token: int | str | None) -> dict[str, str]:
        metadata, told = tuple(bearer(token).items()), {}
        async with gateway.channel() as channel:
            for path, method in gateway.methods.items():
                try:
                    if method.converse is None:
                        await channel.unary_unary(path)(b"", metadata=metadata, timeout=20)
                    else:
                        stream = channel.stream_stream(path)(metadata=metadata, timeout=20)
                        if method.open:
                            await stream.write(b"")
                        await stream.read()
                        stream.cancel()
                    told[path] = "OK"
                except grpc.RpcError as error:
                    told[path] = error.code().name
        return told

    async def told(gateway: Gateway) -> list[dict[str, str]]:
        assert gateway.methods
        expected = {path: "OK" if method.open else "UNAUTHENTICATED" for path, method in gateway.methods.items()}
        return [expected, *[await scenario(gateway, token) for token in (None, UNKNOWN, made_up)]]

    expected, nobody, unknown, stranger = served(told, worker, doorkeeper=lambda: closed.doorkeeper(curious))

    assert nobody == unknown == stranger == expected


def test_a_stream_is_for_who_has_a_key_and_says_which_model_is_not_theirs(worker: Replica, closed: Closed) -> None:
    inputs = [
        triton_grpc.InferInput(name, [1, 3], "FP32").set_data_from_numpy(np.zeros((1, 3), np.float32))
        for name in ("left", "right")
    ]

    def first_error(client: triton_grpc.InferenceServerClient, key: dict[str, str]) -> Any:
        told: queue.SimpleQueue[Any] = queue.SimpleQueue()
        client.start_stream(lambda result, error: told.put(error), headers=key)
        with contextlib.suppress(InferenceServerException):  # a stranger's stream may be over by now
            client.async_stream_infer("tensors", inputs)
        error = told.get(timeout=30)
        client.stop_stream(cancel_requests=True)
        return error

    def use(client: triton_grpc.InferenceServerClient) -> list[Any]:
        return [first_error(client, key) for key in (bearer(CALLER), bearer(ELSEWHERE), {})]

    answered, elsewhere, stranger = served(lambda gateway: gateway.client(use), worker, doorkeeper=closed.doorkeeper)

    assert answered is None
    assert "is for another" in str(elsewhere)
    assert "have a key or token" in str(stranger)


def test_rankings_and_feedback_over_grpc_need_a_key_and_have_its_quota(worker: Replica, closed: Closed) -> None:
    small = closed.keys.make(60, requests_per_s=0.0002)
    assert small

    async def scenario(gateway: Gateway) -> list[str]:
        told = []
        async with gateway.channel() as channel:
            rank = channel.unary_unary(
                "/sluice.ranking.v1.Ranking/Rank", pb.RankRequest.SerializeToString, pb.RankResponse.FromString
            )
            request = pb.RankRequest(model=MODEL, candidates=["item-1"])
            for key in (CALLER, ELSEWHERE, UNKNOWN, None, 60, 60, 60):
                metadata = tuple(bearer(key).items())
                try:
                    await rank(request, metadata=metadata, timeout=20)
                    told.append("OK")
                except grpc.RpcError as error:
                    told.append(error.code().name)
        return told

    told = served(scenario, worker, doorkeeper=closed.doorkeeper)

    assert told[:4] == ["OK", "PERMISSION_DENIED", "UNAUTHENTICATED", "UNAUTHENTICATED"]
    assert told[4:] == ["OK", "OK", "RESOURCE_EXHAUSTED"]


def test_of_many_clients_at_once_exactly_the_burst_is_answered(gateway: RunningGateway, closed: Closed) -> None:
    closed.keys.make(61, requests_per_s=0.002)

    async def scenario() -> list[int]:
        async with httpx.AsyncClient(base_url=f"http://{gateway.address}", headers=bearer(61), timeout=30) as client:
            answers = await asyncio.gather(*(client.post(RANK, json=QUERY) for _ in range(50)))
            return [answer.status_code for answer in answers]

    statuses = asyncio.run(scenario())

    assert (statuses.count(200), statuses.count(429)) == (20, 30)
