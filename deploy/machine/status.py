"""What `sluice status` asks of a running platform, beyond what the supervisor wrote down."""

import http.client
import json
from typing import Any

import msgspec
import redis

from deploy.control.admin_key import read_admin_key
from deploy.features.store import feature_client, primaries
from deploy.features.url import without_password
from deploy.machine.gateway_door import connection_to
from deploy.redis_clients import platform_client, redis_errors_only
from deploy.settings import PlatformSettings
from registry.contracts.errors import ContractError
from registry.contracts.traffic import TrafficPlan

EVENTS = "sluice:events"
TRAFFIC = "sluice:traffic"
TIMEOUT_S = 2.0


def redis_status(settings: PlatformSettings, now_ms: int) -> dict[str, Any]:
    """Keys `redis` (memory and keys; None if it does not answer), `traffic`, `events` by group."""
    try:
        with platform_client(settings, TIMEOUT_S) as client, redis_errors_only():
            servers = primaries(client)
            return {
                "redis": {
                    "used_memory_bytes": sum(server.info("memory")["used_memory"] for server in servers),
                    "keys": sum(server.dbsize() for server in servers),
                },
                "traffic": _traffic(client),
                "events": event_lag(client, now_ms),
            }
    except redis.RedisError:
        return {"redis": None, "traffic": [], "events": {}}


def features_status(settings: PlatformSettings) -> dict[str, Any] | None:
    """Where the rows are, without a password, and how many `nodes` answer of how many (`of`); None
    if they are with everything else in the embedded Redis. A cluster that does not answer has no nodes."""
    if not settings.features_url and not settings.redis:
        return None
    where = {"url": without_password(settings.rows_url)}
    try:
        client = feature_client(settings, TIMEOUT_S)
    except redis.RedisError:
        return where | {"nodes": 0, "of": 0}
    with client:
        if not isinstance(client, redis.RedisCluster):
            return where | {"nodes": int(_answers(client)), "of": 1}
        primaries = client.get_primaries()  # type: ignore[no-untyped-call]
        return where | {
            "nodes": sum(_answers(client.get_redis_connection(node)) for node in primaries),
            "of": len(primaries),
        }


def _answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False


def event_lag(client: Any, now_ms: int) -> dict[str, dict[str, float]]:
    """For each group of readers: entries it took but did not acknowledge, and `lag_s`, the age of
    the oldest entry that it has not acknowledged (0 if there is none).

    Redis 6.2 does not count what a group has yet to read, so the age says more than a number.
    """
    if not client.exists(EVENTS):
        return {}
    return {group["name"].decode(): _lag(client, group, now_ms) for group in client.xinfo_groups(EVENTS)}


def _lag(client: Any, group: dict[str, Any], now_ms: int) -> dict[str, float]:
    waiting = [entry for entry, _ in client.xrange(EVENTS, b"(" + group["last-delivered-id"], "+", 1)]
    if (
        group["pending"] and (oldest := client.xpending(EVENTS, group["name"])["min"]) is not None
    ):  # acknowledged by now
        waiting.append(oldest)
    written_ms = [int(entry.partition(b"-")[0]) for entry in waiting]
    return {"pending": group["pending"], "lag_s": max(0.0, (now_ms - min(written_ms)) / 1000) if written_ms else 0.0}


def _traffic(client: Any) -> list[dict[str, Any]]:
    plans = []
    for raw in client.hvals(TRAFFIC):
        try:
            plans.append(msgspec.to_builtins(TrafficPlan.decode(raw)))
        except ContractError:
            continue  # of a newer version: the gateways say what they think of it
    return sorted(plans, key=lambda plan: str(plan["model"]))


def gateway_status(settings: PlatformSettings, key: str = "") -> Any:
    """What the gateway says of itself at /v1/status; keys `refused` (the status) and `why` if it does not say it; None
    if it does not answer. key: the data folder's own by default."""
    key = key or _admin_key(settings)
    connection = connection_to(settings, TIMEOUT_S)
    try:
        connection.request("GET", "/v1/status", headers={"authorization": f"Bearer {key}"} if key else {})
        answer = connection.getresponse()
        said = json.loads(answer.read())
        return said if answer.status == 200 else {"refused": answer.status, "why": str(said["error"])}
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError):
        return None
    finally:
        connection.close()


def _admin_key(settings: PlatformSettings) -> str:
    try:
        return read_admin_key(settings.admin_key_file)
    except OSError:  # somebody else's
        return ""
