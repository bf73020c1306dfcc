"""Check a time as systemd writes it (systemd.time(7)), on machines without systemd too."""

from __future__ import annotations

import json
import re

from settings import time_zone

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
REMEDY = 'write one such as "hourly", "Mon..Fri 06:30" or "*-*-1 04:00 Europe/Berlin"; see `man systemd.time`'


def check_calendar(text: str) -> str:
    """Return a time unchanged if systemd accepts it. Raises ValueError with the time, the mistake and the remedy."""
    words, _, zone = text.rpartition(" ")
    has_zone = time_zone.is_zone(zone)
    if words and time_zone.is_old(zone):
        raise ValueError(f"{json.dumps(text)}: {zone} {time_zone.problem_of(zone)}")
    time = words if has_zone else text
    if time.lower() in WORDS:
        return text
    days = WEEKDAYS.match(time)
    rest = time[days.end() :] if days else time
    found = REST.fullmatch(rest) if time else None
    if not found or not (days or rest):
        if words and re.fullmatch(r"[A-Za-z]\S*[A-Za-z]", zone) and not has_zone:
            raise ValueError(f"{json.dumps(text)}: {zone} {time_zone.problem_of(zone)}")
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
