#!/usr/bin/env python3
"""The certificate that this balancer serves HTTPS with. Runs as root; standard library only.

    certificate.py given                  the chain and then its private key, in PEM on standard input
    certificate.py self-signed NAME...    one that this machine makes; 127.0.0.1 is in it as well
    certificate.py stand-in NAME...       the same, unless there is one already; and certbot, which is to replace it
    certificate.py renewed                what certbot got; its deploy hook

Where the site serves HTTPS already, it is reloaded and must show the new certificate; if it does not, the one before is
put back. Chain and key are one file, so that no moment has one without the other.
"""

from __future__ import annotations

import fcntl
import shutil
import ssl
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import proxy
from proxy import ProxyError
from site_state import read_state
from system import write_atomically

FOLDER = Path("/etc/wsgi-fleet/tls")
# The proxy runs as that user.
GROUP = "www-data"
# What the site names (templates/*/tls.conf.j2); what shall be that; for which names this machine made it.
FILE, CANDIDATE, MADE_FOR = FOLDER / "site.pem", FOLDER / "candidate.pem", FOLDER / "self-signed"
# certbot's name of what it keeps up to date here, and the file that makes it do so.
LINEAGE = "wsgi-fleet"
RENEWAL = Path("/etc/letsencrypt/renewal") / f"{LINEAGE}.conf"
LIVE = Path("/etc/letsencrypt/live") / LINEAGE
INSTALL = Path("/usr/local/lib/wsgi-fleet/install-packages")
HTTPS = ("127.0.0.1", 443)
# No client trusts it anyway; ten years, because no `up` renews it.
SELF_SIGNED_DAYS = 3650
STDIN_BYTES = 1 << 20


def install(pem: bytes) -> None:
    """Serve with this chain and key from now on. Raises ProxyError; then what served before still does."""
    write_private(CANDIDATE, pem)
    try:
        leaf = leaf_of(CANDIDATE)
    except ProxyError:
        CANDIDATE.unlink()
        raise
    before = FILE.read_bytes() if FILE.exists() else None
    CANDIDATE.rename(FILE)
    try:
        if not read_state().site["https"]:
            # The site that names it is installed by a later step, or was removed.
            return
    except ProxyError as error:
        # A later step corrects it, and loads the certificate.
        print(f"{error}, and serves this certificate", flush=True)
        return
    try:
        load(leaf)
    except ProxyError:
        if before is not None:
            write_private(FILE, before)
            load(leaf_of(FILE))
        raise


def load(leaf: bytes) -> None:
    """Have the proxy show the certificate that begins with leaf (DER); no reload where it does. Raises ProxyError."""
    site = read_state().render()
    proxy.test(site)
    if served_certificate() != leaf:
        proxy.swap_in(site)
        if served_certificate() != leaf:
            raise ProxyError("the site was reloaded and shows another certificate; see /var/log/wsgi-fleet/error.log")


def write_private(file: Path, content: bytes) -> None:
    """Write a file that root and the proxy's user alone may read, atomically."""
    FOLDER.mkdir(mode=0o750, exist_ok=True)
    shutil.chown(FOLDER, group=GROUP)
    write_atomically(file, content, 0o640, GROUP)


def leaf_of(file: Path) -> bytes:
    """Return the first certificate of a file, in DER. Raises ProxyError unless the file also has a key that fits."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        # Without the password OpenSSL would ask for one on a terminal.
        context.load_cert_chain(file, password=lambda: "")
    except (ssl.SSLError, ValueError) as error:
        raise ProxyError(f"the certificate and its private key cannot be used: {error}") from error
    text = file.read_text()
    end = "-----END CERTIFICATE-----"
    return ssl.PEM_cert_to_DER_cert(text[text.index("-----BEGIN CERTIFICATE-----") : text.index(end) + len(end)])


def served_certificate() -> bytes:
    """Return the certificate that clients get now, in DER; b"" where nothing responds."""
    try:
        return ssl.PEM_cert_to_DER_cert(ssl.get_server_certificate(HTTPS, timeout=5))
    except OSError:
        return b""


def install_self_signed(names: Sequence[str]) -> None:
    """Serve with a self-signed certificate for these names; keep the present one if it is one."""
    made_for = " ".join(names)
    if FILE.exists() and MADE_FOR.exists() and MADE_FOR.read_text() == made_for:
        install(FILE.read_bytes())
        return
    alternatives = ",".join([*(f"DNS:{name}" for name in names), "IP:127.0.0.1"])
    pem = openssl(
        "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-noenc", "-batch",
        "-days", str(SELF_SIGNED_DAYS), "-subj", "/CN=wsgi-fleet self-signed",
        "-addext", f"subjectAltName={alternatives}", "-keyout", "-", "-out", "-",
    )  # fmt: skip
    install(pem.encode())
    write_private(MADE_FOR, made_for.encode())


def openssl(*arguments: str) -> str:
    """Run openssl and return what it prints. Raises ProxyError with its error message."""
    result = subprocess.run(["openssl", *arguments], check=False, capture_output=True, text=True)
    if result.returncode:
        raise ProxyError(f"openssl {arguments[0]}: {result.stderr.strip()}")
    return result.stdout


def install_given(pem: bytes) -> None:
    """Serve with the operator's certificate, and stop certbot from renewing its own."""
    install(pem)
    MADE_FOR.unlink(missing_ok=True)
    stop_renewing()


def install_renewed() -> None:
    """Serve with what certbot keeps."""
    install((LIVE / "fullchain.pem").read_bytes() + (LIVE / "privkey.pem").read_bytes())
    MADE_FOR.unlink(missing_ok=True)


def stop_renewing() -> None:
    """Have certbot forget the certificate that it kept up to date here, if it did."""
    if RENEWAL.exists():
        command = ["certbot", "delete", "--non-interactive", "--quiet", "--cert-name", LINEAGE]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def forget() -> None:
    """Leave no key on a balancer whose site serves plain HTTP."""
    stop_renewing()
    if FOLDER.exists():
        shutil.rmtree(FOLDER)


def facts() -> dict[str, Any] | None:
    """Return for the operator's command when the certificate expires and where it comes from. None: there is none."""
    if not FILE.exists():
        return None
    ends = openssl("x509", "-in", str(FILE), "-noout", "-enddate").strip().removeprefix("notAfter=")
    return {
        "expires_in_s": round(ssl.cert_time_to_seconds(ends) - time.time()),
        "is_renewed_here": RENEWAL.exists(),
    }


def main(arguments: Sequence[str]) -> None:
    """Run the command that the arguments name, under the proxy's lock."""
    with proxy.LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        match list(arguments):
            case ["given"]:
                install_given(sys.stdin.buffer.read(STDIN_BYTES))
            case ["self-signed", *names] if names:
                install_self_signed(names)
                stop_renewing()
            case ["stand-in", *names] if names:
                # Now, while the address may still lead to another balancer: what stands in serves the shorter.
                subprocess.run([str(INSTALL), "certbot"], check=True)
                if FILE.exists():
                    install(FILE.read_bytes())
                else:
                    install_self_signed(names)
            case ["renewed"]:
                install_renewed()
            case _:
                raise ProxyError(str(__doc__))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (ProxyError, OSError, subprocess.CalledProcessError) as problem:
        sys.exit(f"error: {problem}; the certificate before it still serves")
