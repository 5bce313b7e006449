"""A page of Evidently's with the day's own words on top, locked in: what it may run is named by hash, and it may ask
nobody for anything."""

import base64
import hashlib
import re
from dataclasses import dataclass
from html import escape

from drift.errors import ReportRefused

_SCRIPT = re.compile(r"<script\b([^>]*)>(.*?)</script\s*>", re.DOTALL | re.IGNORECASE)
_STYLE = """
.sluice { font: 14px/1.5 system-ui, sans-serif; max-width: 1240px; margin: 24px auto; padding: 0 24px; }
.sluice h1 { font-size: 22px; margin: 0 0 4px; } .sluice h2 { font-size: 16px; margin: 20px 0 4px; }
.sluice p { margin: 4px 0; max-width: 90ch; } .sluice summary { cursor: pointer; margin: 12px 0 4px; font-weight: 600; }
.sluice table { border-collapse: collapse; font-variant-numeric: tabular-nums; display: block; overflow-x: auto; }
.sluice th, .sluice td { padding: 2px 12px 2px 0; text-align: right; border-bottom: 1px solid #8884; }
.sluice td { white-space: nowrap; }
.sluice th { font-weight: 600; } .sluice th:first-child, .sluice td:first-child { text-align: left; }
.sluice .failed, .sluice .errored { color: #c62828; font-weight: 600; }
.sluice .passed { color: #2e7d32; font-weight: 600; }
"""


@dataclass(frozen=True, slots=True)
class LockedPage:
    """html: the page. scripts: `sha256-…` of each script in it."""

    html: str
    scripts: tuple[str, ...]


def locked(html: str, title: str, head: str) -> LockedPage:
    """The page with a title, our own part on top, and a policy that lets run what is in it now and nothing else.

    html: as Evidently makes it, scripts and styles inside. title: plain text. head: HTML, escaped.
    Raises ReportRefused if the page would load something.
    """
    found = list(_SCRIPT.finditer(html))
    heads, bodies = (_outside(html, found, tag) for tag in ("<head>", "<body>"))
    if not found or any("src" in script[1].lower() for script in found) or len(heads) != 1 or len(bodies) != 1:
        raise ReportRefused("Evidently's page is not of one piece: install the version that constraints.txt names")
    scripts = tuple(_digest(script[2]) for script in found)
    meta = f'<meta http-equiv="Content-Security-Policy" content="{policy(scripts)}"><title>{escape(title)}</title>'
    in_head, in_body = heads[0] + len("<head>"), bodies[0] + len("<body>")
    parts = (html[:in_head], meta, f"<style>{_STYLE}</style>", html[in_head:in_body], head, html[in_body:])
    return LockedPage("".join(parts), scripts)


def policy(scripts: tuple[str, ...]) -> str:
    """The Content-Security-Policy of a page with those scripts.

    >>> policy(("sha256-abc",)).split("; ")[:2]
    ["default-src 'none'", "script-src 'sha256-abc'"]
    """
    allowed = " ".join(f"'{script}'" for script in scripts) or "'none'"
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:; font-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _digest(script: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}"


def _outside(html: str, scripts: list[re.Match[str]], tag: str) -> list[int]:
    """Where the tag stands that is a tag, and no word in a script."""
    inside = [script.span(2) for script in scripts]
    return [
        place.start()
        for place in re.finditer(re.escape(tag), html)
        if not any(start <= place.start() < end for start, end in inside)
    ]
