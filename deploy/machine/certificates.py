"""A certificate authority of one's own: for development, and to see how TLS is set up before a real one is asked.

The keys are P-256, as every TLS library takes them. The authority's key stays in its folder: whoever has it is
everybody.
"""

import datetime
import ipaddress
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from deploy.errors import SluiceError
from serving.tls.settings import GATEWAY_NAME, WORKER_NAME

AUTHORITY_DAYS = 3650
CLIENT_NAME = "sluice-client"
_BACKDATED = datetime.timedelta(minutes=5)  # clocks of a fleet differ


@dataclass(frozen=True, slots=True)
class Made:
    """Where a certificate and its key lie, and until when it is good."""

    name: str
    certificate: Path
    key: Path
    until: datetime.datetime


def make_certificates(folder: Path, days: int, hosts: Sequence[str] = ()) -> list[Made]:
    """The authority's certificate first, then one for workers, gateways and clients each, made anew; the authority is
    kept if it is there. hosts: names and addresses by which clients find gateways, besides localhost.

    Raises SluiceError.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        authority, signer = _authority(folder)
        made = [_place(folder, "ca", authority)]
        names = {
            "worker": [WORKER_NAME],
            "gateway": [GATEWAY_NAME, "localhost", "127.0.0.1", "::1", *hosts],
            "client": [CLIENT_NAME],
        }
        for role, told in names.items():
            key = ec.generate_private_key(ec.SECP256R1())
            certificate = _signed(told, key, authority, signer, days)
            place = _place(folder, role, certificate)
            _write(place.key, _pem(key))
            _write(place.certificate, certificate.public_bytes(serialization.Encoding.PEM))
            made.append(place)
    except OSError as error:
        raise SluiceError(f"{folder}: {error.strerror}", "sluice certificates make ANOTHER_FOLDER") from error
    return made


def _authority(folder: Path) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    certificate_file, key_file = folder / "ca.pem", folder / "ca.key"
    if certificate_file.exists() and key_file.exists():
        try:
            certificate = x509.load_pem_x509_certificate(certificate_file.read_bytes())
            key = serialization.load_pem_private_key(key_file.read_bytes(), None)
        except (ValueError, TypeError) as error:
            raise SluiceError(
                f"{folder}: ca.pem or ca.key cannot be read ({error})", "sluice certificates make ANOTHER_FOLDER"
            ) from error
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise SluiceError(f"{key_file}: not one of ours, expected P-256", "sluice certificates make ANOTHER_FOLDER")
        return certificate, key
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Sluice development authority")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(now + datetime.timedelta(days=AUTHORITY_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    _write(key_file, _pem(key))
    _write(certificate_file, certificate.public_bytes(serialization.Encoding.PEM))
    return certificate, key


def _signed(
    names: Sequence[str],
    key: ec.EllipticCurvePrivateKey,
    authority: x509.Certificate,
    signer: ec.EllipticCurvePrivateKey,
    days: int,
) -> x509.Certificate:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])]))
        .issuer_name(authority.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs=False), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False
        )
        .add_extension(x509.SubjectAlternativeName([_as_name(name) for name in names]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
        .sign(signer, hashes.SHA256())
    )


def _usage(signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )


def _as_name(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)


def _place(folder: Path, role: str, certificate: x509.Certificate) -> Made:
    return Made(role, folder / f"{role}.pem", folder / f"{role}.key", certificate.not_valid_after_utc)


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _write(path: Path, content: bytes) -> None:
    """Whole or not at all, and for this user only: who reads it meanwhile has the old one."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.touch(0o600)
    fresh.write_bytes(content)
    fresh.replace(path)
