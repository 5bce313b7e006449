"""A connection from this machine to its own gateway, with TLS where its port has it."""

import http.client

from deploy.errors import SluiceError
from deploy.settings import PlatformSettings, url_host
from serving.tls.settings import parse_gateway_tls


def connection_to(settings: PlatformSettings, timeout_s: float) -> http.client.HTTPConnection:
    """Not connected yet. With TLS it trusts the gateway's very certificate, whose file it knows: whatever host that is
    made out to, no other process on this port is taken for the gateway. Raises SluiceError."""
    host = url_host(settings.gateway_host).strip("[]")
    if not settings.gateway_tls:
        return http.client.HTTPConnection(host, settings.gateway_port, timeout=timeout_s)
    from serving.tls.contexts import (  # with the metrics, and numpy: not for a command's help
        UnusableCertificates,
        pinned,
    )

    try:
        context = pinned(parse_gateway_tls(settings.gateway_tls))
    except UnusableCertificates as error:
        raise SluiceError(f"SLUICE_GATEWAY_TLS: {error}", "sluice certificates") from error
    return http.client.HTTPSConnection(host, settings.gateway_port, timeout=timeout_s, context=context)
