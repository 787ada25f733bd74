"""``platevault queue``: messages that were set aside."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from platevault.cli.options import ConfigOption, JsonOption, RootOption, settings_from
from platevault.cli.outcomes import ExitCode
from platevault.compose.dead_letters import (
    dismiss_letters,
    list_letters,
    redrive_every_letter,
    redrive_letters,
)
from platevault.domain.errors import PlatevaultError, UsageError
from platevault.domain.timescales import isot, utc_from_tai
from platevault.ports.work_queue import DeadLetter
from platevault.runtime.observe import configure_logging

app = typer.Typer(
    rich_markup_mode=None,
    help="Deal with messages that were set aside (dead letters).",
    no_args_is_help=True,
)

#: Characters of a body that are shown; the whole is in JSON.
_BODY_SHOWN = 120

QueueOption = Annotated[
    str, typer.Option("--queue", metavar="NAME", help="only those of this queue, as oods.LATISS")
]
_LETTER_IDS = typer.Argument(metavar="LETTER_ID", help="letters, as `queue list` names them")


class WrongLettersError(UsageError):
    """Which letters are meant is not said, or said twice: nothing was done."""


@app.command("list")
def list_command(
    queue: QueueOption = "",
    config: ConfigOption = None,
    root: RootOption = None,
    as_json: JsonOption = False,
) -> None:
    """List messages that were set aside, with the reason; the exit status is 1 if there are any.

    With RabbitMQ the account must be let to the dead letters: that of the archive-controller is.
    """
    # An outage is told by the error; what was tried meanwhile is of no use here.
    configure_logging(json=False, level="ERROR")
    found = asyncio.run(list_letters(settings_from(root, config), queue=queue))
    if as_json:
        typer.echo(json.dumps([_whole(letter) for letter in found], indent=2))
    elif found:
        _show(found, Console())
    else:
        where = f" from {queue}" if queue else ""
        typer.echo(f"platevault: Nothing is set aside{where}", err=True)
    if found:
        raise typer.Exit(ExitCode.FAILED)


@app.command("redrive")
def redrive_command(
    letter_ids: Annotated[list[str] | None, _LETTER_IDS] = None,
    every: Annotated[bool, typer.Option("--all", help="every letter there is now")] = False,
    queue: QueueOption = "",
    config: ConfigOption = None,
    root: RootOption = None,
) -> None:
    """Put messages back on their queues, as if they had never been delivered.

    Mend first what the reason says: else they are set aside again, under another name. The exit
    status is 1 if one of them is gone or cannot be put back; the others are.
    """
    named = letter_ids or []
    if every == bool(named):
        raise WrongLettersError("Name letters, or say --all", letters=named, expected="one of both")
    if queue and not every:
        raise WrongLettersError("A queue goes with --all", queue=queue, letters=named)
    configure_logging(json=False)
    settings = settings_from(root, config)
    if every:
        problems = asyncio.run(
            redrive_every_letter(settings, queue=queue, on_letter=_tell_redriven)
        )
    else:
        problems = asyncio.run(redrive_letters(settings, named, on_letter=_tell_redriven))
    _end(problems)


@app.command("dismiss")
def dismiss_command(
    letter_ids: Annotated[list[str], _LETTER_IDS],
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="why, for the log")],
    config: ConfigOption = None,
    root: RootOption = None,
) -> None:
    """Drop messages for good; the exit status is 1 if one of them is gone already."""
    if not reason.strip():
        raise UsageError("A reason is needed", field="--reason", value=reason)
    configure_logging(json=False)
    settings = settings_from(root, config)
    _end(
        asyncio.run(dismiss_letters(settings, letter_ids, reason=reason, on_letter=_tell_dismissed))
    )


def _tell_redriven(letter_id: str) -> None:
    typer.echo(f"{letter_id} is back on its queue")


def _tell_dismissed(letter_id: str) -> None:
    typer.echo(f"{letter_id} is dismissed")


def _end(problems: Sequence[PlatevaultError]) -> None:
    for problem in problems:
        typer.echo(f"platevault: {problem}", err=True)
    if problems:
        raise typer.Exit(ExitCode.FAILED)


def _show(found: Sequence[DeadLetter], console: Console) -> None:
    table = Table()
    for column in ("letter", "queue", "set aside [UTC]"):
        table.add_column(column, no_wrap=True)
    for letter in found:
        table.add_row(Text(letter.letter_id), Text(letter.queue), _moment(letter).partition(".")[0])
    console.print(table)
    # Below the table and unwrapped: a narrow terminal cuts nothing, and a line can be searched for.
    for letter in found:
        reason = Text(f"{letter.letter_id}: {_printable(letter.reason)}", style="yellow")
        console.print(reason, soft_wrap=True)
        console.print(Text(f"    {_shortened(letter.body)}"), soft_wrap=True)


def _shortened(body: str) -> str:
    shown = _printable(body)
    return shown if len(shown) <= _BODY_SHOWN else f"{shown[: _BODY_SHOWN - 4]} ..."


def _printable(text: str) -> str:
    """Keep what could steer a terminal out of it: anybody may have written a body."""
    return "".join(one if one.isprintable() else " " for one in text)


def _moment(letter: DeadLetter) -> str:
    """Give when it was set aside, in UTC; empty if the broker did not say."""
    if not letter.set_aside_tai:
        return ""
    return f"{isot(utc_from_tai(letter.set_aside_tai))}Z"


def _whole(letter: DeadLetter) -> dict[str, Any]:
    return {
        "letter_id": letter.letter_id,
        "queue": letter.queue,
        "set_aside_utc": _moment(letter),
        "reason": letter.reason,
        "body": letter.body,
    }
