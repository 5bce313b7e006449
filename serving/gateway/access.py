"""What a request to any route but the hot ones needs, where queries need a key: a table, closed by default."""

import re
from dataclasses import dataclass

from starlette.types import ASGIApp, Receive, Scope, Send

from registry.roles import Role
from serving.errors import NotAllowed, QueryRefused, RankingError
from serving.gateway.console.files import PATH as CONSOLE
from serving.gateway.control.routes import CONTROL_ROUTES
from serving.gateway.http import answer_of, send_answer
from serving.identity.doorkeeper import Doorkeeper, Headers


@dataclass(frozen=True, slots=True)
class Needs:
    """role: the least, None: anybody. model: that it is about, None: none. every_model: whether it shows or changes
    all of them, for which a key for some does not do."""

    role: Role | None
    model: str | None = None
    every_model: bool = False


OPEN = Needs(None)
_CALLER = Needs("caller")
_OPEN_PATHS = frozenset(
    ("/health", "/v2/health/live", "/v2/health/ready", "/docs", "/docs/oauth2-redirect", "/openapi.json")
)
DOCS_FILES = "/docs/files"
_OPEN_FOLDERS = (f"{CONSOLE}/", f"{DOCS_FILES}/")
_ALL = {
    "/metrics": Needs("viewer", every_model=True),
    "/v1/status": Needs("viewer", every_model=True),
    "/v1/models": Needs("viewer", every_model=True),
    "/v2/models/stats": Needs("caller", every_model=True),
    "/v2/repository/index": Needs("caller", every_model=True),
}
_LOADING = re.compile(r"/v2/repository/models/([^/]+)/(?:load|unload)")
_OF_MODEL = re.compile(r"/v[12]/models/([^/]+)(?:/.*)?")
_CONTROL_CHARACTER = re.compile(r"[\x00-\x1f\x7f]")
_CONTROL = tuple(
    (route.method, re.compile(re.sub(r"\\?\{[a-z_]+\\?\}", "[^/]+", re.escape(route.path)))) for route in CONTROL_ROUTES
)


def needs(method: str, path: str) -> Needs:
    """What the route asks of who calls it; routes of the control plane ask by themselves.

    >>> needs("GET", "/health").role, needs("GET", "/metrics").role, needs("GET", "/what/is/this").role
    (None, 'viewer', 'caller')
    >>> needs("GET", "/console/app.js").role is None  # nothing is in it; the figures are the control plane's
    True
    >>> needs("GET", "/v2/models/search/config")
    Needs(role='caller', model='search', every_model=False)
    >>> needs("POST", "/v1/models/search/promote").role is None  # the controller asks for an admin's key
    True
    """
    if path in _OPEN_PATHS or path == CONSOLE or path.startswith(_OPEN_FOLDERS):
        return OPEN
    if (found := _ALL.get(path)) is not None:
        return found
    if any(method == of and pattern.fullmatch(path) for of, pattern in _CONTROL):
        return OPEN
    if loading := _LOADING.fullmatch(path):
        return Needs("operator", loading[1])
    if of_model := _OF_MODEL.fullmatch(path):
        return Needs("caller", of_model[1])
    return _CALLER


class GuardedApp:
    """An application whose routes are for those who may, by `needs`."""

    def __init__(self, app: ASGIApp, doorkeeper: Doorkeeper) -> None:
        self._app, self._doorkeeper = app, doorkeeper

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self._doorkeeper.closed:
            try:
                if _CONTROL_CHARACTER.search(scope["path"]):  # a route's `$` would match before a line's end, ours not
                    raise QueryRefused("path: a control character in it")
                await check(self._doorkeeper, needs(scope["method"], scope["path"]), dict(scope["headers"]))
            except RankingError as error:
                await send_answer(answer_of(error), send)
                return
        await self._app(scope, receive, send)


async def check(doorkeeper: Doorkeeper, needed: Needs, headers: Headers) -> None:
    """Raises NotAuthenticated, NotAllowed, IdentityUnknown."""
    if needed.role is None:
        return
    principal = (await doorkeeper.welcome(headers, needed.model, needed.role)).principal
    if needed.every_model and principal is not None and principal.models:
        error = NotAllowed(
            f"{principal.name!r} is for {', '.join(principal.models)} alone: this needs one for all models", "model"
        )
        doorkeeper.count(error)
        raise error
