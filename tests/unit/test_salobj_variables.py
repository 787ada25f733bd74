"""Variables of ts_salobj 8 set what they set there; our own settings win; a wrong one is named."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from platevault.cli.main import app
from platevault.compose.salobj_variables import (
    SALOBJ_VARIABLES,
    SITE_VARIABLE,
    SalobjVariableError,
)
from platevault.compose.server_context import kafka_settings
from platevault.compose.server_settings import KafkaPart
from platevault.compose.settings import InvalidSettingsError, load_settings

#: A value for each plain variable, and what the adapter is told then.
PLAIN = {
    "LSST_KAFKA_BROKER_ADDR": ("sasquatch:9094,[::1]:9095", "brokers", "sasquatch:9094,[::1]:9095"),
    "LSST_SCHEMA_REGISTRY_URL": ("https://registry:8081", "registry_url", "https://registry:8081"),
    "LSST_TOPIC_SUBNAME": ("test_7", "subname", "test_7"),
    "LSST_KAFKA_REPLICATION_FACTOR": ("3", "replication_factor", 3),
    "LSST_KAFKA_PRODUCER_WAIT_ACKS": ("-1", "acks", "-1"),
    "LSST_KAFKA_SECURITY_PROTOCOL": ("SASL_SSL", "security_protocol", "SASL_SSL"),
    "LSST_KAFKA_SECURITY_MECHANISM": ("SCRAM-SHA-256", "sasl_mechanism", "SCRAM-SHA-256"),
    "LSST_KAFKA_SECURITY_USERNAME": ("ts-salkafka", "username", "ts-salkafka"),
    "LSST_KAFKA_SECURITY_PASSWORD": ("opensesame", "password", "opensesame"),
    "LSST_MAX_HISTORY_READ": ("70", "history_limit", 70),
}
OPTIONS = {
    "LSST_KAFKA_BROKER_CLIENT_CONFIGURATION": "client_options",
    "LSST_KAFKA_CONSUMER_CONFIGURATION": "consumer_options",
    "LSST_KAFKA_PRODUCER_CONFIGURATION": "producer_options",
}
HISTORY = "LSST_HISTORY_READ_CONFIG"


def test_every_variable_is_tried_here_and_names_a_setting() -> None:
    assert {*PLAIN, *OPTIONS, HISTORY} == {*SALOBJ_VARIABLES}
    assert {*SALOBJ_VARIABLES.values()} <= {*KafkaPart.model_fields}


@pytest.mark.parametrize("variable", PLAIN)
def test_a_variable_reaches_the_client(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    value, field, expected = PLAIN[variable]
    assert getattr(kafka_settings(load_settings().kafka), field) != expected
    monkeypatch.setenv(variable, value)
    assert getattr(kafka_settings(load_settings().kafka), field) == expected


@pytest.mark.parametrize("variable", OPTIONS)
def test_options_in_a_file_reach_the_client(
    variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "options.yaml"
    file.write_text("ssl.ca.location: /etc/ca.pem\nfetch.wait.max.ms: 7\ncheck.crcs: false\n")
    monkeypatch.setenv(variable, str(file))
    assert getattr(kafka_settings(load_settings().kafka), OPTIONS[variable]) == {
        "ssl.ca.location": "/etc/ca.pem",
        "fetch.wait.max.ms": "7",
        "check.crcs": "false",
    }


def test_lengths_of_the_past_in_a_file_reach_the_client(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "history.yaml"
    file.write_text("ESS: 2000\nTest: 3\n")
    monkeypatch.setenv(HISTORY, str(file))
    monkeypatch.setenv("LSST_MAX_HISTORY_READ", "9")
    told = kafka_settings(load_settings().kafka)
    assert [told.history_limit_of(name) for name in ("ESS", "Test", "OCPS")] == [2000, 3, 9]


def test_the_site_is_the_one_of_ts_salobj(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SITE_VARIABLE, "base")
    assert load_settings().site == "base"
    assert load_settings(site="ours").site == "ours"


def test_our_own_settings_win_wherever_they_stand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "site.yaml"
    file.write_text("site: file\nkafka: {brokers: 'file:9092', acks: '1'}\n")
    for name, value in (
        (SITE_VARIABLE, "salobj"),
        ("LSST_KAFKA_BROKER_ADDR", "salobj:9092"),
        ("LSST_TOPIC_SUBNAME", "salobj"),
        ("LSST_KAFKA_REPLICATION_FACTOR", "3"),
        ("LSST_KAFKA_SECURITY_PASSWORD", "opensesame"),
        ("PLATEVAULT_KAFKA__SUBNAME", "ours"),
    ):
        monkeypatch.setenv(name, value)
    settings = load_settings(file)
    kafka = settings.kafka
    assert (settings.site, kafka.brokers, kafka.acks) == ("file", "file:9092", "1")
    assert (kafka.subname, kafka.replication_factor, kafka.secret) == ("ours", 3, "opensesame")


def test_an_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = load_settings()
    for variable in (*SALOBJ_VARIABLES, SITE_VARIABLE):
        monkeypatch.setenv(variable, "")
    assert load_settings() == expected


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("LSST_KAFKA_BROKER_ADDR", "broker:", "host:port"),
        ("LSST_KAFKA_BROKER_ADDR", "broker:99999", "host:port"),
        ("LSST_KAFKA_BROKER_ADDR", "one:9092,,two:9092", "host:port"),
        ("LSST_SCHEMA_REGISTRY_URL", "registry:8081", "http://host:port"),
        ("LSST_TOPIC_SUBNAME", "lsst.sal", "pattern"),
        ("LSST_KAFKA_REPLICATION_FACTOR", "three", "integer"),
        ("LSST_KAFKA_REPLICATION_FACTOR", "0", "greater than or equal to 1"),
        ("LSST_KAFKA_PRODUCER_WAIT_ACKS", "most", "'all'"),
        ("LSST_KAFKA_SECURITY_PROTOCOL", "TLS", "'SASL_SSL'"),
        ("LSST_KAFKA_SECURITY_MECHANISM", "SCRAM", "'SCRAM-SHA-512'"),
        ("LSST_MAX_HISTORY_READ", "-5", "greater than or equal to 1"),
        ("LSST_SITE", "Cerro Pachón", "pattern"),
    ],
)
def test_a_wrong_variable_is_named_with_its_value_and_what_was_expected(
    variable: str, value: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(SalobjVariableError) as caught:
        load_settings()
    context = caught.value.context
    assert (context["variable"], context["value"]) == (variable, value)
    assert expected in str(context["expected"])


@pytest.mark.parametrize("variable", OPTIONS)
@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "No such file"),
        ("- a\n", "it is a list"),
        ("a: {b: c}\n", "a is a dict"),
        ("a: [", "expected"),
        ("sasl.password: opensesame\n", "open to others"),
    ],
)
def test_a_wrong_file_is_told_with_the_variable_that_names_it(
    variable: str,
    content: str | None,
    problem: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = tmp_path / "options.yaml"
    if content is not None:
        file.write_text(content)
        file.chmod(0o644)
    monkeypatch.setenv(variable, str(file))
    with pytest.raises(SalobjVariableError) as caught:
        load_settings()
    context = caught.value.context
    assert (context["variable"], context["value"]) == (variable, str(file))
    assert problem in str(context["problem"])
    assert context["expected"]
    assert "opensesame" not in str(caught.value)


@pytest.mark.parametrize("content", ["Test: many\n", "Test: 0\n", "Test: true\n", "7\n"])
def test_a_wrong_length_of_the_past_is_told(
    content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "history.yaml"
    file.write_text(content)
    monkeypatch.setenv(HISTORY, str(file))
    with pytest.raises(SalobjVariableError, match=HISTORY):
        load_settings()


def test_a_wrong_variable_does_not_matter_where_our_own_setting_wins(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LSST_KAFKA_REPLICATION_FACTOR", "three")
    monkeypatch.setenv("PLATEVAULT_KAFKA__REPLICATION_FACTOR", "2")
    assert load_settings().kafka.replication_factor == 2


def test_a_wrong_setting_of_our_own_is_still_told_as_such() -> None:
    with pytest.raises(InvalidSettingsError):
        load_settings(site="Cerro Pachón")


def test_a_command_says_which_variable_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LSST_KAFKA_REPLICATION_FACTOR", "three")
    done = CliRunner().invoke(app, ["config", "show"])
    assert isinstance(done.exception, SalobjVariableError)
    assert "LSST_KAFKA_REPLICATION_FACTOR" in str(done.exception)
