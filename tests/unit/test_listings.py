"""What operators read in lists: brackets are kept, no name is cut, and nobody there is said."""

import io

import pytest
from rich.console import Console
from typer.testing import CliRunner

from platevault.cli import csc, queue, service
from platevault.cli.main import app
from platevault.compose.serving.life import ProcessState
from platevault.compose.serving.roster import ServiceHealth
from platevault.ports.work_queue import DeadLetter


def one(trouble: str) -> ServiceHealth:
    return ServiceHealth(
        name="archive-controller", service="archive-controller", cameras="LATISS", host="archive1",
        pid=4711, version="0.1.0", state=ProcessState.READY, for_s=3.0, silent_s=0.1,
        trouble=trouble,
    )  # fmt: skip


def test_a_narrow_terminal_cuts_no_name_and_wraps_no_trouble() -> None:
    trouble = "rabbitmq: taking: [Errno 111] Connect call failed ('rabbitmq.example', 5672), again"
    written = io.StringIO()
    service._show([one(trouble)], Console(file=written, width=80))
    lines = written.getvalue().splitlines()
    assert any(line.split()[1:4:2] == ["archive-controller"] * 2 for line in lines)
    assert f"archive-controller: {trouble}" in lines


def test_an_error_of_a_component_keeps_what_is_in_brackets(monkeypatch: pytest.MonkeyPatch) -> None:
    async def states(_settings: object) -> list[tuple[str, str, str, str]]:
        return [("ATOODS", "FAULT", "5800 [postgres]", "0.1.0")]

    monkeypatch.setattr(csc, "_states", states)
    assert "[postgres]" in CliRunner().invoke(app, ["csc", "list"]).output


def test_nobody_there_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    async def nobody(_settings: object) -> list[ServiceHealth]:
        return []

    monkeypatch.setattr(service, "list_services", nobody)
    done = CliRunner().invoke(app, ["service", "list"])
    assert done.exit_code == 0
    assert "No process gave a sign of life within 10 s" in done.output


def test_a_letter_is_told_whole_in_a_narrow_terminal_and_cannot_steer_it() -> None:
    letter = DeadLetter(
        letter_id="forwarder.a-forwarder-with-a-long-name-12",
        queue="forwarder.a-forwarder-with-a-long-name",
        body="{\x1b[2J\x07 [bold]",
        reason="Delivered 10 times; [Errno 28] No space left on device\nand no more to be said",
        set_aside_tai=0.0,
    )
    written = io.StringIO()
    queue._show([letter], Console(file=written, width=60))
    lines = written.getvalue().splitlines()
    assert f"{letter.letter_id}: {letter.reason}".replace("\n", " ") in lines
    assert "    { [2J  [bold]" in lines
