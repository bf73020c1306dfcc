"""A stand-in of an AWS region, as plugins know it: they find it by a file that FILE names in their environment."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

FILE = "WSGI_FLEET_TEST_REGION"
# The LXD storage that `make setup` makes.
POOL = "wsgi-fleet"


@dataclass(frozen=True)
class Region:
    """What plugins must know. endpoint: of moto.

    owner: label of everything in LXD. image: alias of what machines are made from. metadata_port, services_port: where
    the metadata service and AWS's interfaces for machines listen on loopback. services: host names of the latter.
    authority: certificate of the authority that vouches for them, and for what ACM's certificates stand for. balancers:
    folder of this host that load balancers have their files below.
    """

    name: str
    endpoint: str
    owner: str
    image: str
    metadata_port: int
    services_port: int
    services: list[str]
    authority: str
    balancers: str

    @classmethod
    def load(cls) -> Region:
        """Return the region of this process's environment."""
        return cls(**json.loads(Path(os.environ[FILE]).read_text()))

    def save(self, file: Path) -> None:
        """Write it where load() will look."""
        file.write_text(json.dumps(asdict(self)))

    def baked(self, name: str) -> str:
        """Return the alias that an image of EC2 has in LXD which was made of an instance."""
        return f"{self.owner}-{name}"

    def environment(self) -> dict[str, str]:
        """Return the environment of AWS tools: they ask moto and no other, whatever a user has set."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": "stand-in",
            "AWS_SECRET_ACCESS_KEY": "stand-in",
            "AWS_DEFAULT_REGION": self.name,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": "/dev/null",
            "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
        }
