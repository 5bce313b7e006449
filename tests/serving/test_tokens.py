"""Tokens: whom they prove, and every way known in which one must prove nobody."""

import base64
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from serving.errors import NotAuthenticated, UnknownSigner
from serving.identity.key_sets import KeySet, KeySetRefused, parse_key_set
from serving.identity.tokens import TokenVerifier
from serving.settings import TokenSettings, parse_token_claims
from tests.serving.issuers import AUDIENCE, Issuer, an_issuer, ec_key, public_jwk, rsa_key

SECRET = b"a secret for development, 32 byte"


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    with an_issuer() as issuer:
        yield issuer


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def a_verifier(issuer: Issuer, clock: Clock | None = None, copy: Path | None = None, **changes: Any) -> TokenVerifier:
    settings = issuer.settings(**changes)
    key_set = KeySet(settings, copy, clock=clock or Clock())
    key_set.refresh()
    return TokenVerifier(settings, key_set)


def refused(verifier: TokenVerifier, token: str) -> str:
    """The words of the refusal; the token is in none of them."""
    with pytest.raises(NotAuthenticated) as caught:
        verifier.verify(token)
    assert token not in str(caught.value)
    return str(caught.value)


def raw_token(header: dict[str, Any], claims: dict[str, Any], signature: bytes = b"") -> str:
    parts = [json.dumps(header).encode(), json.dumps(claims).encode(), signature]
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)


@pytest.mark.parametrize("key_id", ["r1", "e1"])
def test_a_token_of_the_issuer_proves_its_subject(issuer: Issuer, key_id: str) -> None:
    found = a_verifier(issuer).verify(issuer.token(key_id, sluice_role="operator"))

    assert (found.name, found.role, found.models) == ("ann", "operator", ())
    assert found.id.startswith("token:") and len(found.id) <= 64
    assert found.until_ms is not None and 0 < found.until_ms - time.time() * 1000 <= 60_000


def test_a_subject_has_one_id_whichever_token_it_brings_and_others_have_another(issuer: Issuer) -> None:
    verifier = a_verifier(issuer)
    ids = [verifier.verify(issuer.token(key_id, sub=sub)).id for key_id, sub in (("r1", "a"), ("e1", "a"), ("r1", "b"))]

    assert ids[0] == ids[1] != ids[2]


def test_a_token_without_a_signature_is_refused(issuer: Issuer) -> None:
    claims = jwt.decode(issuer.token(), options={"verify_signature": False})

    for none in ("none", "None", "NONE", ""):
        assert "alg" in refused(a_verifier(issuer), raw_token({"alg": none, "typ": "JWT", "kid": "r1"}, claims))


def test_a_public_key_is_never_taken_for_a_secret(issuer: Issuer) -> None:
    import hashlib
    import hmac

    claims = jwt.decode(issuer.token(), options={"verify_signature": False})
    public = rsa_key().public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    head = raw_token({"alg": "HS256", "kid": "r1"}, claims).rpartition(".")[0]
    signature = hmac.new(public, head.encode(), hashlib.sha256).digest()
    forged = f"{head}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"

    assert "HS256" in refused(a_verifier(issuer), forged)
    assert "verification" in refused(a_verifier(issuer, development=True, secret=SECRET), forged)


def test_a_key_verifies_with_its_own_algorithm_alone(issuer: Issuer) -> None:
    assert "is for ES256" in refused(a_verifier(issuer), issuer.token("e1", key=rsa_key(), algorithm="RS256"))
    assert "alg" in refused(a_verifier(issuer), issuer.token("r1", algorithm="RS512"))


def test_a_token_signed_by_another_key_is_refused(issuer: Issuer) -> None:
    assert "verification" in refused(a_verifier(issuer), issuer.token("r1", key=rsa_key(1)))


