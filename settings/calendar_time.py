"""Check a time as systemd writes it (systemd.time(7)), on machines without systemd too."""

from __future__ import annotations

import difflib
import functools
import json
import re
import zoneinfo

WORDS = (
    "minutely", "hourly", "daily", "weekly", "monthly", "quarterly", "yearly", "annually", "anually",
    "semi-annually", "semiannually", "bi-annually", "biannually",
)  # fmt: skip
DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
DAY = r"(?:mon(?:day)?|tue(?:sday)?|wed(?:nesday)?|thu(?:rsday)?|fri(?:day)?|sat(?:urday)?|sun(?:day)?)"
WEEKDAYS = re.compile(rf"({DAY}(?:(?:\.\.|-){DAY})?(?:,{DAY}(?:(?:\.\.|-){DAY})?)*),?(?: +|$)", re.IGNORECASE)
ITEM = r"(\d+)(?:\.\.(\d+))?(?:/(\d+))?"
SECOND = ITEM.replace(r"\d+", r"\d+(?:\.\d+)?")
NUMBERS, SECONDS = (rf"(?:\*|{item}(?:,{item})*)".replace("(\\", "(?:\\") for item in (ITEM, SECOND))
REST = re.compile(
    rf"(?:(?:(?P<year>{NUMBERS})-)?(?P<month>{NUMBERS})(?P<before_end>[-~])(?P<day>{NUMBERS})(?: +|$))?"
    rf"(?:(?P<hour>{NUMBERS}):(?P<minute>{NUMBERS})(?::(?P<second>{SECONDS}))?)?",
    re.ASCII,
)
# calendar_spec_valid() of systemd's src/shared/calendarspec.c.
BOUNDS = {"year": (1970, 2199), "month": (1, 12), "day": (1, 31), "hour": (0, 23), "minute": (0, 59), "second": (0, 60)}
# Days that each month has: those that `~` counts from its end.
SHORTEST_MONTH = 28
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
REMEDY = 'write one such as "hourly", "Mon..Fri 06:30" or "*-*-1 04:00 Europe/Berlin"; see `man systemd.time`'


def check(text: str) -> str:
    """Return a time that systemd accepts, as it is. Raises ValueError with the time, what is wrong and what to do."""
    words, _, zone = text.rpartition(" ")
    has_zone = _is_zone(zone)
    if words and not has_zone and zone in _every_zone():
        raise ValueError(
            f"{json.dumps(text)}: {zone} is an old name, which servers do not know; name region and city, such as "
            "America/New_York or Asia/Kolkata"
        )
    time = words if has_zone else text
    if time.lower() in WORDS:
        return text
    days = WEEKDAYS.match(time)
    rest = time[days.end() :] if days else time
    found = REST.fullmatch(rest) if time else None
    if not found or not (days or rest):
        if words and re.fullmatch(r"[A-Za-z]\S*[A-Za-z]", zone) and not has_zone:
            near = difflib.get_close_matches(zone, _zones(), n=1)
            remedy = f"did you mean {near[0]}?" if near else "name one such as Europe/Berlin, or none for UTC"
            raise ValueError(f"{json.dumps(text)}: {zone} is no time zone; {remedy}")
        raise ValueError(f"{json.dumps(text)}: is no time as systemd writes it; {REMEDY}")
    for each in days[1].lower().split(",") if days else ():
        first, *last = [DAYS.index(name[:3]) for name in re.split(r"\.\.|-", each)]
        if last and last[0] < first:
            raise ValueError(f"{json.dumps(text)}: {each} ends before it begins; name its days with commas")
    for unit, (least, most) in BOUNDS.items():
        for item in re.finditer(SECOND, found[unit] or "", re.ASCII):
            from_end = unit == "day" and found["before_end"] == "~"
            if not _is_possible(unit, item, least, SHORTEST_MONTH if from_end else most, from_end=from_end):
                most_text = "below 60" if unit == "second" else f"{least} to {SHORTEST_MONTH if from_end else most}"
                raise ValueError(f"{json.dumps(text)}: {unit} {item[0]} never comes; write {most_text}, in order")
    return text


@functools.cache
def _every_zone() -> frozenset[str]:
    """Return the time zones that this machine knows. Kept, because Python opens some 600 files for them (67 ms)."""
    return frozenset(zoneinfo.available_timezones())


@functools.cache
def _zones() -> frozenset[str]:
    """Return those that servers know as well."""
    return frozenset(zone for zone in _every_zone() - OLD_ZONES if zone.partition("/")[0] in REGIONS)


def _is_zone(name: str) -> bool:
    """Return whether systemd knows a time zone. Where this machine has no list of them, whether it may be one."""
    if zones := _zones():
        return name in zones or name.upper() == "UTC"
    return re.fullmatch(r"(?i:utc)|[A-Z]\w*(/[\w+-]+)+", name) is not None


def _is_possible(unit: str, item: re.Match[str], least: int, most: int, *, from_end: bool) -> bool:
    """Return whether START..STOP/REPEAT is within bounds, as normalize_chain() and chain_valid() of systemd do."""
    scale = 1_000_000 if unit == "second" else 1
    start = round(float(item[1]) * scale)
    stop = round(float(item[2]) * scale) if item[2] else None
    repeat = round(float(item[3]) * scale) if item[3] else None
    low, high = least * scale, most * scale - (unit == "second")
    if repeat == 0 or (unit == "second" and stop is not None and repeat is None and start + scale > stop):
        return False
    if unit == "year":
        start, stop = _full_year(start), stop if stop is None else _full_year(stop)
    repeat = repeat or (scale if stop is not None else 0)
    if stop is not None and stop > start:
        stop -= (stop - start) % repeat
    if stop == start:
        stop, repeat = None, 0
    if not low <= start <= high or repeat > high - low:
        return False
    if stop is not None:
        return low <= stop <= high and start + repeat <= stop
    return start - repeat >= low if from_end else start + repeat <= high


def _full_year(year: int) -> int:
    return year + (2000 if year < 70 else 1900 if year < 100 else 0)
