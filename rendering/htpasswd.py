"""A password as Nginx on the balancer keeps it: SHA-512 crypt, which Debian's C library checks."""

from __future__ import annotations

import hashlib
import hmac

# The fewest that the scheme knows. Nginx checks a password anew with each request and answers nobody else meanwhile:
# 0.7 ms with these, 5.5 ms with the usual 5000 (measured). settings.access asks for long passwords instead.
ROUNDS = 1000
_DIGITS = "./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def htpasswd_line(user: str, password: str, key: str) -> str:
    """Return a line of Nginx's auth_basic_user_file. key: a secret of the stack, of which the salt is made.

    A password has the same line each time, so that a second `up` changes nothing, and another one in each stack.
    """
    seed = hmac.digest(key.encode(), f"{user}:{password}".encode(), "sha512")
    salt = "".join(_DIGITS[byte % 64] for byte in seed[:16])
    return f"{user}:{sha512_crypt(password, salt)}\n"


def sha512_crypt(password: str, salt: str, rounds: int = ROUNDS) -> str:
    """Hash a password as U. Drepper specified it (akkadia.org/drepper/SHA-crypt.txt).

    salt: 16 of its 64 digits at most. It is implemented here, for Python has removed its `crypt`.
    """
    word, grain = password.encode(), salt.encode()
    second = _sha512(word + grain + word)
    first = word + grain + _repeat_to(second, len(word))
    length = len(word)
    while length:
        first += second if length & 1 else word
        length >>= 1
    digest = _sha512(first)
    words = _repeat_to(_sha512(word * len(word)), len(word))
    grains = _repeat_to(_sha512(grain * (16 + digest[0])), len(grain))
    for number in range(rounds):
        odd = number & 1
        mixed = words if odd else digest
        if number % 3:
            mixed += grains
        if number % 7:
            mixed += words
        digest = _sha512(mixed + (digest if odd else words))
    return f"$6$rounds={rounds}${salt}${_encode_digest(digest)}"


def _sha512(text: bytes) -> bytes:
    return hashlib.sha512(text).digest()


def _repeat_to(text: bytes, length: int) -> bytes:
    return (text * (length // len(text) + 1))[:length]


def _encode_digest(digest: bytes) -> str:
    """Return 64 bytes as 86 digits, in the order that the specification lists."""
    a, b, c, made = 0, 21, 42, ""
    for _ in range(21):
        made += _base64(digest[a] << 16 | digest[b] << 8 | digest[c], 4)
        a, b, c = b + 1, c + 1, a + 1
    return made + _base64(digest[63], 2)


def _base64(value: int, digits: int) -> str:
    return "".join(_DIGITS[value >> 6 * place & 63] for place in range(digits))
