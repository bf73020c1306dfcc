"""Who may ask: names with passwords, networks, countries."""

from __future__ import annotations

import ipaddress
import json
from typing import Annotated

from pydantic import AfterValidator, Field, SecretStr, model_validator

from settings.constraint import ENCRYPTED, matching
from settings.model import Model, reject

# Each password is checked anew with each request, and a check may cost no more than a millisecond of the balancer
# (rendering/htpasswd.py); so the password itself has to be a good one.
MIN_PASSWORD_CHARS, MAX_PASSWORD_CHARS = 12, 128


def _network(value: str) -> str:
    try:
        network = ipaddress.ip_network(value, strict=False)
    except ValueError:
        raise ValueError(f"{json.dumps(value)}: is no network; write one such as 198.51.100.0/24") from None
    if "/" not in value or str(network) != value:
        raise ValueError(f"{json.dumps(value)}: is an address and not a network; write {network}")
    if value == "255.255.255.255/32":
        raise ValueError(f"{json.dumps(value)}: is the broadcast address, which no client has; remove it")
    return value


def _check_password_length(value: SecretStr) -> SecretStr:
    password = value.get_secret_value()
    if password != ENCRYPTED and not MIN_PASSWORD_CHARS <= len(password) <= MAX_PASSWORD_CHARS:
        allowed = f"{MIN_PASSWORD_CHARS} to {MAX_PASSWORD_CHARS}"
        raise ValueError(f"(secret): has {len(password)} characters, and should have {allowed}; take another password")
    return value


def _check_realm(value: str) -> str:
    # Nginx's word for none.
    if value == "off":
        raise ValueError('"off": would disable the password check; choose another realm, or remove basic_auth')
    return value


# Of IPv6 as well: what stands in front of the balancer may be reached by it.
Network = Annotated[
    str,
    matching(
        r"^[0-9a-f.:]+(/[0-9]{1,3})?$",
        "a network such as 198.51.100.0/24 or 2001:db8::/32, of digits, a to f, dots and colons",
    ),
    AfterValidator(_network),
]
# ISO 3166; the database also has A1 (anonymous proxies), A2 (satellites), AP and EU.
Country = Annotated[str, matching(r"^[A-Z][A-Z0-9]$", "a country by ISO 3166, such as DE")]
# RFC 7617 has no colon; a dot would be a step of the path that `pulumi config set --path` takes.
UserName = Annotated[
    str, matching(r"^[A-Za-z0-9_@-]+$", "a name of letters, digits and any of _ @ -, such as ann", max_length=64)
]
Password = Annotated[SecretStr, AfterValidator(_check_password_length)]
# It is quoted in a header.
Realm = Annotated[
    str,
    matching(r"^[A-Za-z0-9 ._-]+$", "letters, digits, blanks and any of . _ -", max_length=64),
    AfterValidator(_check_realm),
]
# One path, or with a slash at its end all beneath it.
ExemptPath = Annotated[
    str,
    matching(
        r"^/[A-Za-z0-9_./~-]+$",
        "a path such as /public/, of letters, digits and any of _ . / ~ -; for the whole site, remove the block",
        max_length=200,
    ),
]


class BasicAuth(Model):
    """A name and a password for all of the site (RFC 7617)."""

    users: Annotated[dict[UserName, Password], Field(max_length=1000)] = Field(
        description="name -> password: pulumi config set --secret --path. Without users all clients are rejected"
    )
    realm: Realm = Field(default="Restricted", description="what browsers show when they ask")
    exempt_paths: list[ExemptPath] = Field(
        default_factory=list[str], description="paths without this check; with / at the end all below. Health paths are"
    )


class Access(Model):
    """From where the site may be asked; others get 403. The narrowest network that an address is in decides."""

    allow: list[Network] = Field(
        default_factory=list[str], description="networks with access; if there are any, all others are refused"
    )
    deny: list[Network] = Field(default_factory=list[str], description="networks that may not")
    deny_countries: list[Country] = Field(
        default_factory=list[str], description="countries that may not, as ISO 3166 writes them; needs geoip"
    )
    exempt_paths: list[ExemptPath] = Field(
        default_factory=list[str], description="paths without this check; with / at the end all below. Health paths are"
    )

    @model_validator(mode="after")
    def _check_duplicates(self) -> Access:
        every = [*self.allow, *self.deny]
        if twice := sorted({network for network in every if every.count(network) > 1}):
            reject(*[f"allow, deny: {network}: is named twice; keep it in one of them" for network in twice])
        return self

    @model_validator(mode="after")
    def _check_effect(self) -> Access:
        if not (self.allow or self.deny or self.deny_countries):
            reject("allow, deny, deny_countries: are all empty; fill one of them, or write `access: null`")
        return self
