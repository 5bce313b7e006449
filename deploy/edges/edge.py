"""Which gateways an edge stands before, what it listens on, and how much it lets through."""

import dataclasses
import re
from dataclasses import dataclass
from importlib.resources import files
from string import Template

from deploy.errors import SluiceError

_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\]")
_PLAIN_PATH = re.compile(r"/[\w./@+-]+")
HTTP_PORT, GRPC_PORT = 8700, 8702


class EdgeRefused(SluiceError):
    """What was asked for makes no edge."""

    exit_code = 2


@dataclass(frozen=True, slots=True)
class GatewayPlace:
    """Where an edge finds one gateway."""

    host: str
    http_port: int = HTTP_PORT
    grpc_port: int = GRPC_PORT

    @staticmethod
    def parse(text: str) -> "GatewayPlace":
        """host, host:port or host:port:grpc-port; IPv6 in brackets. Raises EdgeRefused.

        >>> GatewayPlace.parse("10.0.0.5:8800")
        GatewayPlace(host='10.0.0.5', http_port=8800, grpc_port=8702)
        """
        found = re.fullmatch(r"(?P<host>\[[^\]]*\]|[^:\[\]]+)(:(?P<http>\d{1,5}))?(:(?P<grpc>\d{1,5}))?", text)
        if not found or not _HOST.fullmatch(found["host"]):
            raise EdgeRefused(f"--gateway {text}: expected host, host:port or host:port:grpc-port", "")
        place = GatewayPlace(found["host"], int(found["http"] or HTTP_PORT), int(found["grpc"] or GRPC_PORT))
        for port in (place.http_port, place.grpc_port):
            _require(1 <= port <= 65535, "--gateway", text, "ports from 1 to 65535")
        return place


@dataclass(frozen=True, slots=True)
class Edge:
    """listen: HTTP's port; grpc_listen: gRPC's. key_rate, address_rate: requests a second of one key or token, and of
    one address; at once there is what comes in `burst_s`. certificate, key: paths, for TLS at both ports. gateway_ca:
    the authority of the gateways' certificates, where they speak TLS; gateway_name: the name in them. access_log: a
    path, or one in nginx's folder."""

    gateways: tuple[GatewayPlace, ...]
    listen: int = 8080
    grpc_listen: int = 8081
    key_rate: int = 500
    address_rate: int = 1000
    burst_s: int = 2
    certificate: str = ""
    key: str = ""
    gateway_ca: str = ""
    gateway_name: str = "sluice-gateway"
    access_log: str = "access.log"

    def __post_init__(self) -> None:
        _require(bool(self.gateways), "--gateway", "", "at least one, host:port:grpc-port")
        _require(len(set(self.gateways)) == len(self.gateways), "--gateway", "twice the same", "each once")
        for option in ("listen", "grpc_listen"):
            _require(1 <= getattr(self, option) <= 65535, option, getattr(self, option), "a port")
        _require(self.listen != self.grpc_listen, "--grpc-listen", self.grpc_listen, "another port than --listen")
        for option in ("key_rate", "address_rate", "burst_s"):
            _require(1 <= getattr(self, option) <= 1_000_000, option, getattr(self, option), "1 to 1000000")
        _require(bool(self.certificate) == bool(self.key), "--certificate", self.certificate, "--key beside it")
        for option in ("certificate", "key", "gateway_ca"):
            path = getattr(self, option)
            _require(not path or bool(_PLAIN_PATH.fullmatch(path)), option, path, "an absolute path, in plain letters")
        _require(bool(_HOST.fullmatch(self.gateway_name)), "--gateway-name", self.gateway_name, "a host's name")
        plain = bool(re.fullmatch(r"[\w./-]+", self.access_log))
        _require(plain, "--access-log", self.access_log, "a path, in plain letters")


class EdgeTemplate(Template):
    """A configuration with `%{name}` where something is filled in; both servers have uses of their own for `$`."""

    delimiter = "%"
    idpattern = "(?-i:[a-z_]+)"

    @staticmethod
    def of(name: str) -> "EdgeTemplate":
        """The file with this name beside this module."""
        return EdgeTemplate((files("deploy.edges") / name).read_text())


def defaults_of(settings: type) -> dict[str, int]:
    """The numbers that a dataclass of settings holds unless told otherwise, whole: what gateways are bound by."""
    return {one.name: int(one.default) for one in dataclasses.fields(settings) if isinstance(one.default, int | float)}


def _require(holds: bool, option: str, value: object, rule: str) -> None:
    if not holds:
        name = option if option.startswith("--") else f"--{option.replace('_', '-')}"
        raise EdgeRefused(f"{name} {value}: expected {rule}", "")
