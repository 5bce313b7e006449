"""`sluice features` as a shell sees it, over the Redis of a real platform."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest
import redis

from registry.artefacts import write
from registry.board import RedisBoard
from registry.contracts.features import Column, FeatureView, row_key, unpack_rows
from registry.contracts.traffic import TrafficPlan
from tests.builders import a_package
from tests.conftest import RedisServer
from tests.deploy.platforms import ROOT, Platforms, until
from tests.deploy.test_cli import sluice
from tests.redis_cluster import running_cluster

VIEW = FeatureView(
    "articles",
    "article",
    (Column("age", freshness_s=3600.0), Column("match", "query"), Column("clicks", dtype="int16", default=3.0)),
)


@pytest.fixture
def home(platforms: Platforms) -> Path:
    """Of a platform that is a Redis and no more."""
    platforms.ready(platforms.start("redis"))
    return platforms.settings.home


@pytest.fixture
def view_file(tmp_path: Path) -> str:
    path = tmp_path / "view.json"
    path.write_bytes(msgspec.json.encode(VIEW.to_json()))
    return str(path)


def start_sluice(*arguments: str, home: Path) -> "subprocess.Popen[bytes]":
    """A command that the test does not wait for."""
    return subprocess.Popen(
        [sys.executable, "-m", "deploy.cli", *arguments],
        env=os.environ | {"SLUICE_HOME": str(home)},
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def test_a_file_is_loaded_shown_and_counted(home: Path, tmp_path: Path, view_file: str):
    rows = tmp_path / "rows.csv"
    rows.write_text("item,clicks,age,title\na,12,1.5,hello\nb,,2.5,you\n")

    loaded = sluice("features", "load", str(rows), "--view", view_file, "--json", home=home)
    assert loaded.returncode == 0, loaded.stderr
    assert "title" in loaded.stderr
    (report,) = json.loads(loaded.stdout)
    assert (report["rows"], report["view"], report["ignored_columns"]) == (2, "articles", ["title"])

    shown = json.loads(sluice("features", "show", "articles", "b", "--view", view_file, "--json", home=home).stdout)
    assert shown["stored"] and shown["updated_ms"] == report["updated_ms"]
    age, clicks = shown["values"]
    assert (age["value"], age["default"], age["stale"]) == (2.5, False, False)
    assert (clicks["value"], clicks["default"], clicks["missing"], age["missing"]) == (3.0, True, True, False)
    told = sluice("features", "show", "articles", "b", "--view", view_file, home=home).stdout
    assert "missing: the default" in told

    counted = json.loads(sluice("features", "stats", "--json", home=home).stdout)
    assert [(view["view"], view["rows"]) for view in counted["views"]] == [("articles", 2)]
    assert counted["serving"] is None
    assert "articles" in sluice("features", "stats", home=home).stdout


def test_rows_of_a_cluster_are_loaded_shown_and_counted_whatever_the_shells_settings(
    platforms: Platforms, tmp_path: Path, view_file: str
):
    count = 3000
    rows = tmp_path / "rows.csv"
    rows.write_text("item,clicks,age\n" + "".join(f"article-{i},{i % 900},0.5\n" for i in range(count)))
    with running_cluster() as cluster:
        platforms.ready(platforms.start("redis", SLUICE_FEATURES_URL=cluster.url))
        home = platforms.settings.home

        loaded = sluice("features", "load", str(rows), "--view", view_file, "--json", home=home)
        assert loaded.returncode == 0, loaded.stderr
        assert [report["rows"] for report in json.loads(loaded.stdout)] == [count]
        held = [int(node.command("DBSIZE")) for node in cluster.nodes]
        assert sum(held) == count and min(held) > 0
        assert unpack_rows(VIEW, [cluster.client().get(row_key(VIEW, "article-77"))]).values.tolist() == [[0.5, 77.0]]

        shown = json.loads(
            sluice("features", "show", "articles", "article-9", "--view", view_file, "--json", home=home).stdout
        )
        assert [value["value"] for value in shown["values"]] == [0.5, 9.0]
        (counted,) = json.loads(sluice("features", "stats", "--json", home=home).stdout)["views"]
        assert (counted["view"], counted["rows"], counted["sampled"]) == ("articles", count, 1000)
        assert counted["age_s"]["p100"] < 600

        cluster.nodes[0].kill()
        refused = sluice("features", "load", str(rows), "--view", view_file, home=home)
        assert refused.returncode == 1
        assert refused.stderr.startswith("error: Redis: ") and "goes on where it stopped" in refused.stderr


def test_rows_of_a_server_of_ones_own_are_loaded_shown_and_counted(
    platforms: Platforms, redis_server: RedisServer, server_client: redis.Redis, tmp_path: Path, view_file: str
):
    rows = tmp_path / "rows.csv"
    rows.write_text("item,clicks,age\na,12,1.5\n")
    platforms.ready(platforms.start("redis", SLUICE_FEATURES_URL=f"unix://{redis_server.socket}"))
    home = platforms.settings.home

    assert sluice("features", "load", str(rows), "--view", view_file, home=home).returncode == 0

    assert server_client.exists(row_key(VIEW, "a"))
    assert sluice("features", "show", "articles", "a", "--view", view_file, home=home).returncode == 0
    assert "articles" in sluice("features", "stats", home=home).stdout


def test_an_old_row_is_shown_as_stale(home: Path, tmp_path: Path, view_file: str):
    rows = tmp_path / "rows.csv"
    rows.write_text("sku,clicks,age\n7,12,1.5\n")
    two_hours_ago = str(time.time_ns() // 1_000_000 - 7_200_000)
    told = ("--view", view_file, "--item-column", "sku", "--updated-ms", two_hours_ago)

    loaded = sluice("features", "load", str(rows), *told, home=home)
    assert loaded.returncode == 0, loaded.stderr
    assert "1 rows of view 'articles'" in loaded.stdout

    shown = sluice("features", "show", "articles", "7", "--view", view_file, home=home)
    assert "2 h old" in shown.stdout
    assert "stale, limit 1 h" in shown.stdout


def test_what_cannot_be_done_is_one_line(home: Path, tmp_path: Path, view_file: str):
    rows = tmp_path / "rows.csv"
    rows.write_text("item,age\na,1\n")

    missing = sluice("features", "load", str(rows), "--view", view_file, home=home)
    nobody = sluice("features", "show", "articles", "zz", "--view", view_file, home=home)
    unknown = sluice("features", "show", "articles", "zz", home=home)
    unserved = sluice("features", "load", str(rows), "--model", "nobody", home=home)

    assert [told.returncode for told in (missing, nobody, unknown, unserved)] == [1, 1, 1, 1]
    assert "columns ['clicks'] are missing" in missing.stderr
    assert nobody.stderr == "error: item 'zz' is not stored in view 'articles'; try: sluice features load\n"
    assert "no version on this machine has a feature view 'articles'" in unknown.stderr
    assert "no model 'nobody' is served" in unserved.stderr
    assert all(told.stderr.count("\n") == 1 for told in (missing, nobody, unknown, unserved))
    assert sluice("features", "load", str(rows), home=home).returncode == 2


def test_a_champions_view_needs_no_file(home: Path, platforms: Platforms, tmp_path: Path):
    from deploy import wiring

    package = a_package()
    write(package, platforms.settings.versions_folder / "codesearch" / "4")
    board = RedisBoard(wiring.redis_client(platforms.settings))
    board.publish(TrafficPlan("codesearch", revision=1, champion=4, champion_digest=package.digest))
    rows = tmp_path / "rows.csv"
    rows.write_text("item,length\njson.loads,12\n")

    for model in ("codesearch", "codesearch@4"):
        loaded = sluice("features", "load", str(rows), "--model", model, home=home)
        assert loaded.returncode == 0, loaded.stderr

    shown = sluice("features", "show", "functions", "json.loads", home=home)
    assert shown.returncode == 0, shown.stderr
    assert "length  12" in shown.stdout


def test_without_a_platform_the_exit_code_is_4(tmp_path: Path):
    assert sluice("features", "stats", home=tmp_path).returncode == 4


def test_a_load_killed_with_9_goes_on_where_it_was(home: Path, tmp_path: Path, view_file: str):
    rows = tmp_path / "rows.csv"
    count = 1_000_000
    rows.write_text("item,clicks,age\n" + "".join(f"article-{i},{i % 900},0.5\n" for i in range(count)))
    loading = start_sluice("features", "load", str(rows), "--view", view_file, home=home)
    until(lambda: list(home.glob("loads/*.json")), "a part is marked as loaded")
    loading.kill()
    assert loading.wait() == -9

    again = sluice("features", "load", str(rows), "--view", view_file, "--json", home=home)

    assert again.returncode == 0, again.stderr
    (report,) = json.loads(again.stdout)
    assert report["rows"] == count
    assert 0 < report["resumed_rows"] < count
    counted = json.loads(sluice("features", "stats", "articles", "--json", home=home).stdout)
    assert [view["rows"] for view in counted["views"]] == [count]
    assert not list(home.glob("loads/*"))
