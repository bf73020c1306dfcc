"""What the image of local machines is made from: a small Debian that boots fast in a container."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from settings.operating_system import DEFAULT_OS

CA_BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")
# Raise it when the way an image is built changes and what it is built from does not say so.
REVISION = 3

BASE_PACKAGES = (
    "ca-certificates",
    "cloud-init",
    "curl",
    "dbus",
    "iproute2",
    "netbase",
    "openssh-server",
    "procps",
    "python3",
    "sudo",
    "systemd",
    "systemd-resolved",
    "systemd-sysv",
    "udev",
)

_CLOUD_CONFIG = """\
# Written by wsgi-fleet into its LXD image.
datasource_list: [LXD, None]
# systemd-networkd has the interface already.
network: {config: disabled}
ssh_deletekeys: true
ssh_genkeytypes: [ed25519]
# Debian's lists without what a container has no use for: a tenth of a second each.
cloud_config_modules: [runcmd]
cloud_final_modules: [scripts-user, final-message]
"""

# Reads YAML by libyaml: with the parser in Python, which the program takes, the user data costs a second of CPU.
_CLOUD_INIT = """\
#!/usr/bin/python3
import sys, yaml
yaml.SafeLoader = yaml.CSafeLoader
from cloudinit.cmd.main import main
sys.exit(main())
"""

_NETWORK = """\
[Match]
Name=eth0

[Network]
DHCP=ipv4
LinkLocalAddressing=no
IPv6AcceptRA=no

