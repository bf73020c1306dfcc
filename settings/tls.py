"""The settings of names and TLS on the balancer, and what is wrong with a certificate before any machine gets it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import pairwise
from typing import Annotated

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from pydantic import Field, SecretStr, model_validator

from settings.constraint import ENCRYPTED, matching
from settings.model import Model, reject

# RFC 1123, two labels at least, as browsers send it. No wildcard: ACME's http-01 gives none.
Hostname = Annotated[
    str,
    matching(
        r"^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z]([a-z0-9-]{0,61}[a-z0-9])?$",
        "a host name of small letters, digits and hyphens with a dot, such as shop.example.org; remove scheme, port "
        "and path",
        max_length=253,
    ),
]
Email = Annotated[
    str,
    matching(
        r"^[A-Za-z0-9._+-]{1,64}@[A-Za-z0-9.-]{1,190}$",
        "an address such as ops@example.org, of letters, digits and any of . _ + -",
    ),
]
HttpsUrl = Annotated[
    str,
    matching(
        r"^https://[A-Za-z0-9.-]+(:\d{1,5})?(/[A-Za-z0-9._/~-]*)?$",
        "a URL that begins with https://, of letters, digits and any of . - in the host, and _ / ~ in the path",
    ),
]
# PEM blocks and nothing else, because Nginx reads the file.
Pem = Annotated[
    str,
    matching(
        r"^[A-Za-z0-9+/= \r\n-]+$",
        "certificates in PEM; copy them whole, each line of them, as a YAML block (|)",
        max_length=65_536,
    ),
]
LETS_ENCRYPT = "https://acme-v02.api.letsencrypt.org/directory"
# OpenSSL of Debian takes no smaller one (security level 2), and FSBP ACM.2 wants the same.
RSA_BITS = 2048


class Acme(Model):
    """Who signs the certificate over ACME (RFC 8555, http-01)."""

    email: Email = Field(description="given to the ACME server with the account")
    directory_url: HttpsUrl = Field(default=LETS_ENCRYPT, description="directory of the ACME server")
    ca_certificate: Pem | None = Field(
        default=None, description="PEM of the authority that a private ACME server's own HTTPS is trusted by"
    )

    @model_validator(mode="after")
    def _check_authority(self) -> Acme:
        if self.ca_certificate is not None and not _certificates(self.ca_certificate):
            reject("ca_certificate: should be one or more certificates in PEM; copy them again with all lines")
        return self


class Tls(Model):
    """Where the balancer's certificate comes from: exactly one of certificate with private_key, acme, self_signed."""

    certificate: Pem | None = Field(default=None, description="PEM chain: the site's own first, then who signed it")
    private_key: SecretStr | None = Field(
        default=None, description="its key in PEM, without a passphrase: pulumi config set --secret --path"
    )
    acme: Acme | None = Field(default=None, description="ask an ACME server, and again before it expires")
    self_signed: bool = Field(default=False, description="made on the balancer; no client trusts it: to rehearse")
    # 5 minutes is the first stage of hstspreload.org: HSTS cannot be revoked in browsers.
    hsts_max_age_s: int = Field(
        default=300, ge=0, le=63_072_000, description="for how long browsers insist on HTTPS; 0: no such header"
    )

    @model_validator(mode="after")
    def _check_source(self) -> Tls:
        chosen = {
            "certificate": self.certificate is not None or self.private_key is not None,
            "acme": self.acme is not None,
            "self_signed": self.self_signed,
        }
        named = [key for key, is_chosen in chosen.items() if is_chosen]
        if len(named) != 1:
            given = " and ".join(named) or "none"
            reject(
                f"certificate, acme, self_signed: {given} given; set exactly one of certificate (with private_key), "
                "acme, self_signed: true. For plain HTTP, or behind something that ends TLS, `tls: null`"
            )
        if (self.certificate is None) != (self.private_key is None):
            missing = "certificate" if self.certificate is None else "private_key"
            reject(f"{missing}: missing; a certificate and its private_key go together, so give both")
        return self


