"""Builds the image as two files (metadata.tar, root.squashfs), once for each recipe, and keeps them for all stacks."""

from __future__ import annotations

import fcntl
import io
import json
import os
import platform
import shutil
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

from platforms.lxd.client import LxdError
from platforms.lxd.recipe import CA_BUNDLE, ImageRecipe

METADATA = "metadata.tar"
ROOT = "root.squashfs"
# Of 100-200 MB each; the newest ones stay.
KEEP_IMAGES = 4
# What mmdebstrap says when it enters a stage that takes seconds.
_STAGES = ("I: downloading", "I: extracting", "I: installing", "I: creating")
_TOOLS = {"mmdebstrap": "mmdebstrap", "mksquashfs": "squashfs-tools", "chroot": "coreutils"}


def cache() -> Path:
    """Return the folder of images that were built by this user."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "wsgi-fleet" / "images"


@contextmanager
def lock_images() -> Generator[None]:
    """Lock the images while they are built or change owners: two runs at once build one image once."""
    cache().mkdir(parents=True, exist_ok=True)
    with (cache() / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def ensure(recipe: ImageRecipe, digest: str, log: Callable[[str], None]) -> Path:
    """Return the folder with the image's two files, built now if missing. Call it locked. Raises LxdError."""
    folder = cache() / digest
    if not (folder / METADATA).exists():
        began = time.monotonic()
        log(f"building the machine image {digest} (once for each recipe, about a minute)")
        _prune()
        with tempfile.TemporaryDirectory(prefix=".building-", dir=cache()) as temporary, _readable() as scratch:
            image = Path(temporary) / "image"
            image.mkdir()
            _build(recipe, digest, image, scratch, log)
            shutil.rmtree(folder, ignore_errors=True)
            image.rename(folder)
        size_mib = (folder / ROOT).stat().st_size >> 20
        log(f"built the machine image in {time.monotonic() - began:.0f} s, {size_mib} MiB: {folder}")
    os.utime(folder)
    return folder


