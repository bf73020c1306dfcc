"""The certificate on the balancer: taken when Nginx shows it, else the one before serves on. Nginx is stood in for."""

from __future__ import annotations

import json
import ssl
import subprocess
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import certificate
import nginx
import proxy
import proxy_site
import pytest
import site_state
from proxy import ProxyError
from site_state import State

from rendering.site import render_site
from rendering.upstream import Upstream
from settings.balancer import Balancer
from settings.tls import Tls
from tests.certificates import Authority, pem_of
from tests.unit.script_input import call_with_input

AUTHORITY = Authority()
UPPER = AUTHORITY.certificate


def pair(*names: str) -> str:
    signed = AUTHORITY.sign(names or ["shop.example.org"])
    return signed.certificate + UPPER + signed.private_key


def site(*, tls: bool = True) -> State:
    given = Balancer(tls=Tls(self_signed=True) if tls else None)
    made = render_site(given, [Upstream("a", ["10.0.0.1"], 60, "/healthz")])
    return State(json.loads(json.dumps(made)), [], [])


def serve(state: State, *, is_repair: bool = False) -> None:
    """Leave what a run of proxy_site.py leaves that served this."""
    assert not is_repair
    nginx.SITE.write_text(state.render())
    state.write()


def leaf(pem: str) -> bytes:
    end = "-----END CERTIFICATE-----"
    return ssl.PEM_cert_to_DER_cert(pem[pem.index("-----BEGIN CERT") : pem.index(end) + len(end)])


@dataclass
class FakeNginx:
    """Shows the certificate that it read at its last reload. refuses: what `nginx -t` says. deaf: it never reloads."""

    showing: bytes = b""
    reloads: int = 0
    refuses: str = ""
    deaf: bool = False

    def test(self, text: str) -> None:
        assert text == site_state.read_state().render()
        # What it refuses is the new certificate.
        if self.refuses and leaf(certificate.FILE.read_text()) != self.showing:
            raise ProxyError(self.refuses)

    def swap_in(self, text: str) -> set[int]:
        assert text == site_state.read_state().render()
        self.reloads += 1
        if not self.deaf:
            self.showing = leaf(certificate.FILE.read_text())
        return set()

    def served_certificate(self) -> bytes:
        return self.showing


@pytest.fixture
def balancer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeNginx:
    """Create a balancer that serves HTTPS with the certificate of "before.example"."""
    made = FakeNginx()
    monkeypatch.setattr(proxy, "test", made.test)
    monkeypatch.setattr(proxy, "swap_in", made.swap_in)
    monkeypatch.setattr(certificate, "served_certificate", made.served_certificate)
    monkeypatch.setattr(nginx, "SITE", tmp_path / "site.conf")
    monkeypatch.setattr(site_state, "STATE", tmp_path / "site.json")
    monkeypatch.setattr(proxy, "LOCK", tmp_path / "lock")
    folder = tmp_path / "tls"
    monkeypatch.setattr(certificate, "FOLDER", folder)
    for name, file in (("FILE", "site.pem"), ("CANDIDATE", "candidate.pem"), ("MADE_FOR", "self-signed")):
        monkeypatch.setattr(certificate, name, folder / file)
    monkeypatch.setattr(certificate, "RENEWAL", tmp_path / "renewal.conf")
    monkeypatch.setattr(certificate, "LIVE", tmp_path / "live")
    serve(site())
    certificate.write_private(certificate.FILE, pair("before.example").encode())
    made.showing = leaf(certificate.FILE.read_text())
    return made


call = partial(call_with_input, certificate.main)


def files() -> dict[str, str]:
    return {each.name: each.read_text() for each in certificate.FOLDER.iterdir()}


def test_a_given_certificate_is_shown_after_one_reload_and_root_alone_reads_it(balancer: FakeNginx) -> None:
    certificate.MADE_FOR.write_text("localhost")
    new = pair()
    call("given", stdin=new)
    assert (balancer.showing, balancer.reloads) == (leaf(new), 1)
    assert files() == {"site.pem": new}
    assert oct(certificate.FILE.stat().st_mode)[-3:] == "640"
    assert oct(certificate.FOLDER.stat().st_mode)[-3:] == "750"


def test_the_certificate_that_is_shown_already_is_not_loaded_again(balancer: FakeNginx) -> None:
    call("given", stdin=certificate.FILE.read_text())
    assert balancer.reloads == 0


def test_a_file_that_a_killed_run_wrote_is_loaded_by_the_next(balancer: FakeNginx) -> None:
    new = pair()
    # As may be a site; the remembered one is loaded.
    nginx.SITE.write_text(site(tls=False).render())
    certificate.write_private(certificate.FILE, new.encode())
    call("given", stdin=new)
    assert (balancer.showing, balancer.reloads) == (leaf(new), 1)


def test_before_there_is_a_site_with_tls_the_file_is_all(balancer: FakeNginx) -> None:
    serve(site(tls=False))
    certificate.FILE.unlink()
    new = pair()
    call("given", stdin=new)
    assert (files(), balancer.reloads) == ({"site.pem": new}, 0)


