"""Tokens (JWT): whom one proves, by its issuer's keys.

Which algorithm verifies a token follows from the key that it names: RSA means RS256, EC P-256 means ES256, the secret
for development HS256. A token that says anything else in its header, `none` too, is refused before its signature is
looked at, so that no public key is ever taken for a secret.

Sources: RFC 7519; RFC 8725 (best current practices).
"""

import hashlib
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from registry.principals import Principal
from registry.roles import ROLES, Role
from serving.errors import NotAuthenticated, UnknownSigner
from serving.identity.key_sets import KeySet, PublicKey
from serving.settings import LINE, TokenSettings

MAX_TOKEN_BYTES = 8192
MAX_MODELS = 256
ALGORITHMS = ("RS256", "ES256", "HS256")
SHOWN = 64
REQUIRED = ["exp", "iss", "aud", "sub"]
_LINE = re.compile(LINE)


class TokenVerifier:
    """key_set: None where only the secret for development counts."""

    def __init__(
        self,
        settings: TokenSettings,
        key_set: KeySet | None,
        wall_s: Callable[[], float] = time.time,
    ) -> None:
        self._settings, self._key_set, self._wall_s = settings, key_set, wall_s

    def verify(self, text: str) -> Principal:
        """Whom the token proves. Raises NotAuthenticated; UnknownSigner if it is worth to fetch the issuer's keys
        and try again."""
        import jwt

        if len(text) > MAX_TOKEN_BYTES:
            _refuse(f"it has {len(text)} bytes, expected at most {MAX_TOKEN_BYTES}")
        try:
            header = jwt.get_unverified_header(text)
        except (jwt.PyJWTError, ValueError, RecursionError) as error:
            _refuse(str(error))
        verifier = self._verifier(header)
        try:
            claims = jwt.decode(
                text,
                verifier.key,
                algorithms=[verifier.algorithm],
                issuer=self._settings.issuer,
                audience=self._settings.audience,
                leeway=self._settings.leeway_s,
                options={"require": REQUIRED},
            )
            return self._principal(claims)
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError) as error:
            _refuse(str(error))

    def verify_fetching(self, text: str) -> Principal:
        """As `verify`, on a thread that may wait for the issuer. Raises NotAuthenticated."""
        try:
            return self.verify(text)
        except UnknownSigner:
            self.fetch()
            return self.verify(text)

    def fetch(self) -> None:
        """Asks the issuer for keys that are new, if it is time to; blocks."""
        if self._key_set is not None:
            self._key_set.refresh(unknown=True)

    def _verifier(self, header: Mapping[str, Any]) -> PublicKey:
        algorithm, key_id = header.get("alg"), header.get("kid", "")
        if algorithm not in ALGORITHMS or not isinstance(key_id, str) or "crit" in header:
            _refuse(f"alg={str(algorithm)[:SHOWN]!r}: expected RS256 or ES256, and no `crit`")
        if algorithm == "HS256":
            if not self._settings.secret:
                _refuse("alg='HS256': expected RS256 or ES256")
            return PublicKey("HS256", self._settings.secret)
        found = self._key_set.find(key_id) if self._key_set is not None else None
        if found is None:
            message = f"token: kid={key_id[:SHOWN]!r} is no key of the issuer's key set"
            if self._key_set is not None and self._key_set.may_be_new:
                raise UnknownSigner(message, "token")
            raise NotAuthenticated(message, "token")
        if found.algorithm != algorithm:
            _refuse(f"alg={algorithm!r}: the key {key_id[:SHOWN]!r} is for {found.algorithm}")
        return found

    def _principal(self, claims: Mapping[str, Any]) -> Principal:
        settings, subject = self._settings, claims["sub"]
        if not isinstance(subject, str) or not subject:
            _refuse("sub: expected a text")
        digest = hashlib.sha256(f"{claims['iss']}\0{subject}".encode()).hexdigest()[:24]
        line = _claim(claims, settings.line_claim)
        if line is not None and not (isinstance(line, str) and _LINE.fullmatch(line)):
            _refuse(f"{settings.line_claim}: expected the name of a line")
        until_s = float(claims["exp"]) + settings.leeway_s
        return Principal(
            id=f"token:{digest}",
            name="".join(letter for letter in subject[:SHOWN] if letter.isprintable()) or "?",
            role=self._role(claims),
            models=self._models(claims),
            until_ms=int(min(until_s, self._wall_s() + 366 * 86_400) * 1000),
            line=line or "",
        )

    def _role(self, claims: Mapping[str, Any]) -> Role:
        """The highest of those that the claim gives."""
        told = _texts(_claim(claims, self._settings.role_claim))
        given = {self._settings.roles.get(one, one) for one in told}
        found = [role for role in ROLES if role in given]
        if not found:
            _refuse(f"{self._settings.role_claim}: expected one of {', '.join(ROLES)}, or a value that means one")
        return found[-1]

    def _models(self, claims: Mapping[str, Any]) -> tuple[str, ...]:
        if not self._settings.models_claim:
            return ()
        told = _texts(_claim(claims, self._settings.models_claim))
        if not told or len(told) > MAX_MODELS:
            _refuse(f"{self._settings.models_claim}: expected 1 to {MAX_MODELS} names of models, or *")
        return () if "*" in told else tuple(sorted(set(told)))


def _refuse(why: str) -> NoReturn:
    raise NotAuthenticated(f"token: {why}", "token")


def _claim(claims: Mapping[str, Any], name: str) -> Any:
    """The claim of that name, or at the end of that path of names; None if there is none.

    >>> _claim({"realm_access": {"roles": ["caller"]}}, "realm_access.roles")
    ['caller']
    """
    if not name or name in claims:
        return claims.get(name)
    found: Any = claims
    for part in name.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def _texts(claim: Any) -> Sequence[str]:
    """A claim that is a list of texts, or a text of several words as `scope` has it; what nobody can print is none."""
    told = claim.split() if isinstance(claim, str) else claim if isinstance(claim, list) else []
    return [one for one in told if isinstance(one, str) and one.isprintable()]
