"""`./fleet monitoring`: what to add to one's own Prometheus and Grafana."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from commands.maintenance import from_user
from commands.stack import outputs
from commands.target import BALANCER, CommandError, StackOption, selected_stack
from rendering.dashboard import dashboard
from rendering.prometheus import ScrapedMachine, alert_rules, scrape_config


def scraped_machines(stack: str, fleet: dict[str, Any]) -> list[ScrapedMachine]:
    """Return the machines of a stack that export metrics, those that groups have now too. Raises CommandError."""
    metrics = fleet.get("metrics")
    if metrics is None:
        raise CommandError(
            f"stack {stack} exports no metrics; set wsgi-fleet:monitoring.enabled, and run `pulumi up -s {stack}`",
            code=2,
        )
    servers = [each for app in fleet["apps"].values() for each in app["servers"]]
    machines = [ScrapedMachine(each["name"], each["address"]) for each in servers]
    if "balancer" in metrics:
        machines.append(ScrapedMachine(BALANCER, metrics["balancer"], metrics["has_nginx"]))
    return machines


def monitoring(
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", metavar="FOLDER", help="Where the files go; those of the same names are replaced."
        ),
    ],
    stack: StackOption = None,
) -> None:
    """Write files for your own Prometheus and Grafana.

    scrape.yml names the machines: write it again when servers come or go. alerts.yml and dashboard.json are the same
    for every stack.
    """
    chosen = selected_stack(stack)
    machines = scraped_machines(chosen, outputs(chosen))
    folder = from_user(output)
    files = {
        "scrape.yml": scrape_config(chosen, machines),
        "alerts.yml": alert_rules(),
        "dashboard.json": json.dumps(dashboard(), indent=2) + "\n",
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            # At once, for Prometheus may read it now.
            new = folder / f".{name}.new"
            new.write_text(text)
            new.replace(folder / name)
    except OSError as error:
        raise CommandError(f"{folder}: {error.strerror}; name another folder with --output", code=2) from error
    typer.echo(f"{len(machines)} machines are in {folder / 'scrape.yml'}; docs/monitoring.md says where each file goes")
