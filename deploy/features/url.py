"""`SLUICE_REDIS`, `SLUICE_FEATURES_URL`: what they say, and how that is shown without its password."""

import re
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

RULE = "redis://host:port/db, rediss://.., unix:///path.sock or redis+cluster://host:port,host:port (rediss+cluster://)"
DEFAULT_PORT = 6379


@dataclass(frozen=True, slots=True)
class FeaturesUrl:
    """url: for redis-py; of a cluster, empty. nodes: host and port of nodes of a cluster, from which
    the others are found. tls, username, password: of a cluster."""

    url: str = field(default="", repr=False)
    nodes: tuple[tuple[str, int], ...] = ()
    tls: bool = False
    username: str | None = None
    password: str | None = field(default=None, repr=False)

    @staticmethod
    def parse(text: str) -> "FeaturesUrl":
        """Raises ValueError, naming the rule.

        >>> FeaturesUrl.parse("redis+cluster://a:7000,b").nodes
        (('a', 7000), ('b', 6379))
        """
        scheme, separator, rest = text.partition("://")
        if not separator or not rest.strip("/"):
            raise ValueError(f"expected {RULE}")
        if scheme in ("redis", "rediss", "unix"):
            _check(text)
            return FeaturesUrl(url=text)
        if scheme not in ("redis+cluster", "rediss+cluster"):
            raise ValueError(f"expected {RULE}")
        user, _, places = rest.rpartition("@")
        username, _, password = user.partition(":")
        return FeaturesUrl(
            nodes=tuple(_node(place.strip()) for place in places.rstrip("/").split(",")),
            tls=scheme == "rediss+cluster",
            username=unquote(username) or None,
            password=unquote(password) or None,
        )

    @staticmethod
    def server(text: str) -> "FeaturesUrl":
        """As `parse`, of what can be no cluster. Raises ValueError, naming the rule."""
        found = FeaturesUrl.parse(text)
        if found.nodes:
            raise ValueError("expected redis://host:port/db, rediss://.. or unix:///path.sock: Celery takes no cluster")
        return found


def without_password(text: str) -> str:
    """For logs and eyes.

    >>> without_password("redis+cluster://reader:p@ss@a:7000,b:7000")
    'redis+cluster://reader:***@a:7000,b:7000'
    >>> without_password("unix:///run/redis.sock?password=secret&db=1")
    'unix:///run/redis.sock?password=***&db=1'
    """
    scheme, separator, rest = text.partition("://")
    user, at, place = rest.rpartition("@")
    if ":" in user:
        user = f"{user.partition(':')[0]}:***"
    return scheme + separator + user + at + re.sub(r"(?<=[?&]password=)[^&]*", "***", place)


def _check(text: str) -> None:
    try:
        parts = urlsplit(text)
        holds = bool(parts.path.strip("/")) if parts.scheme == "unix" else bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is none
        holds = False
    if not holds or "," in text.partition("?")[0]:
        raise ValueError(f"expected {RULE}")


def _node(place: str) -> tuple[str, int]:
    try:
        parts = urlsplit(f"//{place}")
        host, port = parts.hostname, DEFAULT_PORT if parts.port is None else parts.port
    except ValueError:
        host, port = None, 0
    if not host or not port or "/" in place or "?" in place:
        raise ValueError(f"expected {RULE}; a cluster has no databases and no options")
    return host, port
