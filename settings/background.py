"""The settings of programs that run beside an application."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from settings import calendar_time
from settings.constraint import Command, matching
from settings.model import Model


class Worker(Model):
    """A program that runs beside the application, with its release, environment and user, and is kept running."""

    command: Command = Field(description="shell command")
    count: int = Field(default=1, ge=1, le=64, description="how many run on each server")
    servers: Literal["all", "first"] = Field(default="all", description="on which servers")


class Schedule(Model):
    """A command that runs at set times, with the release that serves then, on the first server alone."""

    command: Command = Field(description="shell command")
    calendar: Annotated[
        str,
        matching(
            r"^[A-Za-z0-9 *:/,.~_+-]{1,100}$",
            f"a time as systemd writes it; {calendar_time.REMEDY}",
        ),
        AfterValidator(calendar_time.check_calendar),
    ] = Field(
        description='when, as systemd writes it (man systemd.time): "hourly", "Mon..Fri 06:30"; in UTC, or with a time '
        'zone behind it: "03:00 Europe/Berlin"'
    )
