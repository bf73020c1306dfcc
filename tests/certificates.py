"""Certificates for tests: an authority of the test's own, and what it signs."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import NameOID

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey
PLAIN = NoEncryption()


def key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def pem_of(private: PrivateKey, passphrase: str | None = None) -> str:
    how: KeySerializationEncryption = BestAvailableEncryption(passphrase.encode()) if passphrase else PLAIN
    return private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, how).decode()


@dataclass(frozen=True)
class Signed:
    """certificate, private_key: PEM. private: the same key as an object."""

    certificate: str
    private_key: str
    private: PrivateKey


@dataclass(frozen=True)
class Authority:
    """Signs certificates; whoever trusts its own trusts these."""

    name: str = "test authority"
    private: ec.EllipticCurvePrivateKey = field(default_factory=key)

    @property
    def certificate(self) -> str:
        builder = _builder(self.name, self.name, self.private, days=(-1, 30))
        return _signed(
            builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), True).add_extension(
                x509.KeyUsage(
                    key_cert_sign=True, crl_sign=True, digital_signature=False, content_commitment=False,
                    key_encipherment=False, data_encipherment=False, key_agreement=False, encipher_only=False,
                    decipher_only=False,
                ),
                True,
            ),
            self.private,
        )  # fmt: skip

    def sign(
        self,
        names: Sequence[str],
        *,
        addresses: Sequence[str] = (),
        days: tuple[float, float] = (-1, 30),
        private: PrivateKey | None = None,
    ) -> Signed:
        """Return a certificate for these names. days: from when to when it is valid, counted from now."""
        made = private or key()
        builder = _builder(names[0] if names else "nobody", self.name, made, days)
        alternatives: list[x509.GeneralName] = [x509.DNSName(name) for name in names]
        alternatives += [x509.IPAddress(ipaddress.ip_address(address)) for address in addresses]
        if alternatives:
            builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), False)
        return Signed(_signed(builder, self.private), pem_of(made), made)


def _builder(subject: str, issuer: str, private: PrivateKey, days: tuple[float, float]) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + timedelta(days=days[0]))
        .not_valid_after(now + timedelta(days=days[1]))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(private.public_key()), False)
    )


def _signed(builder: x509.CertificateBuilder, by: ec.EllipticCurvePrivateKey) -> str:
    # Python 3.13 asks for it (VERIFY_X509_STRICT).
    builder = builder.add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(by.public_key()), False)
    return builder.sign(by, SHA256()).public_bytes(Encoding.PEM).decode()
