"""Names of time zones: those of the IANA database that servers and services of AWS know as well as this machine."""

from __future__ import annotations

import difflib
import functools
import json
import re
import zoneinfo
from typing import Annotated

from pydantic import AfterValidator

UTC = "UTC"
# Zones are named by region and city. Debian 13 has all others, and these old names, in a package that servers lack
# (tzdata-legacy 2025b).
REGIONS = frozenset(
    {"Africa", "America", "Antarctica", "Arctic", "Asia", "Atlantic", "Australia", "Etc", "Europe", "Indian", "Pacific"}
)
OLD_ZONES = frozenset(
    [
        "Africa/Asmera", "America/Argentina/ComodRivadavia", "America/Buenos_Aires", "America/Catamarca",
        "America/Cordoba", "America/Fort_Wayne", "America/Godthab", "America/Indianapolis", "America/Jujuy",
        "America/Knox_IN", "America/Louisville", "America/Mendoza", "America/Rosario", "Antarctica/South_Pole",
        "Asia/Ashkhabad", "Asia/Calcutta", "Asia/Choibalsan", "Asia/Chungking", "Asia/Dacca", "Asia/Katmandu",
        "Asia/Macao", "Asia/Rangoon", "Asia/Saigon", "Asia/Thimbu", "Asia/Ujung_Pandang", "Asia/Ulan_Bator",
        "Atlantic/Faeroe", "Australia/ACT", "Australia/LHI", "Australia/NSW", "Australia/North",
        "Australia/Queensland", "Australia/South", "Australia/Tasmania", "Australia/Victoria", "Australia/West",
        "Europe/Kiev", "Europe/Uzhgorod", "Europe/Zaporozhye", "Pacific/Enderbury", "Pacific/Ponape", "Pacific/Truk",
    ]
)  # fmt: skip


def check_time_zone(name: str) -> str:
    """Return the name of a time zone unchanged. Raises ValueError with the name, the mistake and the remedy."""
    if not is_zone(name):
        raise ValueError(f"{json.dumps(name)}: {problem_of(name)}")
    return name


def is_old(name: str) -> bool:
    """Return whether this machine knows a time zone that servers may not know."""
    return not is_zone(name) and name in _every_zone()


def problem_of(name: str) -> str:
    """Return what is wrong with the name of a time zone that is none, and what to do."""
    if is_old(name):
        return (
            "is an old name, which newer systems do not know; name region and city, such as America/New_York or "
            "Asia/Kolkata"
        )
    near = difflib.get_close_matches(name, _zones(), n=1)
    remedy = f"did you mean {near[0]}?" if near else "name one such as Europe/Berlin, or UTC"
    return f"is no time zone; {remedy}"


@functools.cache
def _every_zone() -> frozenset[str]:
    """Return the time zones that this machine knows. Kept, because Python opens some 600 files for them (67 ms)."""
    return frozenset(zoneinfo.available_timezones())


@functools.cache
def _zones() -> frozenset[str]:
    """Return those that servers know as well."""
    return frozenset(zone for zone in _every_zone() - OLD_ZONES if zone.partition("/")[0] in REGIONS)


def is_zone(name: str) -> bool:
    """Return whether servers know a time zone. Where this machine has no list of them, whether it may be one."""
    if zones := _zones():
        return name in zones or name.upper() == UTC
    return re.fullmatch(r"(?i:utc)|[A-Z]\w*(/[\w+-]+)+", name) is not None


TimeZone = Annotated[str, AfterValidator(check_time_zone)]
