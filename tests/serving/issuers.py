"""An issuer of tokens on loopback: real keys, a real key set over HTTP, and requests to it counted."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from serving.settings import TokenSettings

AUDIENCE = "sluice"


@cache
def rsa_key(number: int = 0, bits: int = 2048) -> rsa.RSAPrivateKey:
    """One key a number: making them takes its time."""
    return rsa.generate_private_key(public_exponent=65537, key_size=bits)


@cache
def ec_key(number: int = 0) -> ec.EllipticCurvePrivateKey:
    """One key a number."""
    return ec.generate_private_key(ec.SECP256R1())


def public_jwk(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey, key_id: str, **more: Any) -> dict[str, Any]:
    """As issuers show it."""
    algorithm = RSAAlgorithm if isinstance(key, rsa.RSAPrivateKey) else ECAlgorithm
    return json.loads(algorithm.to_jwk(key.public_key())) | {"kid": key_id, "use": "sig"} | more


@dataclass
class Issuer:
    """keys: shown by id. away: answers 503."""

    port: int = 0
    keys: dict[str, Any] = field(default_factory=dict)
    away: bool = False
    asked: int = 0

    @property
    def url(self) -> str:
        """Its name."""
        return f"http://127.0.0.1:{self.port}"

    def settings(self, **changes: Any) -> TokenSettings:
        """Of a platform that takes its tokens."""
        given = {"issuer": self.url, "audience": AUDIENCE, "key_set": f"{self.url}/keys.json", "leeway_s": 0.0}
        return TokenSettings(**(given | changes))

    def token(self, key_id: str = "r1", algorithm: str | None = None, key: Any = None, **claims: Any) -> str:
        """Signed with the key of that id; claims beside the usual ones, None for one that is left out."""
        given = {
            "iss": self.url,
            "aud": AUDIENCE,
            "sub": "ann",
            "exp": time.time() + 60,
            "sluice_role": "caller",
        } | claims
        key = key or self.keys[key_id]
        algorithm = algorithm or ("RS256" if isinstance(key, rsa.RSAPrivateKey) else "ES256")
        told = {name: value for name, value in given.items() if value is not None}
        return jwt.encode(told, key, algorithm=algorithm, headers={"kid": key_id})


@contextmanager
def an_issuer() -> Iterator[Issuer]:
    """With an RSA key `r1` and an EC key `e1`."""
    issuer = Issuer(keys={"r1": rsa_key(), "e1": ec_key()})

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            issuer.asked += 1
            shown = {"keys": [public_jwk(key, key_id) for key_id, key in issuer.keys.items()]}
            body = json.dumps(shown).encode()
            self.send_response(503 if issuer.away else 200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Tests say what they see."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    issuer.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield issuer
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)
