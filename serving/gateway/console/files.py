"""The page's files over HTTP: read once, with the headers that keep the page to itself."""

import hashlib
from dataclasses import dataclass
from importlib.resources import files

import fastapi
from fastapi.responses import JSONResponse, RedirectResponse, Response

PATH = "/console"
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
_TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
_HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-cache",  # asked for again each time, and mostly not sent again
}


@dataclass(frozen=True, slots=True)
class PageFile:
    """content_type: with its charset. etag: of the content."""

    content: bytes
    content_type: str
    etag: str


def page_files() -> dict[str, PageFile]:
    """All files of the page by name; the page itself has the empty one."""
    found: dict[str, PageFile] = {}
    for entry in (files(__package__) / "page").iterdir():
        suffix = entry.name.rpartition(".")[2]
        if suffix in _TYPES:
            content = entry.read_bytes()
            etag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
            found["" if entry.name == "index.html" else entry.name] = PageFile(content, _TYPES[suffix], etag)
    return found


def console_router() -> fastapi.APIRouter:
    """`/console/` and what it loads; open to everybody, for there is nothing in it."""
    router = fastapi.APIRouter()
    page = page_files()

    @router.get(PATH, include_in_schema=False)
    async def bare() -> Response:
        return RedirectResponse("console/", 308, {"cache-control": "no-cache"})  # relative: behind a prefix, too

    @router.get(PATH + "/{name:path}", include_in_schema=False)
    async def one(name: str, request: fastapi.Request) -> Response:
        file = page.get(name)
        if file is None:
            return JSONResponse({"error": f"{request.url.path}: no such file of the console"}, 404)
        headers = _HEADERS | {"etag": file.etag}
        if request.headers.get("if-none-match") == file.etag:
            return Response(status_code=304, headers=headers)
        return Response(file.content, headers=headers, media_type=file.content_type)

    return router