[DHCPv4]
ClientIdentifier=mac
# cloud-init sets the same name; asking hostnamed for it costs a service at boot.
UseHostname=no
"""

# Without this, udev asks after every device of the host before the network may start.
_UDEV_TRIGGER = """\
[Service]
ExecStart=
ExecStart=udevadm trigger --type=devices --action=add --prioritized-subsystem=net --subsystem-match=net
"""

# A boot after the first finds all done, and the network waits for cloud-init: a second in which nobody is served.
_ONCE = """\
[Unit]
ConditionPathExists=!/var/lib/cloud/data/result.json
"""
# Debian 13 has a process of its own for all of them, and another name for one.
_OF_CLOUD_INIT = (
    "cloud-init-main", "cloud-init-local", "cloud-init-network", "cloud-init", "cloud-config", "cloud-final",
)  # fmt: skip

# Each machine of this image is rehearsal: a crash of the host costs it nothing that is not made anew.
_DPKG = """\
force-unsafe-io
"""

# Units that a container has no use for, or that would take CPU from the fleet while it serves.
_MASKED = (
    "apt-daily-upgrade.timer",
    "apt-daily.timer",
    "console-getty.service",
    "container-getty@.service",
    "dev-hugepages.mount",
    # LXD mounts it; systemd, which mounts it too, fails now and then.
    "dev-mqueue.mount",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "fstrim.timer",
    "getty@tty1.service",
    "ldconfig.service",
    "modprobe@.service",
    "sys-kernel-debug.mount",
    "sys-kernel-tracing.mount",
    "systemd-binfmt.service",
    "systemd-logind.service",
    "systemd-modules-load.service",
    "systemd-network-generator.service",
    "systemd-networkd-persistent-storage.service",
    "systemd-pstore.service",
    "systemd-random-seed.service",
    "systemd-remount-fs.service",
    "systemd-sysctl.service",
    "systemd-udev-load-credentials.service",
    "systemd-udev-settle.service",
    # Debian 13 has /tmp in memory.
    "tmp.mount",
    "unattended-upgrades.service",
)

_CONFIGURE = """\
#!/bin/sh
# What the authorities of the host's bundle add to Debian's becomes local: so it survives updates of ca-certificates.
set -eu
python3 - <<'EOF'
import pathlib, re
def certificates(path):
    found = re.findall(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", pathlib.Path(path).read_text(), re.S)
    return {"".join(text.split()): text for text in found}
own = certificates("/etc/ssl/certs/ca-certificates.crt")
host = certificates("/root/host-ca.crt")
for number, (key, text) in enumerate(sorted(host.items())):
    if key not in own:
        pathlib.Path(f"/usr/local/share/ca-certificates/host-{number}.crt").write_text(text + "\\n")
EOF
update-ca-certificates >/dev/null
rm /root/host-ca.crt
systemctl enable systemd-networkd.service systemd-resolved.service >/dev/null 2>&1
# Listening is all that is needed of it until somebody comes.
systemctl disable ssh.service >/dev/null 2>&1
systemctl enable ssh.socket >/dev/null 2>&1
# They look for disks, consoles, kernel arguments and chips of a computer, at boot and at each reload.
mkdir -p /etc/systemd/system-generators
for name in debug fstab getty gpt-auto hibernate-resume rc-local run ssh system-update tpm2; do
    ln -s /dev/null /etc/systemd/system-generators/systemd-$name-generator
done
# cloud-init would make its default user at boot, which takes a quarter of a second.
useradd --create-home --shell /bin/bash --comment Debian \\
    --groups adm,audio,cdrom,dialout,dip,floppy,plugdev,sudo,video debian
"""

_FINISH = """\
#!/bin/sh
set -eu
rm -f /etc/ssh/ssh_host_*
rm -rf /var/lib/cloud /var/log/cloud-init* /var/cache/apt/*.bin /root/.cache /var/tmp/*
# mmdebstrap keeps in /tmp what points apt into this root; without it, its last `apt-get update` would be the host's.
find /tmp -mindepth 1 -maxdepth 1 ! -name 'mmdebstrap.*' -exec rm -rf {} +
# Empty, not absent: each machine gets an id of its own, and systemd does not take it for a first boot with presets.
: >/etc/machine-id
# What systemd does once after an update of /usr has been done by the packages.
touch /etc/.updated /var/.updated
rm -f /var/lib/dbus/machine-id
ln -sf /run/systemd/resolve/stub-resolv.conf /etc/resolv.conf
"""


@dataclass(frozen=True)
class ImageFile:
    """A file of the image. path: absolute. mode: permission bits."""

    path: str
    content: str
    mode: int = 0o644


@dataclass(frozen=True)
class ImageRecipe:
    """What goes into the image on top of the base, so that machines find it done when they boot.

    suite: of Debian's archive. packages: Debian packages. files: put in after them. scripts: whole scripts, with their
    `#!` line, run in the image as root one after the other, after the files are there; they reach the network, and no
    service runs.
    """

    suite: str = DEFAULT_OS.suite
    packages: tuple[str, ...] = ()
    files: tuple[ImageFile, ...] = ()
    scripts: tuple[str, ...] = ()

    def as_json(self) -> str:
        """Return text that from_json reads back."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> ImageRecipe:
        """Return the recipe that as_json wrote."""
        data: Mapping[str, Any] = json.loads(text)
        return cls(
            suite=data["suite"],
            packages=tuple(data["packages"]),
            files=tuple(ImageFile(**file) for file in data["files"]),
            scripts=tuple(data["scripts"]),
        )

    def all_packages(self) -> list[str]:
        """Return every package to install, sorted."""
        return sorted({*BASE_PACKAGES, *self.packages})

    def base_files(self) -> list[ImageFile]:
        """Return the files that make the base boot fast and find its network."""
        return [
            ImageFile("/etc/cloud/cloud.cfg.d/99-wsgi-fleet.cfg", _CLOUD_CONFIG),
            ImageFile("/etc/cloud/ds-identify.cfg", "policy: enabled\n"),
            ImageFile("/etc/default/locale", "LANG=C.UTF-8\n"),
            ImageFile("/usr/bin/cloud-init", _CLOUD_INIT, 0o755),
            ImageFile("/etc/dpkg/dpkg.cfg.d/wsgi-fleet", _DPKG),
            ImageFile("/etc/pip.conf", f"[global]\ncert = {CA_BUNDLE}\n"),
            ImageFile("/etc/systemd/network/eth0.network", _NETWORK),
            ImageFile("/etc/systemd/system/systemd-udev-trigger.service.d/wsgi-fleet.conf", _UDEV_TRIGGER),
            *(ImageFile(f"/etc/systemd/system/{name}.service.d/wsgi-fleet.conf", _ONCE) for name in _OF_CLOUD_INIT),
        ]

    def all_scripts(self) -> list[str]:
        """Return every script in the order of running."""
        return [_CONFIGURE, *self.scripts, _FINISH]

    def masked_units(self) -> tuple[str, ...]:
        """Return the units that shall not run."""
        return _MASKED

    def digest(self, ca_bundle: Path = CA_BUNDLE) -> str:
        """Return the hash of all that the image is made from, the host's trusted authorities included."""
        parts: list[Any] = [
            REVISION,
            self.suite,
            self.all_packages(),
            [asdict(file) for file in [*self.base_files(), *self.files]],
            self.all_scripts(),
            self.masked_units(),
            hashlib.sha256(ca_bundle.read_bytes()).hexdigest() if ca_bundle.exists() else "",
        ]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
