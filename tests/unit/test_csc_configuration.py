"""Configurations are laid over one another, validated and told."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, PositiveFloat
from typing_extensions import override

from platevault.adapters.memory.sample_bus import MemorySampleBus
from platevault.csc.configuration import (
    Applied,
    Available,
    ConfigurationDirectory,
    ConfigurationError,
    ConfigurationSource,
    ModelRule,
    SchemaRule,
)
from platevault.csc.csc import Csc
from platevault.domain.lifecycles import SummaryState
from platevault.runtime.service import StopToken
from platevault.sal.acks import CommandFailedError
from platevault.sal.remote import Remote
from platevault.sal.schema import Interfaces, load_interfaces
from platevault.testing.clocks import SteppedClock


class Limits(BaseModel):
    model_config = ConfigDict(extra="forbid")

    wait_s: PositiveFloat = 30.0
    retries: int = 3


class Settings(BaseModel):
    model_config = ConfigDict(extra="forbid")

    target: str
    limits: Limits = Limits()


SCHEMA = {
    "$schema": "http://json-schema.org/draft-07/schema#",
    "title": "ATArchiver v2",
    "type": "object",
    "properties": {
        "target": {"type": "string"},
        "limits": {
            "type": "object",
            "properties": {"wait_s": {"type": "number"}, "retries": {"type": "integer"}},
            "additionalProperties": False,
        },
    },
    "required": ["target"],
    "additionalProperties": False,
}
RULES: dict[str, ModelRule | SchemaRule] = {
    "model": ModelRule(model=Settings, version="v2"),
    "schema": SchemaRule(schema=SCHEMA),
}


@pytest.fixture(params=sorted(RULES))
def rule(request: pytest.FixtureRequest) -> ModelRule | SchemaRule:
    return RULES[request.param]


@pytest.fixture
def files(tmp_path: Path) -> Path:
    path = tmp_path / "ATArchiver" / "v2"
    path.mkdir(parents=True)
    (path / "_init.yaml").write_text(
        "metadata: {author: ann}\ntarget: /data/a\nlimits: {wait_s: 10, retries: 1}\n"
    )
    (path / "_summit.yaml").write_text("limits: {wait_s: 20}\n")
    (path / "fast.yaml").write_text("limits:\n  retries: 0\n")
    (path / "other.yaml").write_text("target: /data/b\n")
    (path / "notes.txt").write_text("no configuration")
    return path


def directory(
    files: Path, rule: ModelRule | SchemaRule, site: str = "summit"
) -> ConfigurationDirectory:
    return ConfigurationDirectory(
        root=files.parent.parent, component="ATArchiver", site=site, rule=rule
    )


def plain(settings: Any) -> Any:
    return settings.model_dump() if isinstance(settings, BaseModel) else settings


async def test_files_are_laid_over_one_another(files: Path, rule: ModelRule | SchemaRule) -> None:
    applied = await directory(files, rule).read("fast.yaml")
    assert plain(applied.settings) == {
        "target": "/data/a",
        "limits": {"wait_s": 20, "retries": 0},
    }
    assert applied.files == ("_init.yaml", "_summit.yaml", "fast.yaml")
    assert applied.schema_version == "v2"
    assert applied.url == files.as_uri()


async def test_site_and_override_are_optional(files: Path, rule: ModelRule | SchemaRule) -> None:
    applied = await directory(files, rule, site="base").read("")
    assert plain(applied.settings)["limits"] == {"wait_s": 10, "retries": 1}
    assert applied.files == ("_init.yaml",)


async def test_only_overrides_are_on_offer(files: Path, rule: ModelRule | SchemaRule) -> None:
    offer = await directory(files, rule).available()
    assert offer.overrides == ("fast.yaml", "other.yaml")


@pytest.mark.parametrize(
    "override",
    [
        "_summit.yaml",
        "../secret.yaml",
        "/etc/passwd",
        "sub/fast.yaml",
        "fast",
        "fast.yaml:--output=x",
        "fast.yaml:",
        "..",
        ":a..b c",
    ],
)
async def test_only_plain_names_are_read(
    files: Path, rule: ModelRule | SchemaRule, override: str
) -> None:
    with pytest.raises(ConfigurationError, match="configurationOverride"):
        await directory(files, rule).read(override)


async def test_a_missing_override_says_what_there_is(
    files: Path, rule: ModelRule | SchemaRule
) -> None:
    with pytest.raises(ConfigurationError, match=r"slow\.yaml.*fast\.yaml"):
        await directory(files, rule).read("slow.yaml")


async def test_a_missing_init_file_is_an_error(files: Path, rule: ModelRule | SchemaRule) -> None:
    (files / "_init.yaml").unlink()
    with pytest.raises(ConfigurationError, match=r"_init\.yaml"):
        await directory(files, rule).read("")


async def test_a_missing_directory_is_an_error(
    tmp_path: Path, rule: ModelRule | SchemaRule
) -> None:
    nowhere = directory(tmp_path / "x" / "y", rule)
    with pytest.raises(ConfigurationError, match="cannot be read"):
        await nowhere.available()
    with pytest.raises(ConfigurationError, match="not there"):
        await nowhere.read("")


@pytest.mark.parametrize(
    ("file", "text", "field"),
    [
        ("fast.yaml", "limits: {retries: many}", "limits.retries"),
        ("_summit.yaml", "limits: {wait_s: long}", "limits.wait_s"),
        ("_init.yaml", "target: 7\nlimits: {}", "target"),
        ("fast.yaml", "limits: 5", "limits"),
        ("fast.yaml", "target: {a: 1}", "target"),
        ("fast.yaml", "[1, 2]", ""),
        ("fast.yaml", "a: b: c", ""),
        ("fast.yaml", "1: 2", ""),
    ],
)
async def test_an_error_names_file_field_and_value(
    files: Path, rule: ModelRule | SchemaRule, file: str, text: str, field: str
) -> None:
    (files / file).write_text(text)
    with pytest.raises(ConfigurationError) as caught:
        await directory(files, rule).read("fast.yaml")
    assert str(caught.value.context["file"]).endswith(file)
    assert caught.value.context.get("field", "") == field
    assert "value" in caught.value.context


async def test_an_unknown_setting_is_an_error(files: Path, rule: ModelRule | SchemaRule) -> None:
    (files / "fast.yaml").write_text("tarjet: x")
    with pytest.raises(ConfigurationError, match="tarjet"):
        await directory(files, rule).read("fast.yaml")


async def test_an_empty_file_changes_nothing(files: Path, rule: ModelRule | SchemaRule) -> None:
    (files / "fast.yaml").write_text("# nothing\n")
    applied = await directory(files, rule).read("fast.yaml")
    assert plain(applied.settings)["target"] == "/data/a"


def test_a_schema_without_version_is_an_error() -> None:
    with pytest.raises(ConfigurationError, match="title"):
        _ = SchemaRule(schema={"title": "ATArchiver"}).version


async def test_without_git_the_version_is_a_digest(
    files: Path, rule: ModelRule | SchemaRule
) -> None:
    source = directory(files, rule)
    first = (await source.available()).version
    assert first.startswith("sha256:")
    assert (await source.available()).version == first
    (files / "fast.yaml").write_text("limits:\n  retries: 11\n")
    assert (await source.available()).version != first
    assert (await directory(files, rule).available()).version == (await source.available()).version


def git(path: Path, *arguments: str) -> None:
    subprocess.run(
        ["git", "-C", str(path), "-c", "user.name=a", "-c", "user.email=a@b", *arguments],
        check=True,
        capture_output=True,
    )


async def test_with_git_the_version_and_old_files_come_from_it(
    files: Path, rule: ModelRule | SchemaRule
) -> None:
    root = files.parent.parent
    git(root, "init", "--initial-branch=main")
    git(root, "add", "ATArchiver")
    git(root, "commit", "-m", "first")
    git(root, "tag", "night-1")
    source = directory(files, rule)
    assert (await source.available()).version.startswith("tags/night-1-0-g")
    (files / "fast.yaml").write_text("limits: {retries: 99}")
    assert (await source.available()).version.endswith("-dirty")
    git(root, "commit", "-am", "second")
    assert (await source.available()).version.startswith("heads/main-0-g")
    assert plain((await source.read("fast.yaml")).settings)["limits"]["retries"] == 99
    old = await source.read("fast.yaml:night-1")
    assert plain(old.settings)["limits"]["retries"] == 0
    assert old.version == "night-1"
    assert (await source.read(":night-1")).files == ("_init.yaml", "_summit.yaml")
    with pytest.raises(ConfigurationError, match="does not know"):
        await source.read("fast.yaml:night-2")


# In the component


@pytest.fixture(scope="module")
def interfaces() -> Interfaces:
    return load_interfaces()


class Archiver(Csc):
    settings: Any = None

    @override
    async def on_start(self, settings: Any) -> None:
        self.settings = settings


@asynccontextmanager
async def running(
    interfaces: Interfaces, source: ConfigurationSource, component: str = "ATArchiver"
) -> AsyncIterator[tuple[Archiver, Remote, SteppedClock]]:
    clock = SteppedClock()
    bus = MemorySampleBus(clock=clock)
    csc = Archiver(
        component=component,
        bus=bus,
        interfaces=interfaces,
        clock=clock,
        version="1",
        configuration=source,
    )
    stop, ready = StopToken(), asyncio.Event()
    async with (
        asyncio.TaskGroup() as group,
        Remote(component=component, bus=bus, interfaces=interfaces, clock=clock) as remote,
    ):
        group.create_task(csc.run(stop, ready.set))
        await ready.wait()
        await clock.settle()
        yield csc, remote, clock
        stop.request()


def fields(remote: Remote, event: str) -> dict[str, Any]:
    sample = remote.latest(event)
    assert sample is not None
    return dict(sample.fields)


async def test_a_component_offers_and_applies(files: Path, interfaces: Interfaces) -> None:
    async with running(interfaces, directory(files, RULES["model"])) as (csc, remote, clock):
        offered = fields(remote, "configurationsAvailable")
        assert offered["overrides"] == "fast.yaml,other.yaml"
        assert offered["schemaVersion"] == "v2"
        assert offered["url"] == files.as_uri()
        await remote.command("start", configurationOverride="fast.yaml")
        await clock.settle()
        assert csc.settings == Settings(target="/data/a", limits=Limits(wait_s=20, retries=0))
        applied = fields(remote, "configurationApplied")
        assert applied["configurations"] == "_init.yaml,_summit.yaml,fast.yaml"
        assert applied["version"] == offered["version"]


async def test_applying_the_same_again_is_told_again(files: Path, interfaces: Interfaces) -> None:
    async with running(interfaces, directory(files, RULES["model"])) as (_, remote, clock):
        numbers = []
        for _ in range(2):
            await remote.command("start")
            await clock.settle()
            sample = remote.latest("configurationApplied")
            assert sample is not None
            numbers.append(sample.sequence)
            await remote.command("standby")
        assert numbers == [1, 2]


async def test_a_bad_configuration_refuses_the_start_and_names_the_field(
    files: Path, interfaces: Interfaces
) -> None:
    (files / "fast.yaml").write_text("limits: {wait_s: -1}")
    async with running(interfaces, directory(files, RULES["model"])) as (csc, remote, _):
        with pytest.raises(CommandFailedError) as caught:
            await remote.command("start", configurationOverride="fast.yaml")
        for said in ("fast.yaml", "limits.wait_s", "-1", "greater than 0"):
            assert said in caught.value.ack.result
        assert csc.state is SummaryState.STANDBY
        assert csc.settings is None
        assert remote.latest("configurationApplied") is None


async def test_a_component_without_the_events_still_has_settings(
    files: Path, interfaces: Interfaces
) -> None:
    source = directory(files, RULES["model"])
    async with running(interfaces, source, "CCHeaderService") as (csc, remote, _):
        await remote.command("start")
        assert csc.settings.target == "/data/a"


async def settle_threads(clock: SteppedClock, remote: Remote, overrides: str) -> None:
    """Let the component look once; its look reads files in a thread."""
    async with asyncio.timeout(10), remote.events("configurationsAvailable") as samples:
        await clock.advance(1.0)
        async for sample in samples:
            if sample.fields["overrides"] == overrides:
                return


async def test_new_files_are_seen_in_standby(files: Path, interfaces: Interfaces) -> None:
    async with running(interfaces, directory(files, RULES["model"])) as (_, remote, clock):
        (files / "slow.yaml").write_text("")
        await settle_threads(clock, remote, "fast.yaml,other.yaml,slow.yaml")
        (files / "slow.yaml").unlink()
        await settle_threads(clock, remote, "fast.yaml,other.yaml")


async def test_a_directory_that_comes_back_is_on_offer_again(
    files: Path, interfaces: Interfaces
) -> None:
    async with running(interfaces, directory(files, RULES["model"])) as (_, remote, clock):
        moved = files.rename(files.with_name("v3"))  # noqa: ASYNC240 (a local directory)
        await settle_threads(clock, remote, "")
        moved.rename(files)
        await settle_threads(clock, remote, "fast.yaml,other.yaml")


class Unreadable:
    """A place that cannot be read, each time for a reason of its own choosing."""

    def __init__(self) -> None:
        self.reason = "gone"
        self.looks = 0

    async def available(self) -> Available:
        self.looks += 1
        raise ConfigurationError(self.reason)

    async def read(self, override: str) -> Applied:
        raise ConfigurationError(self.reason)


async def test_a_place_that_cannot_be_read_is_told_once_for_each_reason(
    interfaces: Interfaces,
) -> None:
    source = Unreadable()
    async with running(interfaces, source) as (_, remote, clock):
        for reason in ("gone", "locked", "locked"):
            source.reason = reason
            await clock.advance(5.0)
        assert source.looks == 16
        newest = remote.latest("logMessage")
        assert newest is not None
        assert (newest.sequence, "locked" in newest.fields["message"]) == (2, True)
        with pytest.raises(CommandFailedError, match="locked"):
            await remote.command("start")
