"""nginx before several gateways: HTTP and gRPC, from 1.22 on, of the modules that Debian's has built in."""

from collections.abc import Iterable

from deploy.edges.edge import Edge, EdgeTemplate, defaults_of
from serving.gateway.patience import Patience
from serving.settings import GatewaySettings, GrpcSettings

PATIENCE_S = {"short": 2, "middle": 11}  # for deadlines of less than 1 s, less than 10 s
STREAM_S = 3600
PREFIX_BYTES = 5  # before each message of gRPC
_SPARE_S = 5  # what a gateway gets beyond the longest deadline, to say that it passed
_ENDINGS = (
    ("413", "@grpc_too_large", 3, "message too large"),
    ("429", "@grpc_limited", 8, "too many calls of this key or address, ask again in a second"),
    ("502", "@grpc_away", 14, "no gateway answers, ask again"),
    ("504", "@grpc_late", 4, "no gateway answered in time"),
)


def nginx_conf(edge: Edge) -> str:
    """The whole configuration."""
    limits = defaults_of(GatewaySettings)
    patience = defaults_of(Patience)
    long_s = limits["max_deadline_ms"] // 1000 + _SPARE_S
    patiences = PATIENCE_S | {"long": long_s}
    http, grpc = ("https://", "grpcs://") if edge.gateway_ca else ("http://", "grpc://")
    infer_bytes = limits["max_infer_bytes"]
    message_bytes = infer_bytes + PREFIX_BYTES
    tls = " ssl http2" if edge.certificate else ""
    errors = "\n".join(f"            error_page {status} = {place};" for status, place, _, _ in _ENDINGS)
    return EdgeTemplate.of("nginx.conf").substitute(
        access_log=edge.access_log,
        key_rate=edge.key_rate,
        address_rate=edge.address_rate,
        key_burst=edge.key_rate * edge.burst_s,
        address_burst=edge.address_rate * edge.burst_s,
        http_servers=_servers(f"{one.host}:{one.http_port}" for one in edge.gateways),
        grpc_servers=_servers(f"{one.host}:{one.grpc_port}" for one in edge.gateways),
        http_listen=f"{edge.listen}{tls}",
        grpc_listen=f"{edge.grpc_listen}{tls or ' http2'}",
        tls=_tls(edge),
        head_s=patience["head_s"],
        body_s=patience["body_s"],
        read_s=patience["read_s"],
        streams=defaults_of(GrpcSettings)["max_streams"],
        body_bytes=limits["max_body_bytes"],
        infer_bytes=infer_bytes,
        message_bytes=message_bytes,
        gateway_tls=_gateway_tls(edge),
        http=http,
        grpc=grpc,
        long_s=long_s,
        stream_s=STREAM_S,
        patience="\n".join(_patience(name, wait_s, http, infer_bytes) for name, wait_s in patiences.items()),
        grpc_patience="\n".join(
            _grpc_patience(name, wait_s, grpc, message_bytes, errors) for name, wait_s in patiences.items()
        ),
        grpc_errors=errors,
        grpc_endings="\n".join(_ending(place, code, words) for _, place, code, words in _ENDINGS),
    )


def _servers(addresses: Iterable[str]) -> str:
    return "\n".join(f"        server {address} max_fails=2 fail_timeout=2s;" for address in addresses)


def _patience(name: str, wait_s: int, http: str, max_bytes: int) -> str:
    return f"""\
        location @patience_{name} {{
            client_max_body_size {max_bytes};
            proxy_next_upstream error timeout http_502 non_idempotent;
            proxy_next_upstream_tries 2;
            proxy_next_upstream_timeout 1900ms;
            proxy_read_timeout {wait_s}s;
            proxy_pass {http}sluice_http;
        }}"""


def _grpc_patience(name: str, wait_s: int, grpc: str, max_bytes: int, errors: str) -> str:
    return f"""\
        location @grpc_patience_{name} {{
            client_max_body_size {max_bytes};
            grpc_next_upstream error timeout http_502 non_idempotent;
            grpc_next_upstream_tries 2;
            grpc_next_upstream_timeout 1900ms;
            grpc_read_timeout {wait_s}s;
{errors}
            grpc_pass {grpc}sluice_grpc;
        }}"""


def _ending(place: str, code: int, words: str) -> str:
    """A call that nginx ends by itself: gRPC's status in the headers, and nothing else."""
    return f"""\
        location {place} {{
            default_type application/grpc;
            add_header grpc-status {code} always;
            add_header grpc-message "{words}" always;
            return 204;
        }}"""


def _tls(edge: Edge) -> str:
    if not edge.certificate:
        return ""
    return f"""\
        ssl_certificate {edge.certificate};
        ssl_certificate_key {edge.key};
        ssl_protocols TLSv1.2 TLSv1.3;
        ssl_session_cache shared:sluice_tls:8m;
        ssl_session_timeout 1h;
        ssl_session_tickets off;"""


def _gateway_tls(edge: Edge) -> str:
    if not edge.gateway_ca:
        return ""
    lines = [
        f"        {kind}_ssl_{rule};"
        for kind in ("proxy", "grpc")
        for rule in (
            f"trusted_certificate {edge.gateway_ca}",
            "verify on",
            f"name {edge.gateway_name}",
            "server_name on",
            "protocols TLSv1.2 TLSv1.3",
        )
    ]
    return "\n".join(lines)
