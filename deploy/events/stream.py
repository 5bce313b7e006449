"""Both ends of the event stream, as the settings have it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from deploy.errors import SettingsError
from deploy.events.url import EventsUrl
from deploy.settings import PlatformSettings
from registry.stream import RedisStream, StreamReader, StreamWriter

if TYPE_CHECKING:
    from registry.kafka import KafkaStream


def event_writer(settings: PlatformSettings) -> StreamWriter:
    """Connects when first asked: a gateway may start before its stream."""
    return _kafka(settings) if settings.events_url else _redis(settings)


@contextmanager
def event_reader(settings: PlatformSettings, group: str, consumer: str) -> Iterator[StreamReader]:
    """A reader of the group. On Kafka it leaves the group in the end, so that others go on at once."""
    if not settings.events_url:
        yield _redis(settings).reader(group, consumer)
        return
    reader = _kafka(settings).reader(group, consumer)
    try:
        yield reader
    finally:
        reader.close()


def _redis(settings: PlatformSettings) -> RedisStream:
    from deploy.wiring import redis_client

    return RedisStream(redis_client(settings), replicas=settings.event_replicas)


def _kafka(settings: PlatformSettings) -> "KafkaStream":
    try:
        from registry.kafka import KafkaStream
    except ImportError as error:
        rule = "confluent-kafka to be installed: pip install '.[kafka]' in the clone"
        raise SettingsError("SLUICE_EVENTS_URL", settings.events_url.partition("://")[0] + "://..", rule) from error
    where = EventsUrl.parse(settings.events_url)
    return KafkaStream(where.config, where.topic, where.compression, session_s=where.session_s)
