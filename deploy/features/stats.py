"""What Redis holds of each feature view, and how the tiers in front of it do."""

import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, cast

import numpy as np
import redis
from prometheus_client.parser import text_string_to_metric_families

from deploy.features.store import primaries
from registry.contracts.features import ROW_HEADER

KEYS_A_SCAN = 1000
SAMPLE_ROWS = 1000
QUANTILES = (0.0, 0.5, 0.9, 0.99, 1.0)
_PREFIX = b"sluice:row:"
_Place = tuple[int, bytes]
"""Which server keeps the key, and the key."""


@dataclass(slots=True)
class ViewStats:
    """rows: all of them. bytes: in Redis' memory, keys included, estimated from a sample of
    `sampled` rows; so are layouts (share by fingerprint) and age_s (by quantile)."""

    view: str
    rows: int = 0
    bytes: int = 0
    sampled: int = 0
    layouts: dict[str, float] = field(default_factory=dict)
    age_s: dict[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


@dataclass(slots=True)
class ServingStats:
    """Counters since the processes started. lookups: by tier and view, hits and misses. missing,
    stale: candidates by model; refused: rows of another layout by view."""

    lookups: dict[str, dict[str, dict[str, int]]] = field(default_factory=dict)
    missing: dict[str, int] = field(default_factory=dict)
    stale: dict[str, int] = field(default_factory=dict)
    refused: dict[str, int] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def store_stats(
    client: redis.Redis | redis.RedisCluster,
    view: str | None,
    now_ms: int,
    on_keys: Callable[[int, int], None],
    seed: int = 0,
) -> list[ViewStats]:
    """Counts every row with SCAN, which holds nobody up; looks into a random sample of each view's.

    client: of one server or of a cluster. view: only this one. on_keys: told how many keys were seen,
    of how many. SCAN may give a key twice while Redis resizes its table, or moves it to another node:
    counts are exact in a store that stands still.
    Raises redis.RedisError.
    """
    servers = primaries(client)
    total, seen = sum([int(server.dbsize()) for server in servers]), 0
    chance = random.Random(seed)
    stats: dict[str, ViewStats] = {}
    samples: dict[str, list[_Place]] = {}
    for server, keys in _scan(servers, view):
        for key in keys:
            name = key[len(_PREFIX) :].partition(b":")[0].decode()
            of_view, sample = stats.setdefault(name, ViewStats(name)), samples.setdefault(name, [])
            of_view.rows += 1
            if len(sample) < SAMPLE_ROWS:
                sample.append((server, key))
            elif (place := chance.randrange(of_view.rows)) < SAMPLE_ROWS:
                sample[place] = (server, key)  # every row is as likely to stay: Vitter's algorithm R
        seen += len(keys)
        on_keys(min(seen, total), total)
    on_keys(total, total)
    for name, sample in samples.items():
        _look_into(servers, stats[name], sample, now_ms)
    return [stats[name] for name in sorted(stats)]


def serving_stats(exposition: str) -> ServingStats:
    """From the gateway's /metrics."""
    found = ServingStats()
    tiers = {"serving_tier_lookups_total": "host", "serving_device_tier_lookups_total": "device"}
    counters = {
        "serving_missing_rows_total": ("model", found.missing),
        "serving_stale_rows_total": ("model", found.stale),
        "serving_refused_rows_total": ("view", found.refused),
    }
    for family in text_string_to_metric_families(exposition):
        for sample in family.samples:
            if tier := tiers.get(sample.name):
                of_view = found.lookups.setdefault(tier, {}).setdefault(sample.labels["view"], {"hit": 0, "miss": 0})
                of_view[sample.labels["outcome"]] += int(sample.value)
            elif sample.name in counters:
                label, counts = counters[sample.name]
                counts[sample.labels[label]] = counts.get(sample.labels[label], 0) + int(sample.value)
    return found


def _scan(servers: Sequence[redis.Redis], view: str | None) -> Iterator[tuple[int, Sequence[bytes]]]:
    pattern = _PREFIX + (view.encode() + b":*" if view else b"*")
    for place, server in enumerate(servers):
        cursor = 0
        while True:
            cursor, keys = server.scan(cursor, match=pattern, count=KEYS_A_SCAN)
            yield place, cast(list[bytes], keys)
            if cursor == 0:
                break


def _look_into(servers: Sequence[redis.Redis], stats: ViewStats, sample: Sequence[_Place], now_ms: int) -> None:
    answers: list[Any] = []
    for place, server in enumerate(servers):
        pipeline = server.pipeline(transaction=False)
        for key in [key for at, key in sample if at == place]:
            pipeline.getrange(key, 0, ROW_HEADER.itemsize - 1)
            pipeline.memory_usage(key)
        # of a slot that moved away meanwhile: as if deleted
        answers += [None if isinstance(one, redis.ResponseError) else one for one in pipeline.execute(False)]
    heads, sizes = [head or b"" for head in answers[0::2]], [size for size in answers[1::2] if size is not None]
    headers = np.frombuffer(b"".join(head for head in heads if len(head) == ROW_HEADER.itemsize), ROW_HEADER)
    stats.sampled = len(headers)
    if not stats.sampled:
        return  # deleted meanwhile
    stats.bytes = round(stats.rows * sum(sizes) / max(1, len(sizes)))
    prints = headers["fingerprint"].tolist()
    stats.layouts = {mark.ljust(8, b"\0").hex(): count / stats.sampled for mark, count in Counter(prints).most_common()}
    ages_s = (now_ms - headers["updated_ms"].astype(np.int64)) / 1000
    stats.age_s = {
        f"p{q * 100:g}": float(age) for q, age in zip(QUANTILES, np.quantile(ages_s, QUANTILES), strict=True)
    }