@pytest.mark.parametrize(
    "pem",
    [
        AUTHORITY.sign(["a.example"]).certificate + AUTHORITY.sign(["a.example"]).private_key,
        AUTHORITY.sign(["a.example"]).certificate,
        AUTHORITY.sign(["a.example"]).private_key,
        AUTHORITY.sign(["a.example"]).certificate + pem_of(AUTHORITY.private, "passphrase"),
        "nonsense",
        "",
    ],
    ids=["another key", "no key", "no certificate", "a passphrase", "nonsense", "nothing"],
)
def test_what_is_no_pair_never_becomes_the_file(balancer: FakeNginx, pem: str) -> None:
    before = files()
    with pytest.raises(ProxyError, match="the certificate and its private key cannot be used"):
        call("given", stdin=pem)
    assert (files(), balancer.reloads) == (before, 0)


def test_a_certificate_that_nginx_refuses_leaves_the_one_before_without_a_reload(balancer: FakeNginx) -> None:
    before, balancer.refuses = files(), "[emerg] ee key too small"
    with pytest.raises(ProxyError, match="ee key too small"):
        call("given", stdin=pair())
    assert (files(), balancer.reloads) == (before, 0)


def test_a_certificate_that_nginx_does_not_show_is_told_and_taken_back(balancer: FakeNginx) -> None:
    before, balancer.deaf = files(), True
    with pytest.raises(ProxyError, match=r"shows another certificate; see /var/log/wsgi-fleet/error.log"):
        call("given", stdin=pair())
    assert files() == before


def names_of(pem: str, folder: Path) -> str:
    file = folder / "look.pem"
    file.write_text(pem)
    return certificate.openssl("x509", "-in", str(file), "-noout", "-ext", "subjectAltName").splitlines()[1].strip()


def test_a_self_signed_certificate_is_for_its_names_and_made_once(balancer: FakeNginx, tmp_path: Path) -> None:
    call("self-signed", "shop.example.org", "b.example")
    made = files()["site.pem"]
    assert names_of(made, tmp_path) == "DNS:shop.example.org, DNS:b.example, IP Address:127.0.0.1"
    assert balancer.showing == leaf(made)
    call("self-signed", "shop.example.org", "b.example")
    assert (files()["site.pem"], balancer.reloads) == (made, 1)
    call("self-signed", "shop.example.org")
    assert files()["site.pem"] != made
    facts = certificate.facts()
    assert facts is not None
    assert not facts["is_renewed_here"]
    assert 3649 < facts["expires_in_s"] / 86_400 <= 3650


def test_one_stands_in_only_where_there_is_none(
    balancer: FakeNginx, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(certificate, "INSTALL", tmp_path / "install")
    certificate.INSTALL.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/installed\n')
    certificate.INSTALL.chmod(0o755)
    before = files()
    call("stand-in", "shop.example.org")
    assert (files(), balancer.reloads) == (before, 0)
    certificate.FILE.unlink()
    call("stand-in", "shop.example.org")
    assert names_of(files()["site.pem"], tmp_path) == "DNS:shop.example.org, IP Address:127.0.0.1"
    assert (tmp_path / "installed").read_text() == "certbot\n" * 2


def test_what_certbot_renewed_is_taken_with_its_chain(balancer: FakeNginx) -> None:
    call("self-signed", "shop.example.org")
    signed = AUTHORITY.sign(["shop.example.org"])
    certificate.LIVE.mkdir()
    (certificate.LIVE / "fullchain.pem").write_text(signed.certificate + UPPER)
    (certificate.LIVE / "privkey.pem").write_text(signed.private_key)
    call("renewed")
    assert files() == {"site.pem": signed.certificate + UPPER + signed.private_key}
    assert balancer.showing == leaf(signed.certificate)


@pytest.fixture
def certbot_commands(balancer: FakeNginx, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Return the commands that certbot was asked; all others run."""
    del balancer
    asked: list[list[str]] = []
    really: Any = subprocess.run

    def run(command: list[str], **options: Any) -> Any:
        if command[0] != "certbot":
            return really(command, **options)
        asked.append(command)
        certificate.RENEWAL.unlink()
        return None

    monkeypatch.setattr(subprocess, "run", run)
    return asked


def test_a_certificate_is_in_place_for_the_step_that_mends_a_broken_state(balancer: FakeNginx, capsys: Any) -> None:
    site_state.STATE.write_text("")
    call("given", stdin=pair())
    assert certificate.FILE.exists()
    assert balancer.reloads == 0
    assert "`pulumi up --replace '**::balancer-site'` writes it anew, and serves this" in capsys.readouterr().out


FORGET = ["certbot", "delete", "--non-interactive", "--quiet", "--cert-name", "wsgi-fleet"]


@pytest.mark.parametrize("words", [["given"], ["self-signed", "localhost"]])
def test_certbot_renews_nothing_over_a_certificate_from_elsewhere(
    certbot_commands: list[list[str]], words: list[str]
) -> None:
    certificate.RENEWAL.touch()
    call(*words, stdin=pair())
    assert certbot_commands == [FORGET]


def test_a_site_that_goes_back_to_http_leaves_no_key_and_renews_none(
    certbot_commands: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proxy_site, "serve", serve)
    for tls, there in ((True, True), (False, False), (False, False)):
        certificate.RENEWAL.touch()
        proxy_site.serve_site(site(tls=tls))
        assert certificate.FOLDER.exists() == there
    assert certbot_commands == [FORGET, FORGET]


@pytest.mark.parametrize("arguments", [[], ["self-signed"], ["stand-in"], ["given", "x"], ["perhaps"]])
def test_what_is_no_verb_is_answered_with_the_verbs(balancer: FakeNginx, arguments: list[str]) -> None:
    with pytest.raises(ProxyError, match=r"certificate\.py self-signed NAME"):
        call(*arguments)
    assert balancer.reloads == 0
