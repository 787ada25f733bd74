"""What the documentation shows is what the product takes."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer.main
import yaml

from platevault.cli.main import app
from platevault.compose.night.drills import read_plan
from platevault.compose.settings import load_settings

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    *(page for page in (ROOT / "docs").rglob("*.md") if "_build" not in page.parts),
]
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(page: Path, language: str) -> list[str]:
    text = page.read_text(encoding="utf-8")
    return [body for kind, body in _BLOCK.findall(text) if kind == language]


def commands() -> list[tuple[str, str]]:
    found = []
    for page in PAGES:
        for block in blocks(page, "console"):
            for line in block.replace("\\\n", " ").splitlines():
                text = line.strip().removeprefix("$ ")
                if line.strip().startswith("$ ") and text.startswith("platevault "):
                    found.append((page.name, text))
    return found


@pytest.mark.parametrize(("page", "text"), commands())
def test_a_command_that_is_shown_is_understood(page: str, text: str) -> None:
    arguments = shlex.split(re.split(r"\s[>#|]", text)[0])[1:]
    command = typer.main.get_command(app)
    path = "platevault"
    while hasattr(command, "commands"):
        assert arguments, f"{page}: {text} lacks a verb"
        assert arguments[0] in command.commands, f"{page}: no such command: {text}"
        path = f"{path} {arguments[0]}"
        command = command.commands[arguments.pop(0)]
    if "-h" not in arguments:
        command.make_context(path, arguments)


def test_enough_commands_are_shown() -> None:
    verbs = {" ".join(text.split()[1:3]) for _, text in commands()}
    assert verbs >= {"night run", "night replay", "image where", "csc command", "config check"}


def test_the_plans_of_the_drill_page_are_plans(tmp_path: Path) -> None:
    plans = blocks(ROOT / "docs" / "how-to" / "run-a-drill.md", "yaml")
    assert plans
    for number, plan in enumerate([*plans, (ROOT / "docs/examples/faults.yaml").read_text()]):
        file = tmp_path / f"{number}.yaml"
        file.write_text(plan)
        assert len(read_plan(file)) >= 4


def test_the_settings_of_the_configuration_page_are_valid(tmp_path: Path) -> None:
    for block in blocks(ROOT / "docs" / "how-to" / "configure.md", "yaml"):
        file = tmp_path / "site.yaml"
        file.write_text(block)
        content = yaml.safe_load(block)
        assert load_settings(file).site == content["site"]


def test_links_between_pages_lead_somewhere() -> None:
    broken = []
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            if "://" in target or "generated/" in target:
                continue
            if not (page.parent / target).exists():
                broken.append(f"{page.name}: {target}")
    assert broken == []
