"""Accounts: secrets come from the environment or private files, and are never shown."""

from pathlib import Path

import pytest
from pydantic import SecretStr
from typer.testing import CliRunner

from platevault.cli.main import app
from platevault.compose.server_settings import RedisPart, SecretFileError
from platevault.compose.settings import (
    InvalidSettingsError,
    child_environment,
    load_settings,
    revealed,
)


def private(path: Path, text: str) -> Path:
    path.touch(mode=0o600)
    path.write_text(text)
    return path


def test_a_password_comes_from_a_file_of_its_owner_alone(tmp_path: Path) -> None:
    file = private(tmp_path / "redis", "opensesame\n")
    assert RedisPart(password_file=file).secret == "opensesame"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_password_file_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    file = private(tmp_path / "redis", "opensesame")
    file.chmod(mode)
    with pytest.raises(SecretFileError) as caught:
        _ = RedisPart(password_file=file).secret
    assert "opensesame" not in str(caught.value)


def test_a_password_file_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(SecretFileError, match="none"):
        _ = RedisPart(password_file=tmp_path / "none").secret


def test_settings_with_a_password_must_be_private(tmp_path: Path) -> None:
    file = private(tmp_path / "site.yaml", "rabbitmq: {user: a, password: opensesame}\n")
    assert load_settings(file).rabbitmq.secret == "opensesame"
    file.chmod(0o644)
    with pytest.raises(SecretFileError):
        load_settings(file)


def test_a_password_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLATEVAULT_POSTGRES__PASSWORD", "opensesame")
    assert load_settings().postgres.password == SecretStr("opensesame")
    shown = CliRunner().invoke(app, ["config", "show"])
    assert shown.exit_code == 0
    assert "opensesame" not in shown.output
    assert "**********" in shown.output


def test_a_wrong_password_is_not_shown(tmp_path: Path) -> None:
    file = private(tmp_path / "site.yaml", "rabbitmq: {password: [opensesame]}\n")
    with pytest.raises(InvalidSettingsError) as caught:
        load_settings(file)
    assert caught.value.context["field"] == "rabbitmq.password"
    assert "opensesame" not in str(caught.value)


def test_settings_for_another_process_read_back_the_same(tmp_path: Path) -> None:
    import yaml

    settings = load_settings(root=tmp_path, redis={"password": "opensesame", "port": 7})
    file = private(tmp_path / "site.yaml", yaml.safe_dump(revealed(settings)))
    assert load_settings(file) == settings
    assert load_settings(file).redis.secret == "opensesame"


def test_another_process_gets_no_settings_from_our_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PLATEVAULT_SITE", "other")
    monkeypatch.setenv("LSST_TOPIC_SUBNAME", "other")
    assert not {"PLATEVAULT_SITE", "LSST_TOPIC_SUBNAME"} & set(child_environment())
