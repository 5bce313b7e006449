"""The console's files as the gateway serves them: all there, nobody else's, and under a policy that keeps it so."""

import asyncio
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path

import fastapi
import httpx
import pytest

from serving.gateway.console.files import POLICY, console_router, page_files

ROOT = Path(__file__).parent.parent.parent
PAGE = ROOT / "serving" / "gateway" / "console" / "page"


def get(path: str, **headers: str) -> httpx.Response:
    """Of a gateway that has the console alone."""
    app = fastapi.FastAPI()
    app.include_router(console_router())

    async def ask() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://sluice") as client:
            return await client.get(path, headers=headers)

    return asyncio.run(ask())


class Tags(HTMLParser):
    """All tags of a page with their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_every_file_is_served_under_the_policy_with_its_own_type() -> None:
    for name, file in page_files().items():
        answer = get(f"/console/{name}")

        assert (answer.status_code, answer.content) == (200, file.content)
        assert answer.headers["content-type"] == file.content_type
        assert answer.headers["content-security-policy"] == POLICY
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
    assert set(page_files()) == {"", *(path.name for path in PAGE.iterdir() if path.name != "index.html")}


def test_the_policy_lets_in_nothing_from_elsewhere_and_nothing_inline() -> None:
    rules = dict(rule.split(" ", 1) for rule in POLICY.split("; "))

    assert rules["default-src"] == rules["frame-ancestors"] == rules["base-uri"] == rules["form-action"] == "'none'"
    assert {sources for name, sources in rules.items() if name.endswith("-src")} == {"'none'", "'self'"}


def test_the_page_names_only_files_that_are_there_and_has_nothing_inline() -> None:
    tags = Tags((PAGE / "index.html").read_text()).found
    named = [attrs[name] for tag, attrs in tags if tag != "a" for name in ("src", "href") if name in attrs]

    assert set(named) <= page_files().keys()
    assert len(named) == 3
    assert [tag for tag, attrs in tags if tag == "style" or (tag == "script" and "src" not in attrs)] == []
    assert [attr for _, attrs in tags for attr in attrs if attr.startswith("on") or attr == "style"] == []


@pytest.mark.parametrize("script", sorted(path.name for path in PAGE.glob("*.js")))
def test_a_script_imports_only_files_that_are_there_and_makes_no_markup_of_text(script: str) -> None:
    text = (PAGE / script).read_text()

    assert {f"./{name}" for name in page_files()} >= set(re.findall(r'from "([^"]+)"', text))
    assert (
        re.findall(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|import\(", text) == []
    )
    assert re.findall(r"https?://(?!www\.w3\.org/2000/svg)\S+", text) == []


def test_a_colour_is_written_once_with_the_one_for_dark_beside_it() -> None:
    text = (PAGE / "style.css").read_text()
    pairs = re.findall(r"(--[\w-]+): light-dark\((#\w+), (#\w+)\);", text)

    assert len({name for name, _, _ in pairs}) == len(pairs) > 30
    assert len(re.findall(r"#[0-9a-f]{6}", text)) == 2 * len(pairs), "a colour stands outside of the pairs"


def test_a_file_that_has_not_changed_is_not_sent_again() -> None:
    first = get("/console/app.js")
    again = get("/console/app.js", **{"if-none-match": first.headers["etag"]})

    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", first.headers["etag"])


def test_the_address_without_a_slash_leads_to_the_page_also_behind_a_prefix() -> None:
    answer = get("/console")

    assert (answer.status_code, answer.headers["location"]) == (308, "console/")


@pytest.mark.parametrize(
    "path", ["/console/nothing.js", "/console/../files.py", "/console/%2e%2e/files.py", "/console/x/y"]
)
def test_nothing_else_is_served(path: str) -> None:
    assert get(path).status_code == 404


@contextmanager
def a_wheel(folder: Path) -> Iterator[zipfile.ZipFile]:
    """Built as pip builds it, without the network, and of a copy, for building leaves things behind."""
    copy = folder / "copy"
    for room in ("registry", "serving", "drift", "pipelines", "deploy"):
        shutil.copytree(ROOT / room, copy / room, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, copy / name)
    told = [sys.executable, "-m", "pip", "wheel", str(copy), "--no-deps", "--no-build-isolation", "-w", str(folder)]
    subprocess.run(told, check=True, capture_output=True, cwd=folder)
    (path,) = folder.glob("*.whl")
    with zipfile.ZipFile(path) as wheel:
        yield wheel


def test_the_page_is_in_the_wheel(tmp_path: Path) -> None:
    with a_wheel(tmp_path) as wheel:
        there = {name for name in wheel.namelist() if name.startswith("serving/gateway/console/page/")}

    assert {Path(name).name for name in there} == {path.name for path in PAGE.iterdir()}
