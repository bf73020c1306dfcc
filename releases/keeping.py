"""Releases that are kept: a new one goes into the store, and old ones leave it and the servers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from platforms.transport import SecretStore, Store
from releases.fleet import Fleet, Server
from releases.journal import completed_releases
from releases.release import Release, has_archive
from releases.static import StaticFiles
from releases.wheels import Wheels


def publish(store: Store, release: Release, kept: SecretStore | None, secrets: Mapping[str, str]) -> None:
    """Put a release into the store. kept: where its servers find its secrets when they boot, if there is a place."""
    prefix = f"releases/{release.id}"
    # The manifest last: where it is, the archive is whole.
    is_there = store.read(f"{prefix}/manifest.json") == release.manifest
    if not (is_there and has_archive(store, release.manifest, f"{prefix}/code.tar.gz")):
        with release.archive.open("rb") as archive:
            store.write(f"{prefix}/code.tar.gz", archive)
        store.write(f"{prefix}/manifest.json", release.manifest)
    if kept and secrets:
        kept.write(release.id, secrets)


def prune(
    store: Store,
    release: str,
    number: int,
    *,
    fleet: Fleet,
    servers: Sequence[Server],
    kept: SecretStore | None,
    wheels: Wheels,
    static: StaticFiles,
) -> None:
    """Keep the newest releases, there and in the store. A server that cannot prune is no failed release.

    release: the one that serves; number: how many, with it.
    """
    earlier = [each for each in completed_releases(store) if each != release]
    keep = [release, *earlier[: number - 1]]
    try:
        for key in store.keys("releases/"):
            if key.split("/")[1] not in keep:
                store.delete(key)
        wheels.prune(keep)
        if kept:
            for each in set(kept.releases()) - set(keep):
                kept.delete(each)
        fleet.on_all(servers, lambda server: fleet.run(server, "prune", ["prune", *keep], timeout_s=60))
        static.prune(keep)
    except Exception as error:  # noqa: BLE001  whatever a store or a transport raises
        fleet.log(f"old releases stay for now: {error}")
