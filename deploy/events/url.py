"""`SLUICE_EVENTS_URL`: what it says."""

from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

RULE = (
    "kafka://host:port,host:port/topic, kafkas:// for TLS, kafka://user:password@.. for SASL, and after a ?: "
    "mechanism=SCRAM-SHA-512|SCRAM-SHA-256|PLAIN, ca=, certificate= and key= (files), "
    "compression=lz4|zstd|snappy|gzip|none, session_s=6..300"
)
DEFAULT_PORT = 9092
_MECHANISMS = ("SCRAM-SHA-512", "SCRAM-SHA-256", "PLAIN")
_COMPRESSIONS = ("lz4", "zstd", "snappy", "gzip", "none")
_FILES = {"ca": "ssl.ca.location", "certificate": "ssl.certificate.location", "key": "ssl.key.location"}
_TOPIC = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")


@dataclass(frozen=True, slots=True)
class EventsUrl:
    """config: librdkafka's properties of brokers, TLS and SASL. session_s: after which a dead reader's partitions
    go to another."""

    topic: str
    config: dict[str, Any] = field(repr=False)
    compression: str = "lz4"
    session_s: float = 10.0

    @staticmethod
    def parse(text: str) -> "EventsUrl":
        """Raises ValueError, naming the rule.

        >>> EventsUrl.parse("kafka://a:9093,b/events").config
        {'bootstrap.servers': 'a:9093,b:9092', 'security.protocol': 'plaintext'}
        """
        scheme, _, rest = text.partition("://")
        place, _, query = rest.partition("?")
        user, _, place = place.rpartition("@")
        brokers, _, topic = place.partition("/")
        options = dict(parse_qsl(query, keep_blank_values=True))
        mechanism = options.pop("mechanism", _MECHANISMS[0])
        compression = options.pop("compression", _COMPRESSIONS[0])
        files = {_FILES[name]: options.pop(name) for name in _FILES if name in options}
        holds = (
            scheme in ("kafka", "kafkas")
            and (not files or scheme == "kafkas")
            and all(files.values())
            and mechanism in _MECHANISMS
            and compression in _COMPRESSIONS
            and 0 < len(topic) <= 249
            and _TOPIC.issuperset(topic)
            and topic.strip(".") != ""
        )
        try:
            session_s = float(options.pop("session_s", "10"))
            servers = ",".join(_broker(broker.strip()) for broker in brokers.split(","))
        except ValueError as error:
            raise ValueError(f"expected {RULE}") from error
        if not holds or options or not 6 <= session_s <= 300:
            raise ValueError(f"expected {RULE}")
        tls = "ssl" if scheme == "kafkas" else "plaintext"
        config = {"bootstrap.servers": servers, "security.protocol": f"sasl_{tls}" if user else tls, **files}
        if user:
            username, _, password = user.partition(":")
            config |= {"sasl.mechanisms": mechanism}
            config |= {"sasl.username": unquote(username), "sasl.password": unquote(password)}
        return EventsUrl(topic, config, compression, session_s)


def _broker(place: str) -> str:
    parts = urlsplit(f"//{place}")
    if not parts.hostname or parts.port == 0 or set("/?#@") & set(place):
        raise ValueError("no broker")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{host}:{DEFAULT_PORT if parts.port is None else parts.port}"
