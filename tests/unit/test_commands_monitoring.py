"""`./fleet monitoring`: files that Prometheus and Grafana read, of the machines that there are now."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from commands import monitoring
from commands.__main__ import app
from commands.monitoring import scraped_machines
from commands.target import CommandError
from harness.program import plan

SERVERS = {"hello-1": "10.0.0.1", "api-i-0abc": "10.0.0.2"}
APPS = {
    name.partition("-")[0]: {"servers": [{"name": name, "target": "m", "address": address}]}
    for name, address in SERVERS.items()
}
FLEET: dict[str, Any] = {"apps": APPS, "metrics": {"balancer": "10.0.1.1", "has_nginx": True}}


def use_stack(monkeypatch: pytest.MonkeyPatch, fleet: dict[str, Any]) -> None:
    def found(_: object) -> dict[str, Any]:
        return fleet

    monkeypatch.setattr(monitoring, "outputs", found)


def test_the_files_name_every_machine_of_the_stack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_stack(monkeypatch, FLEET)
    folder = tmp_path / "new" / "files"
    for _ in range(2):
        result = CliRunner().invoke(app, ["monitoring", "-s", "prod", "--output", str(folder)])
        assert result.exit_code == 0, result.output
        assert "3 machines" in result.output
    assert {each.name for each in folder.iterdir()} == {"scrape.yml", "alerts.yml", "dashboard.json"}
    jobs = yaml.safe_load((folder / "scrape.yml").read_text())["scrape_configs"]
    targets = [[each["targets"][0] for each in job["static_configs"]] for job in jobs]
    assert targets == [["10.0.0.1:9100", "10.0.0.2:9100", "10.0.1.1:9100"], ["10.0.1.1:9113"]]
    assert json.loads((folder / "dashboard.json").read_text())["title"] == "wsgi-fleet"


def test_behind_a_load_balancer_only_app_servers_export_metrics() -> None:
    found = scraped_machines("prod", {"apps": APPS, "metrics": {}})
    assert [each.name for each in found] == ["hello-1", "api-i-0abc"]


def test_a_stack_without_metrics_and_a_folder_that_cannot_be_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(CommandError, match=r"^stack prod exports no metrics; set wsgi-fleet:monitoring.enabled"):
        scraped_machines("prod", {"apps": APPS})
    use_stack(monkeypatch, FLEET)
    (tmp_path / "file").touch()
    result = CliRunner().invoke(app, ["monitoring", "-s", "prod", "--output", str(tmp_path / "file")])
    assert (result.exit_code, "File exists; name another folder" in result.output) == (2, True)


@pytest.mark.parametrize("proxy", ["nginx", "apache"])
def test_the_output_of_the_stack_says_what_exports_metrics(proxy: str) -> None:
    on = {"enabled": True}
    fleet = plan("local", monitoring=on, balancer={"proxy": {"kind": proxy}}).exports["fleet"]
    fleet = getattr(fleet, "value", fleet)
    assert fleet["metrics"] == {"balancer": "10.0.1.1", "has_nginx": proxy == "nginx"}
    without = plan("local").exports["fleet"]
    assert "metrics" not in getattr(without, "value", without)