@pytest.mark.parametrize(
    ("claims", "words"),
    [
        ({"iss": "https://elsewhere"}, "issuer"),
        ({"aud": "another"}, "udience"),
        ({"exp": time.time() - 1}, "expired"),
        ({"nbf": time.time() + 3600}, "not yet valid"),
        ({"exp": None}, "exp"),
        ({"sub": None}, "sub"),
        ({"sub": ""}, "sub"),
        ({"iss": None}, "iss"),
        ({"aud": None}, "aud"),
        ({"sluice_role": None}, "sluice_role"),
        ({"sluice_role": "root"}, "expected one of caller"),
        ({"sluice_role": 7}, "sluice_role"),
    ],
)
def test_a_claim_that_is_not_as_it_must_be_is_named(issuer: Issuer, claims: dict[str, Any], words: str) -> None:
    assert words in refused(a_verifier(issuer), issuer.token(**claims))


@pytest.mark.parametrize("text", ["", "a", "a.b", "a.b.c", "é.é.é", "." * 9000, "e30.e30.", "eyJhbGciOiJSUzI1NiJ9..x"])
def test_what_is_no_token_is_refused(issuer: Issuer, text: str) -> None:
    with pytest.raises(NotAuthenticated, match="token"):
        a_verifier(issuer).verify(text)


def test_clocks_may_differ_by_the_leeway(issuer: Issuer) -> None:
    late = issuer.token(exp=time.time() - 5)

    assert a_verifier(issuer, leeway_s=60.0).verify(late).name == "ann"
    assert "expired" in refused(a_verifier(issuer), late)


def test_claims_are_mapped_to_role_models_and_line(issuer: Issuer) -> None:
    told = parse_token_claims("role=realm.roles,models=models,line=team,role.ml-admins=admin")
    verifier = a_verifier(issuer, **told)
    token = issuer.token(realm={"roles": ["offline", "ml-admins", "viewer"]}, models=["b", "a"], team="ads")

    found = verifier.verify(token)
    assert (found.role, found.models, found.line) == ("admin", ("a", "b"), "ads")
    assert verifier.verify(issuer.token(**{"realm.roles": "viewer"}, models="x y")).models == ("x", "y")
    assert verifier.verify(issuer.token(**{"realm.roles": "viewer"}, models="*")).models == ()
    assert "models" in refused(verifier, issuer.token(**{"realm.roles": "viewer"}))


def test_an_unknown_key_id_fetches_the_issuers_keys_at_most_once_in_ten_seconds(issuer: Issuer) -> None:
    clock = Clock()
    verifier = a_verifier(issuer, clock)
    clock.now_s += 10
    issuer.keys["r2"] = rsa_key(2)

    with pytest.raises(UnknownSigner):
        verifier.verify(issuer.token("r2"))
    assert verifier.verify_fetching(issuer.token("r2")).name == "ann"
    assert issuer.asked == 2
    for _ in range(5):
        with pytest.raises(NotAuthenticated, match="no key of the issuer"):
            verifier.verify_fetching(issuer.token("made up", key=rsa_key(1)))
    assert issuer.asked == 2


def test_a_key_that_the_issuer_shows_no_more_counts_no_more(issuer: Issuer) -> None:
    clock = Clock()
    settings = issuer.settings()
    changes: list[int] = []
    key_set = KeySet(settings, None, lambda: changes.append(1), clock)
    key_set.refresh()
    verifier = TokenVerifier(settings, key_set)
    old = issuer.token("r1")
    del issuer.keys["r1"]
    clock.now_s += settings.refresh_s
    assert key_set.due
    key_set.refresh()

    assert "no key of the issuer" in refused(verifier, old)
    assert verifier.verify(issuer.token("e1")).name == "ann"
    assert len(changes) == 2


