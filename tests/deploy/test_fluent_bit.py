"""Log shipping: Fluent Bit's configuration against what the plugins know, and against real log lines.

There is no Fluent Bit to be had here, so its own check (`fluent-bit --dry-run`) is left to whoever has one.
"""

import io
import json
import logging
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.logs import JsonFormatter

CONFIG = Path(__file__).parents[2] / "deploy" / "logging" / "fluent-bit.yaml"
# names of properties by plugin, as written down from knowledge of Fluent Bit 3.2: a guard against slips, no schema
EVERYWHERE = {"name", "match", "tag", "storage.type"}
OUTPUT = {"retry_limit", "storage.total_limit_size", "tls", "tls.verify", "host", "port"}
PROPERTIES = {
    ("inputs", "tail"): EVERYWHERE
    | {"path", "parser", "db", "read_from_head", "buffer_max_size", "skip_long_lines", "rotate_wait"}
    | {"multiline.parser"},
    ("filters", "parser"): EVERYWHERE | {"key_name", "parser", "reserve_data", "preserve_key"},
    ("filters", "record_modifier"): EVERYWHERE | {"record", "remove_key", "allowlist_key", "uuid_key"},
    ("outputs", "kafka"): EVERYWHERE
    | OUTPUT
    | {"brokers", "topics", "format", "timestamp_key", "timestamp_format"}
    | {"rdkafka.acks", "rdkafka.enable.idempotence", "rdkafka.compression.type"},
    ("outputs", "es"): EVERYWHERE
    | OUTPUT
    | {"http_user", "http_passwd", "logstash_format", "logstash_prefix", "time_key", "suppress_type_name"}
    | {"generate_id"},
}
SERVICE = {
    "flush",
    "grace",
    "log_level",
    "http_server",
    "http_port",
    "health_check",
    "storage.path",
    "storage.sync",
} | {
    "storage.checksum",
    "storage.max_chunks_up",
    "storage.backlog.mem_limit",
    "storage.metrics",
}


@pytest.fixture(scope="module")
def config() -> Any:
    return yaml.safe_load(CONFIG.read_text())


def test_every_plugin_is_known_and_has_no_property_that_it_does_not_know(config: Any) -> None:
    assert set(config) == {"service", "parsers", "pipeline"}
    assert set(config["service"]) <= SERVICE
    for kind, plugins in config["pipeline"].items():
        for plugin in plugins:
            assert set(plugin) <= PROPERTIES[kind, plugin["name"]], plugin["name"]


def test_every_parser_that_is_named_exists_and_every_output_takes_every_input(config: Any) -> None:
    pipeline = config["pipeline"]
    named = {plugin["parser"] for kind in ("inputs", "filters") for plugin in pipeline[kind] if "parser" in plugin}

    assert named == {parser["name"] for parser in config["parsers"]}
    assert all(plugin["tag"].startswith("sluice.") for plugin in pipeline["inputs"])
    assert {plugin["match"] for plugin in pipeline["outputs"]} == {"sluice.*"}


def test_what_an_output_does_not_take_waits_on_disk_within_bounds(config: Any) -> None:
    assert config["service"]["storage.path"]
    assert all(plugin["storage.type"] == "filesystem" for plugin in config["pipeline"]["inputs"])
    for plugin in config["pipeline"]["outputs"]:
        assert (plugin["retry_limit"], plugin["storage.total_limit_size"]) == ("no_limits", "2G")


def test_passwords_come_from_the_environment(config: Any) -> None:
    for plugin in config["pipeline"]["outputs"]:
        for name in ("http_user", "http_passwd", "brokers"):
            assert plugin.get(name, "${}").startswith("${")


def test_a_log_line_is_parsed_with_its_time_and_leaves_without_what_says_who(config: Any) -> None:
    out = io.StringIO()
    handler = logging.StreamHandler(out)
    handler.setFormatter(JsonFormatter("gateway-0"))
    record = logging.makeLogRecord({"name": "serving.rank", "levelname": "INFO", "msg": "ranked", "created": 1.5})
    record.__dict__.update({"ranking_id": "01", "trace_id": "ab", "total_ms": 3.1, "unit": "u1", "settings": {"a": 1}})
    handler.emit(record)
    line = json.loads(out.getvalue())
    [parser] = config["parsers"]
    [kept] = [f["allowlist_key"] for f in config["pipeline"]["filters"] if f["name"] == "record_modifier"]

    time_format = parser["time_format"].replace(".%L", ".%f")  # %L is Fluent Bit's fraction of a second
    assert datetime.strptime(line[parser["time_key"]], time_format).microsecond == 500_000
    assert set(line) - set(kept) == {"unit", "settings"}
    assert set(line) & set(kept) >= {"ts", "level", "logger", "message", "process", "ranking_id", "trace_id"}
