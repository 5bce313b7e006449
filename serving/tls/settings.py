"""Which certificates: settings as text, checked when the process starts."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

WORKER_NAME, GATEWAY_NAME = "sluice-worker", "sluice-gateway"
_DNS = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*")


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files. certificate: ours, with those between it and the CA; key: its key, without a password. ca: of
    those who may talk to us; None: peers show no certificate."""

    certificate: Path
    key: Path
    ca: Path | None = None

    def all(self) -> Iterable[Path]:
        """Those that are read."""
        return filter(None, (self.certificate, self.key, self.ca))


@dataclass(frozen=True, slots=True)
class FleetTls:
    """TLS between gateways and workers. worker, gateway: what the certificates of either role are made out to
    (subject alternative name, DNS)."""

    files: TlsFiles
    worker: str = WORKER_NAME
    gateway: str = GATEWAY_NAME


def parse_fleet_tls(text: str) -> FleetTls:
    """Raises ValueError, naming what is wrong.

    >>> parse_fleet_tls("ca=/tls/ca.pem,certificate=/tls/crt.pem,key=/tls/key.pem").worker
    'sluice-worker'
    """
    told = _pairs(text, ("ca", "certificate", "key"), ("worker", "gateway"))
    for role in ("worker", "gateway"):
        if role in told and not _DNS.fullmatch(told[role]):
            raise ValueError(f"{role}={told[role]}: expected the DNS name that its certificates are made out to")
    roles = {role: told[role] for role in ("worker", "gateway") if role in told}
    return FleetTls(TlsFiles(Path(told["certificate"]), Path(told["key"]), Path(told["ca"])), **roles)


def parse_gateway_tls(text: str) -> TlsFiles:
    """Raises ValueError, naming what is wrong.

    >>> parse_gateway_tls("certificate=/tls/crt.pem,key=/tls/key.pem").ca is None
    True
    >>> parse_gateway_tls("certificate=/tls/crt.pem")
    Traceback (most recent call last):
    ValueError: key is missing: expected certificate=PATH, key=PATH, clients=PATH (may be left out), separated by commas
    """
    told = _pairs(text, ("certificate", "key"), ("clients",))
    clients = told.get("clients")
    return TlsFiles(Path(told["certificate"]), Path(told["key"]), Path(clients) if clients else None)


def _pairs(text: str, needed: tuple[str, ...], optional: tuple[str, ...]) -> dict[str, str]:
    may = [f"{key}=PATH" for key in needed] + [f"{key}={_kind(key)} (may be left out)" for key in optional]
    rule = f"expected {', '.join(may)}, separated by commas"
    told: dict[str, str] = {}
    for part in filter(None, (one.strip() for one in text.split(","))):
        key, _, value = part.partition("=")
        if key not in (*needed, *optional) or key in told or not value:
            raise ValueError(f"{part}: {rule}")
        if _kind(key) == "PATH" and not value.startswith("/"):
            raise ValueError(f"{part}: expected an absolute path")
        told[key] = value
    for key in needed:
        if key not in told:
            raise ValueError(f"{key} is missing: {rule}")
    return told


def _kind(key: str) -> str:
    return "NAME" if key in ("worker", "gateway") else "PATH"
