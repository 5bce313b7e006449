"""Who asks, and whether they may."""

import base64
import re
from dataclasses import dataclass

from deploy.control.errors import ControlRefused, NoKey, NotAllowed
from registry.api_keys import KeyRing
from registry.key_sheet import MARK
from registry.principals import Principal
from registry.roles import includes
from serving.errors import NotAuthenticated
from serving.gateway.control.routes import ControlRoute
from serving.identity.tokens import TokenVerifier

BEARER = 'Bearer realm="sluice"'
BASIC = 'Basic realm="sluice: any name, an API key as the password", charset="UTF-8"'
_BEARER = re.compile(r"[Bb]earer ([A-Za-z0-9._~+/=-]{1,8192})")
_KEY = re.compile(rf"{MARK}[A-Za-z0-9_-]{{43}}")
_PERSON = re.compile(r"[^\x00-\x1f\x7f]{1,100}")
_HOW = "send `Authorization: Bearer <key>`; on the machine of the platform the key is in `admin.key` in the data folder"


@dataclass(frozen=True, slots=True)
class Caller:
    """key: whom the request's key or token proves. on_behalf_of: whom the caller says it acts for, empty if nobody."""

    key: Principal
    on_behalf_of: str = ""

    @property
    def kind(self) -> str:
        """Of its proof, in a word."""
        return "token" if self.key.id.startswith("token:") else "key"

    @property
    def who(self) -> str:
        """As histories name them: the key is proven, the rest is the caller's word."""
        return f"{self.on_behalf_of} ({self.kind} {self.key.name})" if self.on_behalf_of else self.key.name

    @property
    def words(self) -> str:
        """For refusals."""
        return f"token of {self.key.name!r}" if self.kind == "token" else f"API key {self.key.name!r}"


def authenticate(
    ring: KeyRing, tokens: TokenVerifier | None, authorization: str, on_behalf_of: str, now_ms: int
) -> Caller:
    """Raises NoKey, or ControlRefused if the name is none; StoreUnavailable."""
    if not authorization:
        raise NoKey(f"this route needs an API key: {_HOW}")
    given = _BEARER.fullmatch(authorization.strip())
    if given is not None and tokens is not None and not given[1].startswith(MARK):
        try:
            principal = tokens.verify_fetching(given[1])
        except NotAuthenticated as error:
            raise NoKey(str(error)) from error
    else:
        key = ring.find(given[1]) if given is not None and _KEY.fullmatch(given[1]) else None
        if key is None:
            raise NoKey(f"the API key is not known: {_HOW}")
        if why := key.refusal(now_ms):
            raise NoKey(why)
        principal = key.principal
    if on_behalf_of and not _PERSON.fullmatch(on_behalf_of):
        raise ControlRefused("X-On-Behalf-Of: expected 1 to 100 printable characters")
    return Caller(principal, on_behalf_of)


def as_bearer(authorization: str) -> str:
    """The header of a browser, which can send a key as the password of Basic authentication only, as ours. Of
    pages that are looked at alone: a browser sends it by itself, whoever made it ask.

    >>> as_bearer("Basic YW55Ym9keTprZXk="), as_bearer("Bearer key")
    ('Bearer key', 'Bearer key')
    """
    scheme, _, told = authorization.strip().partition(" ")
    if scheme.lower() != "basic":
        return authorization
    try:
        password = base64.b64decode(told, validate=True).decode().partition(":")[2]
    except ValueError:
        return authorization
    return f"Bearer {password}"


def authorize(caller: Caller, route: ControlRoute, model: str | None) -> None:
    """Raises NotAllowed. model: None of a route that is of no model."""
    key, words = caller.key, caller.words
    if not includes(key.role, route.role):
        raise NotAllowed(f"{words} has the role {key.role}: {route.name} needs {route.role}")
    if model is not None and not key.covers(model):
        raise NotAllowed(f"{words} is for {', '.join(key.models)}: {model[:64]!r} is not one of them")
    if model is None and key.models and not route.own:
        raise NotAllowed(f"{words} is for {', '.join(key.models)} alone: {route.name} needs one for all")