def test_while_the_issuer_is_away_its_last_keys_count_for_a_day_and_after_a_restart(
    issuer: Issuer, tmp_path: Path
) -> None:
    clock, copy = Clock(), tmp_path / "issuer.json"
    first = a_verifier(issuer, clock, copy)
    issuer.away = True
    clock.now_s += 3600
    first.fetch()
    assert first.verify(issuer.token()).name == "ann"

    restarted = KeySet(issuer.settings(), copy, clock=clock)
    restarted.read_copy()
    restarted.refresh()
    assert TokenVerifier(issuer.settings(), restarted).verify(issuer.token()).name == "ann"

    clock.now_s += 24 * 3600
    with pytest.raises(NotAuthenticated):
        first.verify(issuer.token())


def test_an_answer_that_breaks_off_is_one_that_failed(caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        address = f"http://127.0.0.1:{port}/keys"
        settings = TokenSettings(issuer="https://issuer", audience="sluice", key_set=address)

        def break_off() -> None:
            channel, _ = server.accept()
            with channel:
                channel.recv(4096)
                channel.sendall(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n100\r\n{")

        issuer = threading.Thread(target=break_off)
        issuer.start()
        KeySet(settings).refresh()
        issuer.join()

    assert f"no key set from http://127.0.0.1:{port}/keys" in caplog.text


def test_the_log_does_not_name_the_issuers_password(caplog: pytest.LogCaptureFixture) -> None:
    address = "https://ann:hunter2@127.0.0.1:1/keys"
    KeySet(TokenSettings(issuer="https://issuer", audience="sluice", key_set=address)).refresh()

    assert "no key set from https://127.0.0.1:1/keys" in caplog.text
    assert "hunter2" not in caplog.text


def test_a_key_set_may_be_a_file(issuer: Issuer, tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    path.write_text(json.dumps({"keys": [public_jwk(ec_key(), "e1")]}))

    assert a_verifier(issuer, key_set=str(path)).verify(issuer.token("e1")).name == "ann"


def test_keys_that_verify_nothing_of_ours_are_left_out() -> None:
    good = public_jwk(ec_key(), "e1")
    others = [
        public_jwk(rsa_key(), "for encryption", use="enc"),
        public_jwk(rsa_key(), "another algorithm", alg="RS512"),
        public_jwk(rsa_key(3, 1024), "short"),
        public_jwk(ec.generate_private_key(ec.SECP384R1()), "curve"),
        {"kty": "oct", "k": base64.urlsafe_b64encode(SECRET).decode(), "kid": "symmetric", "alg": "HS256"},
        {"kty": "RSA", "kid": "broken", "n": "!", "e": "AQAB"},
        "no key",
    ]

    assert list(parse_key_set(json.dumps({"keys": [*others, good]}).encode())) == ["e1"]
    for raw in (b"", b"[]", b'{"keys": 7}', b'{"keys": []}', json.dumps({"keys": others}).encode(), b"\xff"):
        with pytest.raises(KeySetRefused):
            parse_key_set(raw)


def test_a_shared_secret_counts_in_development_alone() -> None:
    told: dict[str, Any] = {"issuer": "dev", "audience": AUDIENCE, "secret": SECRET}
    token = Issuer().token("", "HS256", SECRET, iss="dev")

    assert TokenVerifier(TokenSettings(**told, development=True), None).verify(token).name == "ann"
    with pytest.raises(ValueError, match="SLUICE_DEVELOPMENT"):
        TokenSettings(**told)
    with pytest.raises(ValueError, match="32 bytes"):
        TokenSettings(**told | {"secret": b"short"}, development=True)
    assert SECRET.decode() not in repr(TokenSettings(**told, development=True))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"issuer": ""}, "jwt_issuer"),
        ({"audience": ""}, "jwt_audience"),
        ({"key_set": ""}, "jwt_key_set"),
        ({"key_set": "http://idp.example.org/keys"}, "https://"),
        ({"key_set": "ftp://idp.example.org/keys"}, "https://"),
        ({"roles": {"x": "root"}}, "roles"),
    ],
)
def test_settings_that_would_let_in_anybody_are_refused(issuer: Issuer, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        issuer.settings(**changes)
