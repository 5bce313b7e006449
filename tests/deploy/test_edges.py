"""Configurations of edges: what they say holds for gateways; Kong's against what Kong documents."""

import re
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from deploy.edges.edge import Edge, EdgeRefused, GatewayPlace
from deploy.edges.kong import kong_yml
from deploy.edges.nginx import nginx_conf
from serving.gateway.control.routes import CONTROL_ROUTES
from serving.gateway.grpc.methods import SERVICES
from serving.settings import GatewaySettings
from tests.edge_server import nginx_executable

TWO = (GatewayPlace("10.0.0.5"), GatewayPlace("10.0.0.6", 8800, 8802))
LIMITS = GatewaySettings(journal=Path("j"), plan_copy=Path("p"), workers=("w",))
HOT = ("/v1/models/shop/rank", "/v1/prefetch", "/v2/models/shop/infer", "/v2/models/shop/versions/3/infer")

# By the entities of Kong's declarative format 3.0 (services, routes, upstreams, targets) and the configuration of
# the plugins rate-limiting and request-size-limiting, as the fields are documented; closed against misspelling.
STATUSES = {"type": "array", "items": {"type": "integer", "minimum": 100, "maximum": 999}}
COUNT, SECONDS = {"type": "integer", "minimum": 0}, {"type": "number", "minimum": 0, "maximum": 65535}
MS = {"type": "integer", "minimum": 1, "maximum": 2**31 - 2}
PORT = {"type": "integer", "minimum": 1, "maximum": 65535}
CHECK = {"enum": ["tcp", "http", "https", "grpc", "grpcs"]}
NAME = {"type": "string", "pattern": r"^[\w.~-]+$"}


def closed(required: list[str], **properties: Any) -> dict[str, Any]:
    return {"type": "object", "required": required, "additionalProperties": False, "properties": properties}


def listed(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "minItems": 1, "items": items}


UNHEALTHY = {"http_statuses": STATUSES, "tcp_failures": COUNT, "timeouts": COUNT, "http_failures": COUNT}
HEALTHY = {"http_statuses": STATUSES, "successes": COUNT}
LIMIT_BY = ["consumer", "credential", "ip", "service", "header", "path", "consumer-group"]
PLUGIN = {
    "oneOf": [
        closed(
            ["name", "config"],
            name={"const": "rate-limiting"},
            config=closed(
                ["limit_by", "policy", "second"],
                second={"type": "number", "exclusiveMinimum": 0},
                limit_by={"enum": LIMIT_BY},
                header_name={"type": "string"},
                policy={"enum": ["local", "cluster", "redis"]},
                fault_tolerant={"type": "boolean"},
                error_code={"type": "number"},
                error_message={"type": "string"},
            ),
        ),
        closed(
            ["name", "config"],
            name={"const": "request-size-limiting"},
            config=closed(
                ["allowed_payload_size"],
                allowed_payload_size={"type": "integer"},
                size_unit={"enum": ["megabytes", "kilobytes", "bytes"]},
                require_content_length={"type": "boolean"},
            ),
        ),
    ]
}
PROTOCOLS = ["http", "https", "grpc", "grpcs"]
ROUTE = closed(
    ["name", "protocols", "paths"],
    name=NAME,
    protocols=listed({"enum": PROTOCOLS}),
    methods=listed({"enum": ["GET", "POST"]}),
    paths=listed({"type": "string", "pattern": "^(/|~/)"}),  # a regular expression begins with ~
    strip_path={"type": "boolean"},
    preserve_host={"type": "boolean"},
    plugins=listed(PLUGIN),
)
KONG = closed(
    ["_format_version", "upstreams", "services"],
    _format_version={"const": "3.0"},
    upstreams=listed(
        closed(
            ["name", "targets"],
            name={"type": "string", "pattern": "^[a-z][a-z-]*$"},
            host_header=NAME,
            algorithm={"enum": ["round-robin", "consistent-hashing", "least-connections", "latency"]},
            healthchecks=closed(
                [],
                active=closed(
                    [],
                    type=CHECK,
                    http_path={"type": "string", "pattern": "^/"},
                    https_sni={"type": "string"},
                    timeout=SECONDS,
                    concurrency={"type": "integer", "minimum": 1},
                    healthy=closed([], interval=SECONDS, **HEALTHY),
                    unhealthy=closed([], interval=SECONDS, **UNHEALTHY),
                ),
                passive=closed([], type=CHECK, healthy=closed([], **HEALTHY), unhealthy=closed([], **UNHEALTHY)),
            ),
            targets=listed(closed(["target"], target={"type": "string"}, weight=COUNT)),
        )
    ),
    services=listed(
        closed(
            ["name", "host", "protocol", "routes"],
            name=NAME,
            protocol={"enum": PROTOCOLS},
            host={"type": "string"},
            port=PORT,
            retries={"type": "integer", "minimum": 0, "maximum": 32767},
            connect_timeout=MS,
            write_timeout=MS,
            read_timeout=MS,
            tls_verify={"type": "boolean"},
            routes=listed(ROUTE),
            plugins=listed(PLUGIN),
        )
    ),
)


