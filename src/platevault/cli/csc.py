"""``platevault csc``: list, command and watch components."""

from __future__ import annotations

import asyncio
import json
import math
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from platevault.cli.options import ConfigOption, RootOption, settings_from
from platevault.cli.outcomes import ExitCode
from platevault.compose.remotes import Deployment, running_deployment
from platevault.compose.settings import Settings
from platevault.domain.errors import UsageError
from platevault.domain.lifecycles import SummaryState
from platevault.domain.samples import FieldSchema, Sample
from platevault.domain.timescales import isot, utc_from_tai
from platevault.ports.sample_bus import History
from platevault.sal.acks import CommandFailedError, CommandTimeoutError

app = typer.Typer(
    rich_markup_mode=None,
    help="Command and watch the components of a running deployment.",
    no_args_is_help=True,
)

#: Events that `watch` leaves out unless asked: one a second says nothing.
_TIRING = frozenset({"heartbeat"})
#: Roles of components that a deployment of ours has.
_OURS = ("Archiver", "HeaderService", "OODS", "Camera")


class BadArgumentError(UsageError):
    """A command argument cannot be read: mend it."""


@app.command("list")
def list_components(root: RootOption = None, config: ConfigOption = None) -> None:
    """List components that are on the bus, with their states."""
    states = asyncio.run(_states(settings_from(root, config)))
    table = Table("component", "state", "error", "version")
    for name, state, error, version in states:
        # Text: what is in brackets is no markup.
        table.add_row(name, state, Text(error), version)
    Console().print(table)


@app.command("command")
def send_command(
    component: Annotated[str, typer.Argument(help="such as CCArchiver, or GCHeaderService:1")],
    command: Annotated[
        str,
        typer.Argument(help="start, enable, disable, standby, exitControl, setLogLevel ..."),
    ],
    fields: Annotated[
        list[str] | None, typer.Argument(help="fields of the command, as name=value")
    ] = None,
    timeout_s: Annotated[float, typer.Option("--timeout", help="longest wait [s]")] = 60.0,
    root: RootOption = None,
    config: ConfigOption = None,
) -> None:
    """Send a command and wait for its reply; the exit status is 1 if it was refused."""
    settings = settings_from(root, config)
    try:
        result = asyncio.run(_send(settings, component, command, fields or [], timeout_s))
    except (CommandFailedError, CommandTimeoutError) as error:
        typer.echo(f"{component} {command}: {error.ack.code.name} {error.ack.result}", err=True)
        raise typer.Exit(ExitCode.FAILED) from error
    typer.echo(f"{component} {command}: {result}")


@app.command("watch")
def watch(
    component: Annotated[str, typer.Argument(help="such as CCArchiver")],
    heartbeats: Annotated[bool, typer.Option("--heartbeats", help="signs of life too")] = False,
    count: Annotated[int, typer.Option(help="end after so many samples; 0 is never")] = 0,
    root: RootOption = None,
    config: ConfigOption = None,
) -> None:
    """Print the events of a component as they come, beginning with the newest of each."""
    asyncio.run(_watch(settings_from(root, config), component, heartbeats=heartbeats, count=count))


async def _states(settings: Settings) -> list[tuple[str, str, str, str]]:
    found = []
    async with running_deployment(settings) as deployment:
        for name in deployment.interfaces:
            if not name.endswith(_OURS):
                continue
            topics = [
                deployment.interfaces.topic(name, f"logevent_{event}")
                for event in ("summaryState", "errorCode", "softwareVersions")
            ]
            latest = await _latest(deployment, topics)
            by_instance: dict[int, dict[str, Sample]] = {}
            for sample in latest:
                by_instance.setdefault(sample.sal_index, {})[sample.topic.name] = sample
            for index, events in sorted(by_instance.items()):
                if "summaryState" not in events:
                    continue
                state = SummaryState(events["summaryState"].fields["summaryState"]).name
                error = events.get("errorCode")
                versions = events.get("softwareVersions")
                found.append(
                    (
                        f"{name}:{index}" if index else name,
                        state,
                        _error_text(error),
                        "" if versions is None else str(versions.fields["cscVersion"]),
                    )
                )
    return found


async def _latest(deployment: Deployment, topics: list[Any]) -> list[Sample]:
    found = []
    async with deployment.bus.subscribe(topics, history=History.LATEST) as samples:
        try:
            while True:
                async with asyncio.timeout(0.2):
                    found.append(await anext(samples))
        except TimeoutError:
            return found


def _error_text(sample: Sample | None) -> str:
    if sample is None or not sample.fields["errorCode"]:
        return ""
    return f"{sample.fields['errorCode']} {sample.fields['errorReport']}"


async def _send(
    settings: Settings, component: str, command: str, arguments: list[str], timeout_s: float
) -> str:
    name, index = _instance(component)
    async with running_deployment(settings) as deployment:
        topic = deployment.interfaces.component(name).command(command)
        fields = dict(_field(argument, topic.fields) for argument in arguments)
        async with deployment.remote(name, index) as remote:
            ack = await remote.command(command, timeout_s=timeout_s, **fields)
            return ack.result or "done"


async def _watch(settings: Settings, component: str, *, heartbeats: bool, count: int) -> None:
    name, index = _instance(component)
    async with running_deployment(settings) as deployment:
        topics = [
            topic
            for topic in deployment.interfaces.component(name).events
            if heartbeats or topic.name not in _TIRING
        ]
        seen = 0
        async with deployment.bus.subscribe(
            topics, history=History.LATEST, sal_index=index
        ) as samples:
            async for sample in samples:
                typer.echo(_line(sample))
                seen += 1
                if seen == count:
                    return


def _line(sample: Sample) -> str:
    shown = {
        name: value
        for name, value in sample.fields.items()
        if value not in ("", [], None) and not (isinstance(value, float) and math.isnan(value))
    }
    when = isot(utc_from_tai(sample.sent_tai))
    return f"{when} {sample.identity} {sample.topic.name} {json.dumps(shown)[:400]}"


def _instance(component: str) -> tuple[str, int]:
    name, _, index = component.partition(":")
    if index and not index.isdigit():
        raise BadArgumentError(
            "Component index is no number", value=component, expected="Name or Name:index"
        )
    return name, int(index or 0)


def _field(argument: str, fields: tuple[FieldSchema, ...]) -> tuple[str, Any]:
    name, equals, text = argument.partition("=")
    schema = next((field for field in fields if field.name == name), None)
    if not equals or schema is None:
        raise BadArgumentError(
            "Command has no such field",
            value=argument,
            expected=" ".join(f"{field.name}=..." for field in fields) or "no fields",
        )
    if schema.sal_type == "string":
        return name, text
    try:
        return name, json.loads(text)
    except ValueError as error:
        raise BadArgumentError(
            "Field cannot be read", value=argument, expected=schema.sal_type
        ) from error
