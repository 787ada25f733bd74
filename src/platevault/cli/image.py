"""``platevault image``: tell where an image is."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from platevault.cli.options import ConfigOption, JsonOption, RootOption, settings_from
from platevault.cli.outcomes import ExitCode
from platevault.client import Archive, ImageStatus, Verdict
from platevault.domain.ids import FileKind
from platevault.domain.inventory import AttemptRecord, FileRecord
from platevault.domain.lifecycles import Destination
from platevault.domain.timescales import isot, utc_from_tai
from platevault.domain.whereabouts import is_done

app = typer.Typer(rich_markup_mode=None, help="Ask where images are.", no_args_is_help=True)

#: More sensors than this are folded into groups of equal state, so that an image fits a screen.
_ROWS_ON_A_SCREEN = 24
_COLOURS = {
    Verdict.COMPLETE: "green",
    Verdict.DEGRADED: "yellow",
    Verdict.IN_PROGRESS: "cyan",
    Verdict.TROUBLED: "yellow",
    Verdict.BROKEN: "red",
}


@app.command("list")
def list_images(
    root: RootOption = None,
    config: ConfigOption = None,
    camera: Annotated[str, typer.Option(help="only of this camera, such as LSSTComCam")] = "",
    day_obs: Annotated[int, typer.Option(help="only of this observing day, YYYYMMDD")] = 0,
    as_json: JsonOption = False,
) -> None:
    """List images, a line each, with their verdict."""
    statuses = Archive(settings=settings_from(root, config)).images(camera=camera, day_obs=day_obs)
    if as_json:
        typer.echo(json.dumps([_overview(status) for status in statuses], indent=2))
        return
    table = Table()
    for column in ("image", "camera", "sensors", "verdict", *(one.value for one in Destination)):
        table.add_column(column, no_wrap=column in {"image", "verdict"})
    for status in statuses:
        exposure = status.record.exposure
        table.add_row(
            exposure.image,
            exposure.camera,
            str(len(exposure.sensors)),
            Text(status.verdict, style=_COLOURS[status.verdict]),
            *(str(_done_count(status, destination)) for destination in Destination),
        )
    Console().print(table)


@app.command("where")
def where_is(
    image: Annotated[str, typer.Argument(help="image name, such as CC_O_20261121_000001")],
    root: RootOption = None,
    config: ConfigOption = None,
    every: Annotated[bool, typer.Option("--all", help="every file, nothing folded")] = False,
    as_json: JsonOption = False,
) -> None:
    """Tell where every file of an image is, and what is still expected.

    The exit status is 0 if every file is where it must be, 1 if not.
    """
    status = Archive(settings=settings_from(root, config)).where(image)
    if as_json:
        typer.echo(json.dumps(_whole(status), indent=2))
    else:
        _show(status, Console(), every=every)
    if status.verdict not in {Verdict.COMPLETE, Verdict.DEGRADED}:
        raise typer.Exit(ExitCode.FAILED)


def _show(status: ImageStatus, console: Console, *, every: bool) -> None:
    console.print(Text(status.summary, style=f"bold {_COLOURS[status.verdict]}"))
    record = status.record
    header = record.header
    console.print(
        f"camera {record.exposure.camera}, exposure {record.exposure.exposure_id}, "
        f"directory {record.target_dir or 'not chosen yet'}, "
        f"header {f'version {header.version}' if header is not None else 'not published yet'}"
    )
    table = Table("sensor", *(destination.value for destination in Destination), "digest", "note")
    rows = _rows(status.files, fold=not every)
    for row in rows:
        table.add_row(*row)
    console.print(table)
    failed = [attempt for attempt in status.attempts if attempt.error]
    for attempt in failed[-_ROWS_ON_A_SCREEN:]:
        console.print(Text(_attempt_line(attempt), style="yellow"))
    if status.expected:
        counted = Counter(destination.value for _, destination in status.expected)
        console.print(
            "still expected: "
            + ", ".join(f"{count} files at {name}" for name, count in sorted(counted.items()))
        )


def _rows(files: Sequence[FileRecord], *, fold: bool) -> Iterable[Sequence[str | Text]]:
    by_sensor: dict[str, list[FileRecord]] = {}
    for file in files:
        by_sensor.setdefault(file.key.sensor, []).append(file)
    fold = fold and len(by_sensor) > _ROWS_ON_A_SCREEN
    groups: dict[tuple[str, ...], list[str]] = {}
    for sensor, members in by_sensor.items():
        states = tuple(_state_of(members, destination) for destination in Destination)
        note = "; ".join(sorted({file.reason for file in members if file.reason}))
        groups.setdefault((*states, note, *(() if fold else (sensor,))), []).append(sensor)
    for key, sensors in groups.items():
        states, note = key[:3], key[3]
        digest = ""
        if len(sensors) == 1:
            digest = next(
                (
                    file.digest[:21]
                    for file in by_sensor[sensors[0]]
                    if file.key.kind is not FileKind.SIDECAR and file.digest
                ),
                "",
            )
        name = sensors[0] or "(manifest)"
        if len(sensors) > 1:
            name = f"{len(sensors)} sensors, {sensors[0]} ... {sensors[-1]}"
        yield name, *states, digest, note


def _state_of(members: Sequence[FileRecord], destination: Destination) -> str:
    here = [file for file in members if file.destination is destination]
    pending = [file for file in here if not is_done(file)]
    main = next((file for file in here if file.key.kind is not FileKind.SIDECAR), here[0])
    text: str = main.state
    if pending and main not in pending:
        text += f" (sidecar {pending[0].state})"
    return text + (" degraded" if main.degraded else "")


def _attempt_line(attempt: AttemptRecord) -> str:
    when = isot(utc_from_tai(attempt.started_tai))
    return (
        f"attempt {attempt.number} of {attempt.key.file_name} at {attempt.destination} by "
        f"{attempt.worker}, {when} UTC: {attempt.outcome or 'open'} {attempt.error}"
    )


def _done_count(status: ImageStatus, destination: Destination) -> int:
    return sum(
        1
        for file in status.files
        if file.destination is destination and file.key.kind is FileKind.RAW and is_done(file)
    )


def _overview(status: ImageStatus) -> dict[str, Any]:
    exposure = status.record.exposure
    return {
        "image": exposure.image,
        "camera": exposure.camera,
        "day_obs": exposure.day_obs,
        "exposure_id": exposure.exposure_id,
        "sensors": len(exposure.sensors),
        "verdict": status.verdict.value,
        "summary": status.summary,
    }


def _whole(status: ImageStatus) -> dict[str, Any]:
    header = status.record.header
    return {
        **_overview(status),
        "target_dir": status.record.target_dir,
        "end_readout_tai": status.record.end_readout_tai,
        "header": None if header is None else {"url": header.url, "version": header.version},
        "files": [
            {
                "name": file.key.file_name,
                "sensor": file.key.sensor,
                "kind": file.key.kind.value,
                "destination": file.destination.value,
                "state": file.state.value,
                "done": is_done(file),
                "path": file.path,
                "size_bytes": file.size_bytes,
                "digest": file.digest,
                "degraded": file.degraded,
                "reason": file.reason,
                "changed_tai": file.changed_tai,
            }
            for file in status.files
        ],
        "attempts": [
            {
                "name": attempt.key.file_name,
                "destination": attempt.destination.value,
                "number": attempt.number,
                "worker": attempt.worker,
                "started_tai": attempt.started_tai,
                "ended_tai": attempt.ended_tai,
                "outcome": attempt.outcome or "open",
                "error": attempt.error,
            }
            for attempt in status.attempts
        ],
        "expected": [
            {"name": key.file_name, "destination": destination.value}
            for key, destination in status.expected
        ],
    }