def kong(edge: Edge) -> Any:
    return yaml.safe_load(kong_yml(edge))


def routed(document: Any, path: str, protocol: str = "http") -> str:
    """The service that Kong sends a path to: a regular expression goes before a prefix, a longer prefix first."""
    fits = [
        (one.startswith("~"), len(one), service["name"])
        for service in document["services"]
        for route in service["routes"]
        for one in route["paths"]
        if protocol in route["protocols"] and (re.match(one[1:], path) if one.startswith("~") else path.startswith(one))
    ]
    return max(fits)[2] if fits else ""


@pytest.mark.parametrize("ca", ["", "/etc/ca.pem"])
def test_kongs_configuration_says_nothing_that_kong_does_not_document(ca: str) -> None:
    jsonschema.validate(kong(Edge(TWO, gateway_ca=ca)), KONG)


@pytest.mark.parametrize(("ca", "asked"), [("", None), ("/etc/ca.pem", "sluice.internal")])
def test_kong_asks_gateways_by_the_name_in_their_certificate(ca: str, asked: str | None) -> None:
    document = kong(Edge(TWO, gateway_ca=ca, gateway_name="sluice.internal"))
    kept = {
        route["preserve_host"]
        for one in document["services"]
        for route in one["routes"]
        if "http" in route["protocols"]
    }

    assert [one.get("host_header") for one in document["upstreams"]] == [asked, asked]
    assert kept == {asked is None}  # a kept Host would go before the header


def test_kong_sends_every_path_of_a_gateway_to_the_service_that_treats_it_right() -> None:
    document = kong(Edge(TWO))
    control = [route.path.replace("{model}", "shop").replace("{id}", "7") for route in CONTROL_ROUTES]

    assert {path: routed(document, path) for path in HOT} == dict.fromkeys(HOT, "sluice-queries")
    assert routed(document, "/v1/feedback") == "sluice-feedback"
    assert {routed(document, path) for path in (*control, "/v2/health/ready", "/docs", "/console")} == {"sluice-rest"}
    assert routed(document, "/metrics") == ""
    assert {routed(document, f"/{service}/Method", "grpc") for service in SERVICES if service} == {"sluice-grpc"}
    names = {one["name"] for one in document["upstreams"]}
    assert {one["host"] for one in document["services"]} == names
    targets = {one["name"]: [target["target"] for target in one["targets"]] for one in document["upstreams"]}
    assert targets == {
        "sluice-http": ["10.0.0.5:8700", "10.0.0.6:8800"],
        "sluice-grpc": ["10.0.0.5:8702", "10.0.0.6:8802"],
    }


def test_an_edge_bounds_what_gateways_bound() -> None:
    sizes = {
        plugin["config"]["allowed_payload_size"]
        for service in kong(Edge(TWO))["services"]
        for route in service["routes"]
        for plugin in route.get("plugins", ())
    }
    conf = nginx_conf(Edge(TWO))

    assert sizes == {LIMITS.max_body_bytes, LIMITS.max_infer_bytes}
    told = set(re.findall(r"client_max_body_size (\d+);", conf))
    assert told == {
        str(size) for size in (LIMITS.max_body_bytes, LIMITS.max_infer_bytes, LIMITS.max_infer_bytes + 5)
    } | {"0"}
    assert max(map(int, re.findall(r"proxy_read_timeout (\d+)s", conf))) * 1000 > LIMITS.max_deadline_ms
    # who was slow is not asked again: the time for another try ends before the shortest patience
    assert min(map(int, re.findall(r"(?:proxy|grpc)_read_timeout (\d+)s", conf))) * 1000 > 1900


def test_what_is_no_edge_is_refused_with_the_option_and_the_rule() -> None:
    for text in ("", "10.0.0.5:x", "a b", "host:0", "host:1:2:3", "host;evil"):
        with pytest.raises(EdgeRefused, match="--gateway"):
            GatewayPlace.parse(text)
    for options, option in (
        ({"listen": 0}, "--listen"),
        ({"listen": 8081}, "--grpc-listen"),
        ({"key_rate": 0}, "--key-rate"),
        ({"certificate": "/c.pem"}, "--certificate"),
        ({"gateway_ca": "ca.pem;"}, "--gateway-ca"),
        ({"gateways": TWO + TWO}, "--gateway"),
        ({"access_log": "a b"}, "--access-log"),
    ):
        with pytest.raises(EdgeRefused, match=option):
            Edge(**({"gateways": TWO} | options))  # type: ignore[arg-type]


def test_nginx_takes_its_configuration_without_a_warning(tmp_path: Path) -> None:
    (tmp_path / "nginx.conf").write_text(nginx_conf(Edge((GatewayPlace("127.0.0.1"), GatewayPlace("[::1]")))))

    told = subprocess.run(
        [nginx_executable(), "-t", "-p", str(tmp_path), "-c", str(tmp_path / "nginx.conf"), "-e", "stderr"],
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert told.returncode == 0, told.stderr
    assert [line for line in told.stderr.splitlines() if "[warn]" in line and "open file" not in line] == []
