"""Settings become the options of the client that stock SAL uses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from platevault.adapters.kafka.settings import KafkaSettings, KafkaSettingsError


def settings(**more: Any) -> KafkaSettings:
    return KafkaSettings(brokers="broker:29092", registry_url="http://registry:8081", **more)


def test_without_an_account_nothing_is_encrypted_or_signed() -> None:
    options = settings().client()
    assert options["bootstrap.servers"] == "broker:29092"
    assert options["security.protocol"] == "PLAINTEXT"
    assert not [name for name in options if name.startswith("sasl.")]


@pytest.mark.parametrize("given", [{"username": "a"}, {"password": "b"}])
def test_half_an_account_is_none(given: dict[str, str]) -> None:
    assert settings(**given).client()["security.protocol"] == "PLAINTEXT"


def test_an_account_is_used_with_the_observatory_s_mechanism() -> None:
    options = settings(username="archiver", password="secret").client()
    assert options["security.protocol"] == "SASL_PLAINTEXT"
    assert options["sasl.mechanism"] == "SCRAM-SHA-512"
    assert (options["sasl.username"], options["sasl.password"]) == ("archiver", "secret")


def test_certificates_belong_to_tls_alone() -> None:
    files = {"ca_file": Path("/ca.pem"), "certificate_file": Path("/c.pem"), "key_file": Path("/k")}
    assert "ssl.ca.location" not in settings(**files).client()
    options = settings(security_protocol="SASL_SSL", **files).client()
    assert options["security.protocol"] == "SSL"
    assert options["ssl.ca.location"] == "/ca.pem"
    assert options["ssl.certificate.location"] == "/c.pem"
    assert options["ssl.key.location"] == "/k"
    assert "ssl.key.password" not in options


def test_options_of_the_site_win() -> None:
    given = settings(
        client_options={"socket.keepalive.enable": "true", "reconnect.backoff.ms": "7"},
        consumer_options={"fetch.wait.max.ms": "11"},
        producer_options={"linger.ms": "5"},
    )
    assert given.producer()["reconnect.backoff.ms"] == "7"
    assert given.producer()["linger.ms"] == "5"
    assert "fetch.wait.max.ms" not in given.producer()
    consumer = given.consumer("group")
    assert (consumer["fetch.wait.max.ms"], consumer["reconnect.backoff.ms"]) == ("11", "7")
    assert "linger.ms" not in consumer
    assert consumer["socket.keepalive.enable"] == "true"


@pytest.mark.parametrize(("acks", "idempotent"), [("all", "true"), ("-1", "true"), ("1", "false")])
def test_repeats_are_recognised_only_where_all_copies_are_waited_for(
    acks: str, idempotent: str
) -> None:
    assert settings(acks=acks).producer()["enable.idempotence"] == idempotent


def test_positions_are_never_committed_or_reset_unasked() -> None:
    consumer = settings().consumer("group")
    assert consumer["enable.auto.commit"] == "false"
    assert consumer["auto.offset.reset"] == "error"
    assert consumer["check.crcs"] == "true"


def test_the_depth_of_the_past_may_differ_by_component() -> None:
    given = settings(history_limit=100, history_limits={"ESS": 2000})
    assert (given.history_limit_of("ESS"), given.history_limit_of("OCPS")) == (2000, 100)
    assert settings().history_limit_of("OCPS") == 500


@pytest.mark.parametrize("wrong", [{"security_protocol": "TELNET"}, {"brokers": ""}])
def test_settings_that_cannot_work_are_refused(wrong: dict[str, str]) -> None:
    values: dict[str, Any] = {"brokers": "b", "registry_url": "u", **wrong}
    given = KafkaSettings(username="a", password="p", **values)
    with pytest.raises(KafkaSettingsError):
        given.client()


def test_secrets_are_not_shown() -> None:
    given = settings(
        password="hush", key_password="hush", registry_password="hush",
        client_options={"sasl.oauthbearer.client.secret": "hush"},
    )  # fmt: skip
    assert "hush" not in repr(given)
