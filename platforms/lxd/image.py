"""The image in LXD: imported from its files, shared by stacks, removed with the last of them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from platforms.lxd import build, label
from platforms.lxd.client import Client, LxdError, NotFound, url
from platforms.lxd.recipe import ImageRecipe

IMPORT_TIMEOUT_S = 300.0
_BOUNDARY = "wsgi-fleet-4f1c2b9d7a6e"
_CHUNK_BYTES = 1 << 20


def alias(digest: str) -> str:
    """Return the name of a recipe's image in LXD."""
    return f"wsgi-fleet-{digest}"


def ensure(client: Client, owner: str, recipe: ImageRecipe, digest: str, log: Callable[[str], None]) -> str:
    """Build and import the image as far as it is not in LXD, and add the owner to its owners.

    Returns its alias. Raises LxdError.
    """
    with build.lock_images():
        fingerprint = _target(client, alias(digest))
        if fingerprint is None:
            fingerprint = _import(client, build.ensure(recipe, digest, log))
            fingerprint = _name(client, alias(digest), fingerprint)

        def add(image: dict[str, Any]) -> bool:
            return _set_owners(image, owners(image) | {owner})

        client.edit(url("images", fingerprint), add)
    return alias(digest)


def _name(client: Client, name: str, fingerprint: str) -> str:
    """Give an image its alias. Return the fingerprint of the image that has it now.

    A user with another home folder, and so another lock, may have imported an equal image meanwhile. Then that is used.
    """
    try:
        client.request("POST", url("images", "aliases"), {"name": name, "target": fingerprint})
    except LxdError:
        earlier = _target(client, name)
        if earlier is None:
            raise
        if earlier != fingerprint:
            client.request("DELETE", url("images", fingerprint))
        return earlier
    return fingerprint


def release(client: Client, name: str, owner: str) -> None:
    """Remove the owner from the image with that alias; without an owner it is deleted. The built files stay."""
    with build.lock_images():
        fingerprint = _target(client, name)
        if fingerprint is None:
            return
        left: set[str] = set()

        def drop(image: dict[str, Any]) -> bool:
            left.clear()
            left.update(owners(image) - {owner})
            return _set_owners(image, owners(image) - {owner})

        try:
            client.edit(url("images", fingerprint), drop)
            if not left:
                client.request("DELETE", url("images", fingerprint))
        except NotFound:
            return


def is_owned(client: Client, name: str, owner: str) -> bool:
    """Return whether LXD has the image and counts the owner among its owners."""
    fingerprint = _target(client, name)
    return fingerprint is not None and owner in owners(client.get(url("images", fingerprint)))


def owners(image: dict[str, Any]) -> set[str]:
    """Return the owners of an image as LXD describes it."""
    properties: dict[str, str] = image.get("properties") or {}
    text = properties.get(label.OWNERS, "")
    return {owner for owner in text.split(",") if owner}


def _set_owners(image: dict[str, Any], to: set[str]) -> bool:
    text = ",".join(sorted(to))
    properties: dict[str, str] = image.get("properties") or {}
    image["properties"] = {**properties, label.OWNERS: text}
    return properties.get(label.OWNERS, "") != text


def _target(client: Client, name: str) -> str | None:
    """Return the fingerprint of an alias, None if there is none."""
    try:
        return str(client.get(url("images", "aliases", name))["target"])
    except NotFound:
        return None


def _exists(client: Client, fingerprint: str) -> bool:
    try:
        client.get(url("images", fingerprint))
    except NotFound:
        return False
    return True


def _import(client: Client, folder: Path) -> str:
    """Import a folder's files into LXD, unless a killed run did so; return the fingerprint."""
    fingerprint = _fingerprint(folder)
    if not _exists(client, fingerprint):
        parts = [("metadata", folder / build.METADATA), ("rootfs", folder / build.ROOT)]
        heads = [_part_head(name, path) for name, path in parts]
        tail = f"\r\n--{_BOUNDARY}--\r\n".encode()
        length = sum(map(len, heads)) + sum(path.stat().st_size for _, path in parts) + len(tail)

        def content() -> Iterator[bytes]:
            for head, (_, path) in zip(heads, parts, strict=True):
                yield head
                with path.open("rb") as file:
                    while chunk := file.read(_CHUNK_BYTES):
                        yield chunk
            yield tail

        headers = {
            "Content-Type": f"multipart/form-data; boundary={_BOUNDARY}",
            "Content-Length": str(length),
            "X-LXD-filename": build.ROOT,
            "X-LXD-public": "0",
        }
        try:
            imported = client.request("POST", url("images"), content(), headers=headers, timeout_s=IMPORT_TIMEOUT_S)
        except LxdError as error:
            if _exists(client, fingerprint):
                return fingerprint
            raise LxdError(
                f"importing the machine image failed: {error}. If {folder} is damaged, remove it; "
                "the next run builds it again."
            ) from error
        fingerprint = str(imported.get("fingerprint", fingerprint))
    return fingerprint


def _part_head(name: str, path: Path) -> bytes:
    return (
        f"\r\n--{_BOUNDARY}\r\n"
        f'Content-Disposition: form-data; name="{name}"; filename="{path.name}"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n"
    ).encode()


def _fingerprint(folder: Path) -> str:
    """Return how LXD will name the image: the SHA-256 of its files one after the other."""
    digest = hashlib.sha256()
    for name in (build.METADATA, build.ROOT):
        with (folder / name).open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
    return digest.hexdigest()
