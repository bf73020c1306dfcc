"""Times of schedules: what systemd accepts is accepted without it, and nothing else."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from settings import calendar_time
from tests.unit.stack_blocks import of_app

ACCEPTED = [
    "minutely", "Hourly", "daily", "weekly", "monthly", "quarterly", "yearly", "semi-annually", "daily UTC", "Mon",
    "Mon,", "Mon..Fri 06:30", "mon-fri 6:5", "Sat,Sun 12:00:00", "Monday,Wed..FRI *-*-* 8:00", "*-*-* 04:00", "12:30",
    "*:*:*", "*:0/15", "*-*-1,15 00:00", "2027-01-01", "20-1-1", "*-02~03", "*-*~1..7/2", "*-1..3-1 4,5:0..30/10",
    "0:0:0.5", "*:*:1..2.5", "1..1:00", "*-*-* *:*:0..59/10", "1970/4-1-1", "00:00 utc",
    "Mon *-*-* 03:00 America/New_York", "daily Etc/GMT+5", "*-*-31  23:59",
]  # fmt: skip
REJECTED = [
    "", " ", "never", "fortnightly", "Tues", "Mon Fri", "Fri..Mon", "Mon..", "Mon..Tue..Wed", "Mon10:00", "24:00",
    "12:60", "*:*:1..1.5", "0:0:60", "12", "12:", "4:30pm", "*-13-1", "*-0-1", "*-*-32", "*-*~29", "1969-1-1",
    "2200-1-1", "*/2:00", "1,:00", "5..3:00", "0/24:00", "0/0:00", "1.5:00", "2027-01-01T12:00", "*~*-1", "03:00 Mars",
    "03:00 America/NewYork", "03:00 europe/berlin", "UTC", "10:00 ", " 10:00", "* * * * *", "@hourly",
]  # fmt: skip


@pytest.mark.parametrize("text", ACCEPTED + REJECTED)
def test_a_time_is_accepted_if_systemd_accepts_it(text: str) -> None:
    if text in ACCEPTED:
        assert calendar_time.check_calendar(text) == text
    else:
        with pytest.raises(ValueError, match=r"^\".*\": .*[;,] "):
            calendar_time.check_calendar(text)
    if shutil.which("systemd-analyze"):
        done = subprocess.run(["systemd-analyze", "calendar", "--", text], capture_output=True, check=False)
        assert (done.returncode == 0) == (text in ACCEPTED)


OLD = "is an old name, which newer systems do not know; name region and city, such as America/New_York or Asia/Kolkata"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("25:00", "hour 25 never comes; write 0 to 23, in order"),
        ("*-*~29", "day 29 never comes; write 1 to 28, in order"),
        ("Fri..Mon 8:00", "fri..mon ends before it begins; name its days with commas"),
        ("03:00 America/NewYork", "America/NewYork is no time zone; did you mean America/New_York?"),
        ("03:00 US/Eastern", f"US/Eastern {OLD}"),
        ("03:00 Asia/Calcutta", f"Asia/Calcutta {OLD}"),
        ("noon", f"is no time as systemd writes it; {calendar_time.REMEDY}"),
    ],
)
def test_a_wrong_time_is_a_mistake_of_one_line_at_plan_time(text: str, problem: str) -> None:
    schedules = {"tidy": {"command": "true", "calendar": text}}
    assert of_app(schedules=schedules) == [f'schedules.tidy.calendar: "{text}": {problem}']


def test_a_time_zone_is_accepted_by_its_form_on_a_machine_that_knows_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("settings.time_zone._zones", frozenset[str])
    assert calendar_time.check_calendar("03:00 America/New_York")
    with pytest.raises(ValueError, match="is no time"):
        calendar_time.check_calendar("03:00 5pm")
