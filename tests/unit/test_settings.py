"""Settings: file < environment < command line, errors that name the field."""

from pathlib import Path

import pytest

from platevault.compose.cameras import load_camera
from platevault.compose.csc_configuration import archiver_configuration
from platevault.compose.settings import (
    InvalidSettingsError,
    RootUnusableError,
    load_settings,
    make_directory,
    offer_registry_password,
    settings_schema,
)
from platevault.csc.configuration import ConfigurationError


def test_defaults_need_no_file() -> None:
    assert load_settings().forwarder.count == 2


def test_the_environment_wins_over_the_file_and_the_command_line_over_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "site.yaml"
    file.write_text("site: summit\nforwarder: {count: 5, concurrency: 3}\noods: {gather_s: 1.5}\n")
    monkeypatch.setenv("PLATEVAULT_FORWARDER__COUNT", "6")
    monkeypatch.setenv("PLATEVAULT_OODS__GATHER_S", "2.5")
    settings = load_settings(file, oods={"gather_s": 3.5})
    assert settings.site == "summit"
    assert settings.forwarder.concurrency == 3
    assert settings.forwarder.count == 6
    assert settings.oods.gather_s == 3.5


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("forwarder: {concurency: 3}", "forwarder.concurency"),
        ("forwarder: {count: none}", "forwarder.count"),
        ("forwarder: {count: 0}", "forwarder.count"),
        ("site: 'Not A Site'", "site"),
        ("log: {level: LOUD}", "log.level"),
        ("metrics: {port: 70000}", "metrics.port"),
    ],
)
def test_a_wrong_setting_is_named_with_its_file(tmp_path: Path, text: str, field: str) -> None:
    file = tmp_path / "site.yaml"
    file.write_text(text)
    with pytest.raises(InvalidSettingsError) as caught:
        load_settings(file)
    assert caught.value.context["field"] == field
    assert caught.value.context["file"] == str(file)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("forwarder: {concurency: 3}", "concurrency (there is no such setting)"),
        ("roott: night", "root (there is no such setting)"),
        (
            "dds: {zzz: 1}",
            "one of domain_id, interface, multicast, peers (there is no such setting)",
        ),
        ("forwarder: 3", "a mapping of settings"),
        ("kafka: {brokers: 'k afka'}", "host:port, several by commas"),
    ],
)
def test_what_was_expected_is_said_in_words_that_can_be_written(
    tmp_path: Path, text: str, expected: str
) -> None:
    file = tmp_path / "site.yaml"
    file.write_text(text)
    with pytest.raises(InvalidSettingsError) as caught:
        load_settings(file)
    assert caught.value.context["expected"] == expected


def test_what_is_no_yaml_is_told_in_one_line_with_its_place(tmp_path: Path) -> None:
    file = tmp_path / "site.yaml"
    file.write_text("site: a\nbus: [kafka\n")
    with pytest.raises(InvalidSettingsError) as caught:
        load_settings(file)
    problem = str(caught.value.context["problem"])
    assert problem.startswith("line 3, column 1: expected ',' or ']'")


@pytest.mark.parametrize(
    ("variable", "expected"),
    [
        ("PLATEVAULT_FORWADER__COUNT", "PLATEVAULT_FORWARDER__..."),
        ("PLATEVAULT_RABBITMQ_USER", "PLATEVAULT_RABBITMQ__USER"),
        ("PLATEVAULT_HEADER_SERVICE_MARGIN_S", "PLATEVAULT_HEADER_SERVICE__MARGIN_S"),
    ],
)
def test_a_variable_that_misses_a_setting_is_named(
    monkeypatch: pytest.MonkeyPatch, variable: str, expected: str
) -> None:
    monkeypatch.setenv(variable, "5")
    with pytest.raises(InvalidSettingsError) as caught:
        load_settings()
    assert caught.value.context["variable"] == variable
    assert caught.value.context["expected"] == expected


def test_variables_of_others_that_begin_like_ours_are_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PLATEVAULT_KAFKA_VERSION", "3.9.1")
    monkeypatch.setenv("PLATEVAULT_USER", "1000:1000")
    monkeypatch.setenv("PLATEVAULT_REDIS_PORT", "tcp://10.0.0.7:6379")
    assert load_settings().redis.port == 6379


@pytest.mark.parametrize(
    ("given", "password"),
    [
        ({}, "from the settings"),
        ({"PGPASSWORD": "of the operator"}, "of the operator"),
        ({"PGPASSFILE": "/run/pgpass"}, None),
    ],
)
def test_the_password_of_the_registry_is_offered_unless_the_environment_has_one(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], password: str | None
) -> None:
    environment = dict(given)
    monkeypatch.setattr("os.environ", environment)
    offer_registry_password("")
    assert environment == given
    offer_registry_password("from the settings")
    assert environment.get("PGPASSWORD") == password


@pytest.mark.parametrize("text", ["- a\n- b\n", "a: [unclosed", "\x00"])
def test_what_is_no_settings_file_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "site.yaml"
    file.write_text(text)
    with pytest.raises(InvalidSettingsError, match="settings file"):
        load_settings(file)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidSettingsError, match=r"none\.yaml"):
        load_settings(tmp_path / "none.yaml")


def test_every_setting_is_described() -> None:
    schema = settings_schema()
    parts = {"": schema, **schema["$defs"]}
    bare = [
        f"{part}.{name}"
        for part, definition in parts.items()
        for name, field in definition["properties"].items()
        if "$ref" not in field and not field.get("description")
    ]
    assert bare == []


async def test_an_archiver_is_configured_from_the_settings_the_site_and_an_override(
    tmp_path: Path,
) -> None:
    settings = load_settings(root=tmp_path, archiver={"forwarders": 3, "lease_s": 7.0})
    directory = archiver_configuration(settings, load_camera("comcam"), ["R22_S11"])
    (directory.path / "_local.yaml").write_text("lease_s: 8.0\n")
    (directory.path / "quick.yaml").write_text("header_timeout_s: 1.5\n")
    assert (await directory.available()).overrides == ("quick.yaml",)
    applied = (await directory.read("quick.yaml")).settings
    assert applied.detectors == ("R22_S11",)
    assert (applied.forwarders, applied.lease_s, applied.header_timeout_s) == (3, 8.0, 1.5)
    (directory.path / "wrong.yaml").write_text("lease_s: never\n")
    with pytest.raises(ConfigurationError, match="lease_s"):
        await directory.read("wrong.yaml")


def test_a_root_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RootUnusableError) as caught:
        make_directory(tmp_path / "file" / "root")
    assert caught.value.context["field"] == "root"
    assert caught.value.context["value"] == str(tmp_path / "file" / "root")
