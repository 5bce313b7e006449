"""The console in a real browser, against a platform that has a past and a present."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from tests.chromium import a_browser
from tests.console_world import HOSTILE, MODEL, QUIET, World, a_world

ROOT = Path(__file__).parent.parent.parent
pytestmark = pytest.mark.slow
PATIENCE_MS = 60_000.0
PANELS = ("traffic", "latency", "gate", "live", "drift")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    expect.set_options(timeout=PATIENCE_MS)
    with a_browser() as browser:
        yield browser


@pytest.fixture(scope="module")
def world(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """After the browser, so that a machine without one starts nothing."""
    with a_world(tmp_path_factory.mktemp("world") / "home") as world, world.busy(hostile=True):
        yield world


@dataclass
class Seen:
    """A page, what it asked for, and what it complained about."""

    page: Page
    asked: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)


@contextmanager
def a_page(browser: Browser, world: World, key: str | None = None, hash: str = "", **options: Any) -> Iterator[Seen]:
    """Opened. key: in the address, the admin's by default, empty for none. options: of the browser's context."""
    given = world.key if key is None else key
    context = browser.new_context(**({"viewport": {"width": 1440, "height": 900}} | options))
    try:
        page = context.new_page()
        page.set_default_timeout(PATIENCE_MS)
        seen = Seen(page)
        page.on("request", lambda request: seen.asked.append(request.url))
        page.on("console", lambda said: seen.complaints.append(f"{said.type}: {said.text}"))
        page.on("pageerror", lambda error: seen.complaints.append(f"error: {error}"))
        page.goto(f"{world.url}/console/{f'#key={given}' if given else ''}{hash}")
        yield seen
    finally:
        context.close()


def wait_until_drawn(page: Page) -> None:
    """Every panel has its figures."""
    for wanted in ("#traffic .chart", "#latency .stages", "#gate .estimate", "#live .queries tbody tr", "#drift .map"):
        expect(page.locator(wanted).first).to_be_visible()


def figures(world: World, path: str) -> Any:
    """As the API has them."""
    answer = httpx.get(f"{world.url}{path}", headers={"authorization": f"Bearer {world.key}"}, timeout=60.0)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_the_page_needs_nothing_from_elsewhere_and_complains_of_nothing(browser: Browser, world: World) -> None:
    with a_page(browser, world) as seen:
        wait_until_drawn(seen.page)
        expect(seen.page.locator("[aria-busy=true]")).to_have_count(0)

    assert seen.complaints == []
    assert {urlsplit(url).netloc for url in seen.asked} == {urlsplit(world.url).netloc}
    assert all(world.key not in url for url in seen.asked[1:])


def test_the_documentation_needs_nothing_from_elsewhere_nor_a_key(browser: Browser, world: World) -> None:
    with a_page(browser, world, key="") as seen:
        seen.asked.clear()
        seen.page.goto(f"{world.url}/docs")
        expect(seen.page.locator("text=Rank candidates").first).to_be_visible()
        seen.page.wait_for_load_state("networkidle")

    assert {urlsplit(url).netloc for url in seen.asked if not url.startswith(("data:", "blob:"))} == {
        urlsplit(world.url).netloc
    }


def test_it_shows_versions_their_traffic_and_where_the_rollout_is(browser: Browser, world: World) -> None:
    with a_page(browser, world) as seen:
        page = seen.page
        wait_until_drawn(page)
        rows = page.locator(".versions tbody tr")
        expect(rows.nth(0)).to_contain_text("@1")
        expect(rows.nth(0)).to_contain_text("champion")
        expect(rows.nth(0)).to_contain_text("90 %")
        expect(rows.nth(1)).to_contain_text("@2")
        expect(rows.nth(1)).to_contain_text("challenger")
        expect(page.locator("#traffic .legend").first).to_contain_text("challenger @2")
        expect(page.locator("#gate .steps [aria-current=step]")).to_contain_text("ab-10")
        expect(page).to_have_title(f"{MODEL} · Sluice")


def test_the_gates_interval_is_the_one_that_evidence_has(browser: Browser, world: World) -> None:
    (gate,) = figures(world, f"/v1/models/{MODEL}/rollouts/{world.rollout.id}/looks")["gates"]
    last = gate["points"][-1]
    with a_page(browser, world) as seen:
        wait_until_drawn(seen.page)
        facts = seen.page.locator("#gate .facts")
        expect(facts).to_contain_text(f"{abs(100 * last['estimate']):.2f} %")
        expect(facts).to_contain_text(f"{abs(100 * last['high']):.2f} %")
        expect(facts).to_contain_text(f"{last['closed']} of {gate['terms']['looks']}")
        label = seen.page.locator("#gate-chart").get_attribute("aria-label")
        numbers = seen.page.locator("#gate .numbers")
        numbers.locator("summary").click()
        expect(numbers.locator("tbody tr")).to_have_count(len(gate["points"]))

    assert label is not None
    assert "It passes when the interval lies over +0.0 %" in label


def test_a_cell_of_the_drift_map_tells_its_numbers_and_arrow_keys_lead_to_it(browser: Browser, world: World) -> None:
    found = figures(world, f"/v1/models/{MODEL}/drift/days?limit=400")
    days, rows = found["days"], found["rows"]
    row = rows[1]
    place = max(place for place, shift in enumerate(row["shifts"]) if shift is not None)
    with a_page(browser, world) as seen:
        page = seen.page
        wait_until_drawn(page)
        page.locator("#drift .map td[tabindex='0']").focus()
        page.keyboard.press("Control+Home")
        page.keyboard.press("ArrowDown")
        page.keyboard.press("End")
        for _ in range(len(days) - 1 - place):
            page.keyboard.press("ArrowLeft")
        cell = page.locator(f"#cell-1-{place}")
        expect(cell).to_be_focused()
        told = cell.get_attribute("aria-label") or ""
        expect(page.locator("#drift-tell")).to_have_text(told)
        page.keyboard.press("Control+End")
        last = page.evaluate("document.activeElement.id")
        cells = page.locator("#drift .map tbody tr:first-child td")
        shades = cells.evaluate_all("cells => cells.map(cell => cell.className)")

    shift = row["shifts"][place]
    words = f"{abs(shift):.2f} sd" if row["kind"] == "mean" else f"{abs(100 * shift):.1f} points"
    assert words in told and row["quantity"] in told
    assert f"{days[place]['lists']} lists of @1" in told
    assert last == f"cell-15-{len(days) - 1}"
    assert shades == [shade(one, rows[0]["floor"]) for one in rows[0]["shifts"]]


def shade(shift: float | None, floor: float) -> str:
    """The class of a cell: lower or higher, and how many of the limits it reaches."""
    if shift is None:
        return "none"
    size = sum(abs(shift) / floor >= limit for limit in (0.5, 1, 2, 4))
    return f"l{'m' if shift < 0 and size else 'p'}{size}"


def test_every_control_is_reached_by_tab_shows_its_focus_and_has_a_name(browser: Browser, world: World) -> None:
    with a_page(browser, world) as seen:
        page = seen.page
        wait_until_drawn(page)
        page.keyboard.press("p")  # rows that come and go in between would be no walk
        walked: dict[str, str] = {}
        for _ in range(120):
            page.keyboard.press("Tab")
            here = page.evaluate(
                """() => { const e = document.activeElement; const s = getComputedStyle(e);
                return {mark: e.id || e.className || e.tagName, ring: s.outlineStyle,
                  name: e.getAttribute('aria-label') || e.labels?.[0]?.textContent || e.textContent}; }"""
            )
            if here["mark"] == "BODY":
                break
            walked[here["mark"]] = here["ring"]
            assert here["name"].strip(), here
        missed = page.evaluate(
            """() => [...document.querySelectorAll('button, select, input, a, summary, .chart, .map td[tabindex="0"]')]
            .filter(e => e.offsetParent !== null || e.closest('svg')).map(e => e.id || e.className || e.tagName)"""
        )

    assert set(missed) <= walked.keys()
    assert next(iter(walked)) == "skip"
    assert {mark: ring for mark, ring in walked.items() if ring == "none"} == {}
    assert sum(mark.startswith("cell-") for mark in walked) == 1  # the map is one stop, arrow keys do the rest


def test_single_keys_lead_to_panels_and_a_dialog_tells_them(browser: Browser, world: World) -> None:
    with a_page(browser, world) as seen:
        page = seen.page
        wait_until_drawn(page)
        for place, panel in enumerate(PANELS):
            page.keyboard.press(str(place + 1))
            expect(page.locator(f"#{panel}-title")).to_be_focused()
        page.keyboard.press("?")
        expect(page.locator("#keys")).to_be_visible()
        page.keyboard.press("Escape")
        expect(page.locator("#keys")).to_be_hidden()
        page.keyboard.press("f")
        page.keyboard.type("click_rate")
        expect(page.locator("#drift .map tbody tr")).to_have_count(3)  # mean, missing, zero
        page.keyboard.press("?")  # typed, not obeyed
        expect(page.locator("#keys")).to_be_hidden()


def test_a_refresh_moves_neither_focus_nor_what_is_open(browser: Browser, world: World) -> None:
    with a_page(browser, world) as seen:
        page = seen.page
        wait_until_drawn(page)
        page.locator("#traffic .numbers summary").click()
        page.locator("#drift .map td[tabindex='0']").focus()
        page.evaluate("window.before = {cell: document.activeElement, chart: document.getElementById('rate-chart')}")
        first = page.locator("#live .queries tbody tr").first.inner_text()
        asked = len([url for url in seen.asked if url.endswith("/traffic")])
        page.wait_for_function(
            "first => document.querySelector('#live .queries tbody tr').innerText !== first", arg=first
        )
        with page.expect_response(re.compile("/traffic$")):
            pass
        page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
        kept = page.evaluate(
            "document.activeElement === before.cell && document.getElementById('rate-chart') === before.chart"
        )
        open_still = page.locator("#traffic .numbers").evaluate("e => e.open")

    assert asked >= 1
    assert (kept, open_still) == (True, True)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_in_both_colour_schemes(browser: Browser, world: World, scheme: Any) -> None:
    with a_page(browser, world, color_scheme=scheme) as seen:
        wait_until_drawn(seen.page)
        ground, pairs = seen.page.evaluate(_CONTRASTS)

    assert (ground < 0.2) == (scheme == "dark")
    assert len(pairs) > 100
    assert [pair for pair in pairs if pair["contrast"] < 4.5] == []


@pytest.mark.parametrize(
    ("scheme", "clicks", "theme", "ground"),
    [("light", 2, "dark", "rgb(14, 17, 22)"), ("dark", 1, "light", "rgb(244, 245, 247)")],
)
def test_the_colours_can_be_chosen_and_are_kept(
    browser: Browser, world: World, scheme: Any, clicks: int, theme: str, ground: str
) -> None:
    with a_page(browser, world, color_scheme=scheme) as seen:
        page = seen.page
        wait_until_drawn(page)
        for _ in range(clicks):
            page.locator("#theme").click()
        expect(page.locator("html")).to_have_attribute("data-theme", theme)
        chosen = page.evaluate("getComputedStyle(document.body).backgroundColor")
        page.reload()
        wait_until_drawn(page)
        kept = page.evaluate("getComputedStyle(document.body).backgroundColor")

    assert chosen == kept == ground


def test_a_key_is_asked_for_refused_in_words_and_leaves_the_address(browser: Browser, world: World) -> None:
    with a_page(browser, world, key="") as seen:
        page = seen.page
        page.locator("#key").fill("sluice_" + "x" * 43)
        page.keyboard.press("Enter")
        expect(page.get_by_role("alert")).to_contain_text("not known")
        expect(page.locator("#key")).to_be_focused()
        page.locator("#key").fill(world.key)
        page.keyboard.press("Enter")
        wait_until_drawn(page)
        kept = page.evaluate("[localStorage.length, sessionStorage.length, document.cookie, location.href]")
        page.locator("#sign-out").click()
        expect(page.locator("#key")).to_be_visible()
        left = page.evaluate("[sessionStorage.length, document.body.innerText.includes('champion')]")
        page.goto(f"{world.url}/console/?again#key={world.key}&model={MODEL}")
        wait_until_drawn(page)
        address = page.evaluate("location.href")

    assert kept[:3] == [0, 1, ""]
    assert left == [0, False]
    assert world.key not in kept[3] + address
    assert address.endswith(f"#model={MODEL}")


def test_an_item_that_is_markup_is_shown_as_text(browser: Browser, world: World) -> None:
    with a_page(browser, world) as seen:
        page = seen.page
        wait_until_drawn(page)
        item = page.locator("#live .item", has_text=HOSTILE).first
        expect(item).to_be_visible()
        title = item.get_attribute("title") or ""
        made = page.evaluate("[document.querySelectorAll('#content img, #content script').length, document.title]")
        page.evaluate(
            "() => { const s = document.createElement('script'); s.textContent = 'document.title = \"hit\"';"
            " document.body.append(s); const i = document.createElement('p');"
            " i.innerHTML = '<img src=x onerror=\"document.title=1\">'; document.body.append(i); }"
        )
        page.wait_for_function("() => document.querySelector('p > img')?.complete")

        assert made == [0, f"{MODEL} · Sluice"]
        assert title.startswith(HOSTILE)
        assert page.title() == f"{MODEL} · Sluice"
    assert any("Content Security Policy" in said for said in seen.complaints)


def test_a_model_of_which_nothing_is_known_says_so(browser: Browser, world: World) -> None:
    with a_page(browser, world, hash=f"&model={QUIET}") as seen:
        page = seen.page
        for panel, words in (
            ("traffic", "No query in the last 15 min"),
            ("latency", "No answered query in the last 15 min"),
            ("gate", "No rollout yet"),
            ("live", "No query in the last hour"),
            ("drift", "No day of features was closed yet"),
        ):
            expect(page.locator(f"#{panel}")).to_contain_text(words)
        page.locator("#model").select_option(MODEL)
        wait_until_drawn(page)

    assert seen.complaints == []


def test_figures_that_grow_old_say_so_until_there_are_new_ones(browser: Browser, world: World) -> None:
    with a_page(browser, world) as seen:
        page = seen.page
        wait_until_drawn(page)
        page.context.set_offline(True)
        note = page.locator("#live [role=status]")
        expect(note).to_contain_text("These figures are of")
        expect(note).to_contain_text("Asking again")
        expect(page.locator("#live .queries tbody tr").first).to_be_visible()
        page.context.set_offline(False)
        expect(note).to_have_count(0)


@pytest.mark.parametrize("width", [800, 1024, 1440, 1920])
def test_nothing_is_wider_than_the_window(browser: Browser, world: World, width: int) -> None:
    with a_page(browser, world, viewport={"width": width, "height": 900}) as seen:
        wait_until_drawn(seen.page)
        wide, cut = seen.page.evaluate(
            """() => [document.documentElement.scrollWidth,
            [...document.querySelectorAll('.scroll:not(.numbers .scroll)')]
            .filter(e => e.scrollWidth > e.clientWidth + 1).map(e => e.ariaLabel)]"""
        )

    assert wide <= width
    assert cut == []


def test_no_heading_lies_over_another_on_a_phone(browser: Browser, world: World) -> None:
    with a_page(browser, world, viewport={"width": 420, "height": 900}) as seen:
        wait_until_drawn(seen.page)
        over = seen.page.evaluate(
            """() => [...document.querySelectorAll('.queries thead tr, .stages tbody tr')].flatMap(row =>
            [...row.children].filter(cell => cell.offsetWidth && cell.scrollWidth > cell.offsetWidth + 1)
            .map(cell => cell.textContent))"""
        )

    assert over == []


def test_a_point_alone_is_a_dot_that_one_sees(browser: Browser, world: World) -> None:
    with a_page(browser, world) as seen:
        wait_until_drawn(seen.page)
        wide = seen.page.evaluate(
            """async () => {
            const { path } = await import('./chart.js');
            const drawn = document.createElementNS('http://www.w3.org/2000/svg', 'path');
            drawn.setAttribute('d', path([10, 20, 30], [null, 5, null]));
            document.querySelector('svg.chart').append(drawn);
            return [drawn.getBBox().width, path([10, 20], [1, 2]), path([10, 20, 30], [1, null, NaN]).includes('L')];
            }"""
        )

    assert wide == [pytest.approx(2.6, abs=0.1), "M10.0 1.0L20.0 2.0", False]


def test_nothing_moves_for_who_wants_it_still(browser: Browser, world: World) -> None:
    with a_page(browser, world, key="sluice_" + "y" * 43, reduced_motion="reduce") as seen:
        expect(seen.page.locator("#key")).to_be_visible()

        assert seen.page.evaluate("document.getAnimations().length") == 0


def test_a_viewer_of_one_model_sees_that_one_alone(browser: Browser, world: World) -> None:
    body = {"name": "guest", "role": "viewer", "models": [QUIET]}
    headers = {"authorization": f"Bearer {world.key}"}
    made = httpx.post(f"{world.url}/v1/keys", json=body, headers=headers, timeout=60.0).json()
    with a_page(browser, world, key=made["key"], hash=f"&model={MODEL}") as seen:
        page = seen.page
        expect(page.locator("#gate")).to_contain_text("No rollout yet")
        choices = page.locator("#model option").all_inner_texts()
        httpx.post(f"{world.url}/v1/keys/{made['about']['id']}/revoke", headers=headers, timeout=60.0)
        expect(page.get_by_role("alert")).to_contain_text("was revoked")

    assert choices == [QUIET]


def test_the_command_signs_in_for_as_long_as_it_runs(browser: Browser, world: World) -> None:
    command = subprocess.Popen(
        [sys.executable, "-m", "deploy.cli", "console", "--model", MODEL],
        env=os.environ | {"SLUICE_HOME": str(world.platform.settings.home)},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert command.stdout is not None
        address = command.stdout.readline().strip()
        with a_page(browser, world, key="") as seen:
            page = seen.page
            page.goto(address)
            wait_until_drawn(page)
            expect(page.locator(".who")).to_contain_text("viewer")
            command.send_signal(signal.SIGINT)
            rest, words = command.communicate(timeout=60)
            expect(page.get_by_role("alert")).to_contain_text("was revoked")
    finally:
        command.kill()

    assert address.startswith(f"{world.url}/console/#key=sluice_")
    assert (command.returncode, rest) == (0, "")
    assert "Ctrl-C" in words


def test_users_were_answered_all_the_while(world: World) -> None:
    assert world.asked > 20
    assert world.failed == []


_CONTRASTS = """() => {
  const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
  const linear = (c) => (c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
  const light = (colour) => [0.2126, 0.7152, 0.0722].reduce((sum, part, i) => sum + part * linear(colour[i] / 255), 0);
  const ground = (node) => {
    for (let e = node; e; e = e.parentElement) {
      const colour = rgb(getComputedStyle(e).backgroundColor);
      if (colour.length === 3) return colour;  // with a fourth number it is not opaque
    }
    return [255, 255, 255];
  };
  const found = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const e = walk.currentNode.parentElement;
    const text = walk.currentNode.data.trim();
    const apart = e.closest('.sign, .unseen, noscript, .stale, .share, .skip');
    if (!text || apart || !e.checkVisibility()) continue;
    const style = getComputedStyle(e);
    const [a, b] = [light(rgb(e instanceof SVGElement ? style.fill : style.color)), light(ground(e))];
    found.push({ text, contrast: (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05) });
  }
  return [light(rgb(getComputedStyle(document.body).backgroundColor)), found];
}"""
"""Lightness of the page's ground, and of each text its contrast with what is behind it (WCAG 2.2, 1.4.3)."""