@contextmanager
def _readable() -> Generator[Path]:
    """Create a folder that everyone may read: for a plain user mmdebstrap runs its hooks as another user."""
    with tempfile.TemporaryDirectory(prefix="wsgi-fleet-image-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def _build(recipe: ImageRecipe, digest: str, image: Path, scratch: Path, log: Callable[[str], None]) -> None:
    for tool, package in _TOOLS.items():
        if shutil.which(tool, path=_path()) is None:
            raise LxdError(
                f"building the machine image needs {tool}; install the package {package} (`make setup` does)"
            )
    overlay = _overlay(recipe, scratch)
    # The resolver that the machines will have does not run here: scripts ask the host's.
    hooks = [f'cp -R "{overlay}/." "$1/"', 'cp --remove-destination -L /etc/resolv.conf "$1/etc/resolv.conf"']
    for unit in recipe.masked_units():
        hooks.append(f'ln -sf /dev/null "$1/etc/systemd/system/{unit}"')
    for number, text in enumerate(recipe.all_scripts()):
        script = scratch / f"script-{number}"
        script.write_text(text)
        script.chmod(0o755)
        hooks.append(
            f'cp "{script}" "$1/root/image-script" && {_chroot()} /root/image-script </dev/null; code=$?;'
            ' rm -f "$1/root/image-script"; exit $code'
        )
    command = [
        "mmdebstrap",
        "--variant=minbase",
        "--format=tar",
        f"--include={','.join(recipe.all_packages())}",
        # Machines keep these: what they install at boot is smaller and faster for it.
        *(f"--dpkgopt=path-exclude=/usr/share/{part}/*" for part in ("doc", "info", "lintian", "locale", "man")),
        "--dpkgopt=path-include=/usr/share/doc/*/copyright",
        *(f"--customize-hook={hook}" for hook in hooks),
        recipe.suite,
        "-",
    ]
    # mmdebstrap may run as a plain user in a namespace: the archive keeps ownership without the host's root.
    squash = ["mksquashfs", "-", str(image / ROOT), "-tar", "-quiet", "-no-progress"]
    # Otherwise `/` is 0777, and everyone may rename /etc.
    squash += ["-root-mode", "0755"]
    squash += ["-comp", "zstd", "-Xcompression-level", "3"]
    _pipe(command, squash, log)
    # Last: a folder with it is whole.
    _write_metadata(image / METADATA, recipe, digest)


def _overlay(recipe: ImageRecipe, scratch: Path) -> Path:
    """Write the files that are laid over the root, and return the root of their tree."""
    overlay = scratch / "overlay"
    for file in [*recipe.base_files(), *recipe.files]:
        path = overlay / file.path.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(file.content)
        path.chmod(file.mode)
    (overlay / "root").mkdir(exist_ok=True)
    bundle = CA_BUNDLE.read_bytes() if CA_BUNDLE.exists() else b""
    (overlay / "root" / "host-ca.crt").write_bytes(bundle)
    (overlay / "root" / "host-ca.crt").chmod(0o644)
    # With any umask: see _readable().
    for folder in (path for path in overlay.rglob("*") if path.is_dir()):
        folder.chmod(0o755)
    overlay.chmod(0o755)
    return overlay


def _path() -> str:
    """Return a PATH with sbin. Administration tools live there, and a plain user's PATH lacks it on Debian."""
    return f"{os.environ.get('PATH', os.defpath)}:/usr/local/sbin:/usr/sbin:/sbin"


def _chroot() -> str:
    """Return a command that enters the root. Its environment is clean but for the way to the network."""
    passed = [
        f'{name}="{os.environ[name]}"' for name in ("http_proxy", "https_proxy", "no_proxy") if name in os.environ
    ]
    path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    return " ".join(["env -i", path, "HOME=/root", "LANG=C.UTF-8", *passed, 'chroot "$1"'])


def _pipe(source: list[str], target: list[str], log: Callable[[str], None]) -> None:
    """Run source | target. Raises LxdError with the last lines of either that failed."""
    output: list[str] = []
    # Not what `make` sets for this project: packages would put what they compile of Python into a folder of the host.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    environment["PATH"] = _path()
    with tempfile.TemporaryFile() as target_log:
        producer = subprocess.Popen(
            source, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        consumer = subprocess.Popen(
            target, env=environment, stdin=producer.stdout, stdout=target_log, stderr=subprocess.STDOUT
        )
        # Both are pipes; the types cannot know. The consumer alone shall hold the one.
        assert producer.stdout is not None  # noqa: S101
        assert producer.stderr is not None  # noqa: S101
        producer.stdout.close()
        with io.TextIOWrapper(producer.stderr, errors="replace") as lines:
            for line in lines:
                output.append(line.rstrip())
                if line.startswith(_STAGES):
                    log(line[3:].strip())
        codes = {source[0]: producer.wait(), target[0]: consumer.wait()}
        target_log.seek(0)
        output += target_log.read().decode(errors="replace").splitlines()
    if any(codes.values()):
        failed = " and ".join(f"{name} ({code})" for name, code in codes.items() if code)
        remedy = "Machines need a Debian mirror; is it reachable?"
        if any("NO_PUBKEY" in line for line in output):
            remedy = "This host lacks Debian's keys; `apt-get install debian-archive-keyring` brings them."
        raise LxdError(
            f"building the machine image failed in {failed}. {remedy} The last lines:\n" + "\n".join(output[-15:])
        )


def _write_metadata(path: Path, recipe: ImageRecipe, digest: str) -> None:
    """Write what LXD must know of an image. JSON is YAML."""
    content = json.dumps(
        {
            "architecture": platform.machine(),
            "creation_date": int(time.time()),
            "properties": {"os": "Debian", "release": recipe.suite, "description": f"wsgi-fleet {digest}"},
        }
    ).encode()
    with tarfile.open(path, "w") as archive:
        member = tarfile.TarInfo("metadata.yaml")
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))


def _prune() -> None:
    """Remove what killed builds left and all but the newest images."""
    for left in cache().glob(".building-*"):
        shutil.rmtree(left, ignore_errors=True)
    images = sorted((path for path in cache().iterdir() if path.is_dir()), key=lambda path: path.stat().st_mtime)
    for old in images[: -KEEP_IMAGES + 1]:
        shutil.rmtree(old, ignore_errors=True)
