"""Kong before several gateways: a declarative configuration, for those who run Kong already.

It cannot be tried here (there is neither a package of it nor a container): tests hold its words against what Kong
documents, and its paths and ports against what gateways serve.
"""

from collections.abc import Iterable

from deploy.edges.edge import Edge, EdgeTemplate, defaults_of
from deploy.edges.nginx import STREAM_S
from serving.gateway.patience import Patience
from serving.settings import GatewaySettings

_SPARE_MS = 5000  # what a gateway gets beyond the longest deadline, to say that it passed


def kong_yml(edge: Edge) -> str:
    """The whole configuration. Ports and certificates of the edge itself are Kong's own settings."""
    limits = defaults_of(GatewaySettings)
    first = edge.gateways[0]
    return EdgeTemplate.of("kong.yml").substitute(
        http_protocol="https" if edge.gateway_ca else "http",
        grpc_protocol="grpcs" if edge.gateway_ca else "grpc",
        # Kong's own trusted authorities: KONG_LUA_SSL_TRUSTED_CERTIFICATE
        tls="    tls_verify: true" if edge.gateway_ca else "",
        verify=f"        https_sni: {edge.gateway_name}" if edge.gateway_ca else "",
        # Kong holds a certificate against the Host that it sends on: a client's would be none of the gateways'
        host_header=f"    host_header: {edge.gateway_name}" if edge.gateway_ca else "",
        preserve_host="false" if edge.gateway_ca else "true",
        http_targets=_targets(f"{one.host}:{one.http_port}" for one in edge.gateways),
        grpc_targets=_targets(f"{one.host}:{one.grpc_port}" for one in edge.gateways),
        http_port=first.http_port,
        grpc_port=first.grpc_port,
        key_rate=edge.key_rate,
        body_bytes=limits["max_body_bytes"],
        infer_bytes=limits["max_infer_bytes"],
        body_ms=defaults_of(Patience)["body_s"] * 1000,
        long_ms=limits["max_deadline_ms"] + _SPARE_MS,
        stream_ms=STREAM_S * 1000,
    )


def _targets(addresses: Iterable[str]) -> str:
    return "\n".join(f'      - {{target: "{address}", weight: 100}}' for address in addresses)
