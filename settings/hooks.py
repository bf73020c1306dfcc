"""Settings of what runs on the operator's machine around a release."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, model_validator

from settings.constraint import Command
from settings.model import Model, reject

# As Go reads URLs, too (Alertmanager): a program that refuses one logs it, and it is a secret.
_URL = re.compile(
    r"https?://(([\w.~!$&'()*+,;=:-]|%[0-9A-Fa-f]{2})*@)?([\w.-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]+)?"
    r"([/?#]([!-$&-~]|%[0-9A-Fa-f]{2})*)?",
    re.ASCII,
)


def check_url(value: SecretStr) -> SecretStr:
    """Return the URL of a webhook. Raises ValueError without showing it."""
    text = value.get_secret_value()
    try:
        url = urlsplit(text)
        is_url = bool(_URL.fullmatch(text)) and bool(url.hostname) and (url.port is None or url.port > 0)
    except ValueError:
        is_url = False
    if not is_url:
        # Do not show the value: anyone who has it can post.
        raise ValueError("(secret): should be a URL, such as https://hooks.slack.com/services/...; copy it again")
    return value


class Hook(Model):
    """A command, a webhook, or both."""

    command: Command | None = Field(
        default=None,
        description="shell command on the machine that runs `pulumi up` or `./fleet rollback`, in the folder of the "
        "project; gets the JSON of the event on its standard input",
    )
    webhook: Annotated[SecretStr, AfterValidator(check_url)] | None = Field(
        default=None,
        description="URL to which the JSON of the event is posted; a secret, because anyone who has it can post",
    )
    format: Literal["json", "slack"] = Field(
        default="json", description="what the webhook gets: all of the event, or one line of text as Slack expects it"
    )
    timeout_s: int = Field(default=60, ge=1, le=3600, description="longest time for either")

    @model_validator(mode="after")
    def _check_any(self) -> Hook:
        if self.command is None and self.webhook is None:
            reject("command: null: should be set, or webhook; set one, or remove the hook")
        if self.format != "json" and self.webhook is None:
            reject(f"format: {self.format}: is the format of a webhook; set webhook, or remove this")
        return self


class Hooks(Model):
    """What runs before a release, after one, after one that failed, and after a rollback."""

    before_release: Hook | None = Field(
        default=None, description="before anything is changed; if it fails, the release stops and nothing is changed"
    )
    after_release: Hook | None = Field(default=None, description="once a release serves on every server")
    failed: Hook | None = Field(default=None, description="after a release or a rollback that failed")
    rolled_back: Hook | None = Field(default=None, description="after a rollback")

    @property
    def spec(self) -> dict[str, dict[str, Any]]:
        """Return hook -> its settings, for releases.hooks.Hooks, with the secret."""
        return {
            name: hook.model_dump(exclude={"webhook"}, exclude_none=True)
            | ({"webhook": hook.webhook.get_secret_value()} if hook.webhook else {})
            for name in type(self).model_fields
            if (hook := getattr(self, name))
        }
