"""Who made a version: Ed25519 signatures over its digest, and the public keys of those who are trusted to make one.

The digest says that a version was not changed since it was registered, not who registered it: whoever can write to
MLflow's database and artefacts can put a version of his own there, digest and all. Where keys are trusted, a version
without a signature of one of them is registered, given traffic and loaded nowhere.

Of several signatures one of a trusted key is enough, so that keys are rotated by trusting both for a while.

Source: RFC 8032.
"""

import base64
import binascii
import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from registry.errors import RefusedVersion

if TYPE_CHECKING:  # settings read keys, and `sluice --help` settings: neither waits for numpy or OpenSSL
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from registry.contracts.manifest import ModelPackage

_DOMAIN = b"sluice model version\n"
"""Before the digest: a signature of this key for something else is none of a version."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_PUBLIC_BYTES = 32
MAX_SIGNATURES = 16
PRIVATE_RULE = "an Ed25519 private key in PEM without a password; `sluice models make-key` makes one"
TRUSTED_RULE = "name=KEY, separated by commas, each name once; KEY is the base64 of an Ed25519 public key's 32 bytes"


class Signature(msgspec.Struct, frozen=True):
    """key: the public key's id, see `key_id`, a hint only. signature: base64."""

    key: str
    signature: str


class Signer:
    """The private key of whoever registers versions; nothing shows it."""

    def __init__(self, private_key: "Ed25519PrivateKey") -> None:
        self._private = private_key
        self.public = private_key.public_key().public_bytes_raw()

    def __repr__(self) -> str:
        return f"<Signer {key_id(self.public)}>"

    @staticmethod
    def from_pem(text: str) -> "Signer":
        """Raises ValueError, naming the rule and never the text."""
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        try:
            private_key = load_pem_private_key(text.encode(), None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            raise ValueError(f"expected {PRIVATE_RULE}") from None  # its words may quote the key
        if not isinstance(private_key, Ed25519PrivateKey):
            raise ValueError(f"expected {PRIVATE_RULE}")
        return Signer(private_key)

    def signed(self, package: "ModelPackage") -> "ModelPackage":
        """The package with this key's signature beside those it has."""
        mine = Signature(
            key_id(self.public), base64.b64encode(self._private.sign(_signed_bytes(package.digest))).decode()
        )
        others = [one for one in _read(package.signatures_json) if one.key != mine.key]
        return replace(package, signatures_json=msgspec.json.encode([*others, mine][-MAX_SIGNATURES:]))


@dataclass(frozen=True, slots=True)
class TrustedKeys:
    """keys: public ones, 32 bytes each, by the name that messages have for them; none: signatures are not asked for."""

    keys: Mapping[str, bytes] = field(default_factory=dict)

    @staticmethod
    def parse(text: str) -> "TrustedKeys":
        """Raises ValueError, naming the rule.

        >>> list(TrustedKeys.parse("ci=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=").keys)
        ['ci']
        """
        keys: dict[str, bytes] = {}
        for told in filter(None, (one.strip() for one in re.split(r"[,\n]", text))):
            name, _, encoded = told.partition("=")
            try:
                public = base64.b64decode(encoded, validate=True)
            except binascii.Error:
                public = b""
            if not _NAME.fullmatch(name) or name in keys or len(public) != _PUBLIC_BYTES:
                raise ValueError(f"{told}: expected {TRUSTED_RULE}")
            keys[name] = public
        return TrustedKeys(keys)

    def signer_of(self, digest: str, signatures_json: bytes) -> str | None:
        """The name of a trusted key that signed this digest, None if none did. Whatever the bytes are."""
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        for one in _read(signatures_json)[:MAX_SIGNATURES]:
            for name, public in self.keys.items():
                if one.key != key_id(public):
                    continue
                try:
                    signature = base64.b64decode(one.signature, validate=True)
                    Ed25519PublicKey.from_public_bytes(public).verify(signature, _signed_bytes(digest))
                except (InvalidSignature, ValueError):
                    continue
                return name
        return None

    def refusal(self, digest: str, signatures_json: bytes) -> str:
        """Why a version with this digest is not to be trusted, and what to do; empty if it is, or nobody is asked."""
        if not self.keys or self.signer_of(digest, signatures_json) is not None:
            return ""
        signed = [one.key for one in _read(signatures_json)]
        found = f"signed with the keys {', '.join(signed)}, by none of them rightly" if signed else "not signed"
        trusted = ", ".join(f"{name} ({key_id(public)})" for name, public in self.keys.items())
        return (
            f"the version with digest {digest[:12]} is {found}, and trusted are {trusted}: if you know where it comes "
            "from, `sluice models sign MODEL VERSION` with one of their private keys in SLUICE_SIGNING_KEY_FILE, "
            "or add its maker to SLUICE_TRUSTED_KEYS"
        )

    def check(self, digest: str, signatures_json: bytes) -> None:
        """Raises RefusedVersion, see `refusal`."""
        if why := self.refusal(digest, signatures_json):
            raise RefusedVersion(why)


ANYBODY = TrustedKeys()


def key_id(public: bytes) -> str:
    """16 hex digits by which people and signatures name a public key.

    >>> key_id(bytes(32))
    '66687aadf862bd77'
    """
    return hashlib.sha256(public).hexdigest()[:16]


def public_text(public: bytes) -> str:
    """As it stands in SLUICE_TRUSTED_KEYS."""
    return base64.b64encode(public).decode()


def make_key(path: Path) -> Signer:
    """A new private key in a new file, for its owner's eyes. Raises OSError, FileExistsError if the file is there."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    made = Ed25519PrivateKey.generate()
    pem = made.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(pem)
        file.flush()
        os.fsync(file.fileno())
    return Signer(made)


def _signed_bytes(digest: str) -> bytes:
    return _DOMAIN + digest.encode()


def _read(signatures_json: bytes) -> list[Signature]:
    """Those that can be read; what cannot is no signature."""
    try:
        return msgspec.json.decode(signatures_json or b"[]", type=list[Signature])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return []
