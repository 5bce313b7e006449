"""What proves who asks: tokens and the issuer's keys; and the headers that say how long and for what trace."""

import base64
import hashlib
import hmac
import json

import msgspec

from registry.contracts.traces import parse_traceparent, traceparent
from registry.roles import ROLES
from serving.errors import DeadlineExceeded, NotAuthenticated, QueryRefused
from serving.flow.deadlines import within
from serving.identity.key_sets import KeySetRefused, parse_key_set
from serving.identity.tokens import TokenVerifier
from serving.settings import TokenSettings
from tests.fuzz.target import READ, Target, pure, reads, refusal

SECRET = b"a secret of at least thirty-two bytes"
NOW_S = 1_767_225_600.0
SETTINGS = TokenSettings(
    issuer="dev",
    audience="sluice",
    role_claim="realm.roles",
    models_claim="models",
    line_claim="line",
    development=True,
    secret=SECRET,
)
VERIFIER = TokenVerifier(SETTINGS, None, lambda: NOW_S)
FAR = 4_102_444_800
CLAIMS = {"iss": "dev", "aud": "sluice", "sub": "ann", "exp": FAR, "realm": {"roles": ["caller"]}, "models": ["m"]}


def _base64(raw: bytes) -> bytes:
    return base64.urlsafe_b64encode(raw).rstrip(b"=")


def _signed(header: bytes, claims: bytes) -> bytes:
    """As an issuer would sign whatever it is given."""
    said = _base64(header) + b"." + _base64(claims)
    return said + b"." + _base64(hmac.digest(SECRET, said, hashlib.sha256))


def _verified(text: bytes) -> str:
    try:
        principal = VERIFIER.verify(text.decode("latin-1"))
    except NotAuthenticated as error:
        return refusal(error)
    assert principal.role in ROLES
    assert principal.name.isprintable()
    msgspec.json.encode([principal.id, principal.name, principal.models, principal.line])
    return READ


def _token(data: bytes) -> str:
    """Whatever a stranger sends as a token."""
    came = _verified(data)
    assert came != READ or data == TOKEN, "a token that nobody signed was taken"
    return came


def _claims(data: bytes) -> str:
    """Whatever an issuer signs."""
    return _verified(_signed(HEADER, data))


def _header(data: bytes) -> str:
    """Whatever a token's header says, before anybody has looked at its signature."""
    return _verified(_signed(data, json.dumps(CLAIMS).encode()))


def _trace(data: bytes) -> str:
    found = parse_traceparent(data)
    if found is None:
        return "no trace"
    assert parse_traceparent(traceparent(found.trace_id, found.parent_id, found.sampled).encode()) == found
    return READ


def _deadline(data: bytes) -> str:
    try:
        assert 1 <= within(data, 1000) <= 1000
    except (QueryRefused, DeadlineExceeded) as error:
        return refusal(error)
    return READ


HEADER = b'{"alg":"HS256","typ":"JWT"}'
TOKEN = _signed(HEADER, json.dumps(CLAIMS).encode())


def _key_sets() -> list[bytes]:
    from cryptography.hazmat.primitives.asymmetric import ec, rsa
    from jwt.algorithms import ECAlgorithm, RSAAlgorithm

    keys = [
        RSAAlgorithm.to_jwk(rsa.generate_private_key(65537, 2048).public_key(), as_dict=True) | {"kid": "r1"},
        ECAlgorithm.to_jwk(ec.generate_private_key(ec.SECP256R1()).public_key(), as_dict=True) | {"kid": "e1"},
    ]
    return [json.dumps({"keys": keys}).encode()]


def targets() -> list[Target]:
    """Tokens and headers."""
    trace = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    return [
        pure("identity.token", _token, lambda: [TOKEN], "lines", 0.5),
        pure("identity.token_claims", _claims, lambda: [json.dumps(CLAIMS).encode()], "json", 0.3),
        pure("identity.token_header", _header, lambda: [HEADER], "json", 0.3),
        pure("identity.key_set", reads(parse_key_set, KeySetRefused), _key_sets, "json", 0.1),
        pure("identity.traceparent", _trace, lambda: [trace], "lines", 0.3),
        pure("identity.deadline", _deadline, lambda: [b"150", b"-1"], "lines", 0.2),
    ]