def problems(tls: Tls, hostnames: Sequence[str], now: datetime | None = None) -> list[str]:
    """Return what keeps this from working, each with the key it is about. Of the private key it names only the kind."""
    if tls.certificate is None or tls.private_key is None:
        return []
    chain = _certificates(tls.certificate)
    if not chain:
        return [
            "tls.certificate: should be certificates in PEM, the site's own first; copy them anew, each line of them"
        ]
    key = tls.private_key.get_secret_value()
    return [
        *(f"tls.certificate: {problem}" for problem in _check_chain(chain, hostnames, now or datetime.now(UTC))),
        *(f"tls.private_key: {problem}" for problem in (_check_key(key, chain[0]) if key != ENCRYPTED else ())),
    ]


def uncovered_hosts(tls: Tls, hostnames: Sequence[str], every: Sequence[str]) -> list[str]:
    """Return what the certificate could not be for. every: hostnames, and hosts of applications besides them."""
    if tls.acme is not None:
        if not every:
            return [
                "balancer.hostnames: []: should name what the ACME server signs; name the site, e.g. [shop.example.org]"
            ]
        return [
            f"apps.*.hosts: {host}: no ACME server signs that by http-01; name each host, or give a certificate "
            "(balancer.tls.certificate)"
            for host in every
            if host.startswith("*.")
        ]
    names = _certificates(tls.certificate or "")[:1]
    return [
        f"balancer.tls.certificate: does not cover {host} of apps ({_purpose(covered)}); give one that does"
        for covered in map(_names, names)
        for host in every
        if host not in hostnames and not _covers(covered, host)
    ]


def _covers(names: set[str], hostname: str) -> bool:
    return bool({hostname, "*." + hostname.partition(".")[2]} & names)


def _certificates(pem: str) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem.encode())
    except ValueError:
        return []


def _purpose(covered: set[str]) -> str:
    return f"it is for {', '.join(sorted(covered)) or 'no name'}"


def _check_chain(chain: Sequence[x509.Certificate], hostnames: Sequence[str], now: datetime) -> list[str]:
    own, found = chain[0], list[str]()
    if own.not_valid_after_utc <= now:
        found.append(f"expired on {own.not_valid_after_utc:%Y-%m-%d %H:%M} UTC; give the renewed one")
    if own.not_valid_before_utc > now:
        found.append(f"is valid only from {own.not_valid_before_utc:%Y-%m-%d %H:%M} UTC on; wait, or give another one")
    covered = _names(own)
    for hostname in hostnames:
        if not _covers(covered, hostname):
            found.append(f"does not cover {hostname} of hostnames ({_purpose(covered)}); give one that does")
    for lower, upper in pairwise(chain):
        if lower.issuer != upper.subject:
            found.append(
                f"in the wrong order: {upper.subject.rfc4514_string()} did not sign {lower.subject.rfc4514_string()}; "
                "put behind each certificate the one that signed it"
            )
    key = own.public_key()
    if isinstance(key, RSAPublicKey) and key.key_size < RSA_BITS:
        found.append(f"its RSA key has {key.key_size} bits; have one signed for a key of {RSA_BITS} at least")
    elif not isinstance(key, RSAPublicKey | EllipticCurvePublicKey):
        found.append("its key is neither RSA nor ECDSA, and browsers take no other; have one signed for such a key")
    return found


def _names(certificate: x509.Certificate) -> set[str]:
    """Return the DNS names of a certificate, in small letters.

    Clients look at nothing but the alternative names (RFC 9525).
    """
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return set()
    return {name.lower() for name in extension.value.get_values_for_type(x509.DNSName)}


def _check_key(pem: str, certificate: x509.Certificate) -> list[str]:
    try:
        key = load_pem_private_key(pem.encode(), None)
    except TypeError:
        return ["(secret): has a passphrase, which nobody types on the balancer; give it without"]
    except ValueError:
        return ["(secret): is no private key in PEM; copy it anew, each line of it"]
    if key.public_key() != certificate.public_key():
        return ["(secret): does not belong to the certificate; give the key that it was requested with"]
    return []
