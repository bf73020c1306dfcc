"""Passwords as Nginx keeps them: what is made by hand here is checked by the C library that Nginx asks."""

from __future__ import annotations

import ctypes

from hypothesis import given, settings
from hypothesis import strategies as st

from rendering.htpasswd import htpasswd_line, sha512_crypt

# Of libcrypt1, which is part of each Debian.
LIBRARY = ctypes.CDLL("libcrypt.so.1")
LIBRARY.crypt.restype = ctypes.c_char_p
passwords = st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"]), min_size=1, max_size=128)


def test_the_specifications_own_example_comes_out() -> None:
    # SHA-crypt.txt, "$6$rounds=1400$anotherlongsaltstring"; a salt has 16 digits.
    text = "a very much longer text to encrypt.  This one even stretches over morethan one line."
    assert sha512_crypt(text, "anotherlongsalts", 1400) == (
        "$6$rounds=1400$anotherlongsalts$"
        "POfYwTEok97VWcjxIiSOjiykti.o/pQs.wPvMxQ6Fm7I6IoYN3CmLs66x9t0oSwbtEW7o7UmJEiDwGqd8p4ur1"
    )


@settings(max_examples=60, deadline=None)
@given(passwords, st.text("./09AZaz", min_size=1, max_size=16))
def test_the_c_library_takes_what_was_made(password: str, salt: str) -> None:
    made = sha512_crypt(password, salt)
    assert LIBRARY.crypt(password.encode(), made.encode()).decode() == made
    assert LIBRARY.crypt(password.encode() + b"x", made.encode()).decode() != made


def test_a_line_is_the_same_each_time_and_another_one_for_each_user_password_and_stack() -> None:
    line = htpasswd_line("ann", "correct horse", "key")
    assert line == htpasswd_line("ann", "correct horse", "key")
    others = [
        htpasswd_line("bob", "correct horse", "key"),
        htpasswd_line("ann", "correct horsf", "key"),
        htpasswd_line("ann", "correct horse", "kez"),
    ]
    salts = {each.split("$")[3] for each in [line, *others]}
    assert len(salts) == 4
    assert line.startswith("ann:$6$rounds=1000$")
    assert line.endswith("\n")
    assert "correct" not in line
