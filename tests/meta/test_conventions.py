"""What a linter cannot say about the tree."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "platevault"
#: Lines a module may have.
LINES = 500
VAGUE = {"utils", "util", "helpers", "helper", "common", "misc", "manager", "managers", "base"}
_ERROR = re.compile(
    r"""(?:\.(?:error|critical)\(\s*|logging\.(?:ERROR|CRITICAL),\s*)"([^"]+)\"""", re.DOTALL
)


def tracked(*patterns: str) -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "--", *patterns], cwd=ROOT, capture_output=True, text=True, check=False
    )
    names = listed.stdout.split("\n")
    files = [ROOT / name for name in names if name and (ROOT / name).is_file()]
    assert files
    return files


def test_no_module_is_too_long() -> None:
    long = {
        str(path.relative_to(ROOT)): count
        for path in SOURCE.rglob("*.py")
        if (count := len(path.read_text(encoding="utf-8").splitlines())) > LINES
    }
    assert long == {}


def test_no_module_has_a_vague_name() -> None:
    names = {path.stem for path in SOURCE.rglob("*.py")} | {
        path.name for path in SOURCE.rglob("*") if path.is_dir()
    }
    assert names & VAGUE == set()


def test_every_error_message_has_an_entry_for_operations() -> None:
    page = (ROOT / "docs" / "operations" / "log-messages.md").read_text(encoding="utf-8")
    entries = set(re.findall(r"^\| ([^|]+?) \|", page, re.MULTILINE))
    messages = {
        message
        for path in SOURCE.rglob("*.py")
        if "testing" not in path.parts
        for message in _ERROR.findall(path.read_text(encoding="utf-8"))
    }
    assert messages - entries == set()
    assert entries - messages - {"message", "---"} == set()


def test_nothing_of_the_machine_it_was_made_on_is_in_the_tree() -> None:
    # Spelled in parts, so that this file does not find itself.
    paths = re.compile("|".join(("/wor" + "k/", r"\.libr" + "ary/", "/tmp/bash" + "_jobs")))
    hosts = re.compile("|".join(("files.python" + "hosted", "repo1.ma" + "ven", "deb.deb" + "ian")))
    found = []
    for path in tracked(".", ":!*.fz"):
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        found += [str(path.relative_to(ROOT)) for rule in (paths, hosts) if rule.search(text)]
    assert found == []


def test_every_decision_is_numbered_once_and_says_what_lost() -> None:
    pages = sorted((ROOT / "docs" / "explanations" / "decisions").glob("*.md"))
    numbers = [page.name[:4] for page in pages]
    assert len(set(numbers)) == len(numbers)
    assert [page.name for page in pages if "## Rejected" not in page.read_text()] == []


def test_every_fragment_of_the_changelog_has_a_known_kind() -> None:
    kinds = {"breaking", "feature", "fix", "ops", "doc"}
    wrong = [
        path.name
        for path in (ROOT / "changes").glob("*.md")
        if path.name.split(".")[-2] not in kinds
    ]
    assert wrong == []


def test_package_and_constraints_agree_on_python() -> None:
    assert 'requires-python = ">=3.11"' in (ROOT / "pyproject.toml").read_text()


def test_the_settings_of_every_example_are_valid() -> None:
    from platevault.compose.settings import load_settings

    examples = sorted((ROOT / "config").glob("*.yaml"))
    for example in examples:
        load_settings(example)
