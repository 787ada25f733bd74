"""Logs say what happened and hide secrets."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from prometheus_client import CollectorRegistry

from platevault.domain.errors import PermanentError
from platevault.runtime.metrics import Metrics
from platevault.runtime.observe import configure_logging, hide_secrets


@pytest.fixture(autouse=True)
def _restored_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


def _lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_is_one_object_with_its_facts_and_the_ids_in_hand() -> None:
    stream = io.StringIO()
    configure_logging(json=True, stream=stream)
    with structlog.contextvars.bound_contextvars(image="CC_O_20250415_000001"):
        structlog.get_logger("platevault.x").info("File written", size_bytes=7, name_of="Ångström")
    structlog.get_logger("platevault.x").info("Done")
    first, second = _lines(stream)
    assert first.pop("timestamp").endswith("Z")
    assert first == {
        "event": "File written",
        "level": "info",
        "logger": "platevault.x",
        "image": "CC_O_20250415_000001",
        "size_bytes": 7,
        "name_of": "Ångström",
    }
    assert "image" not in second


def test_lines_of_libraries_look_the_same() -> None:
    stream = io.StringIO()
    configure_logging(json=True, stream=stream)
    logging.getLogger("lsst.daf").warning("Registry %s is slow", "x", extra={"run": "raw/all"})
    (line,) = _lines(stream)
    assert (line["event"], line["level"], line["logger"], line["run"]) == (
        "Registry x is slow",
        "warning",
        "lsst.daf",
        "raw/all",
    )


@pytest.mark.parametrize(("level", "expected"), [("DEBUG", 3), ("INFO", 2), ("ERROR", 1)])
def test_lines_below_the_level_are_not_written(level: str, expected: int) -> None:
    stream = io.StringIO()
    configure_logging(json=True, level=level, stream=stream)
    log = structlog.get_logger("platevault.x")
    log.debug("a")
    log.info("b")
    log.error("c")
    assert len(_lines(stream)) == expected


def test_configuring_again_replaces_and_does_not_double() -> None:
    first, second = io.StringIO(), io.StringIO()
    configure_logging(json=True, stream=first)
    configure_logging(json=True, stream=second)
    structlog.get_logger("platevault.x").info("once")
    assert first.getvalue() == ""
    assert len(_lines(second)) == 1


def test_an_error_gives_its_class_context_and_trace() -> None:
    stream = io.StringIO()
    configure_logging(json=True, stream=stream)
    try:
        raise ExceptionGroup("x", [PermanentError("No such file", file="a.fits", event="kept")])
    except ExceptionGroup:
        structlog.get_logger("platevault.x").exception("Work failed", sensor="R22_S00")
    (line,) = _lines(stream)
    assert (line["event"], line["level"], line["error"]) == (
        "Work failed",
        "error",
        "ExceptionGroup",
    )
    assert (line["file"], line["sensor"]) == ("a.fits", "R22_S00")
    assert "No such file" in line["trace"]


def test_people_get_text() -> None:
    stream = io.StringIO()
    configure_logging(json=False, stream=stream)
    structlog.get_logger("platevault.x").info("File written", size_bytes=7)
    assert "File written" in stream.getvalue()
    assert "size_bytes=7" in stream.getvalue()
    with pytest.raises(json.JSONDecodeError):
        _lines(stream)


@pytest.mark.parametrize("as_json", [True, False])
def test_secrets_are_not_written(as_json: bool) -> None:
    stream = io.StringIO()
    configure_logging(json=as_json, stream=stream)
    log = structlog.get_logger("platevault.x")
    secret = "hunter2"
    log.info("Connected to %s", f"amqp://guest:{secret}@broker:5672/vhost")
    log.info("Read {'password': 'hunter2', \"db_token\": \"hunter2\", api_key=hunter2}")
    log.info(
        "Settings",
        password=secret,
        api_key=secret,
        PLATEVAULT_TOKEN=secret,
        nested={"deep": [{"client_secret": secret}], "url": f"redis://:{secret}@r/0"},
        addresses=(f"https://me:{secret}@h/x", "https://h/x"),
        error=PermanentError("x", url=f"kafka://u:{secret}@k"),
    )
    try:
        raise PermanentError("No", url=f"http://u:{secret}@h", secret=secret)
    except PermanentError:
        log.exception("Failed")
    logging.getLogger("aio_pika").warning("retry %s", f"amqp://u:{secret}@b")
    text = stream.getvalue()
    assert "broker:5672" in text
    assert "https://h/x" in text
    assert "guest:***@" in text
    assert secret not in text


def test_what_only_looks_like_a_secret_is_shown() -> None:
    event = {
        "event": "at 12:30 see a@b",
        "passes": 3,
        "path": "/a/b:c@d",
        "body": b"x",
        "image": "https://host/path@2",
        "text": "3 tokens were taken; secretly: nothing; StopToken(requested=True)",
    }
    assert hide_secrets(None, "info", dict(event)) == event


def test_lines_are_counted_by_level() -> None:
    metrics = Metrics(CollectorRegistry())
    configure_logging(json=True, stream=io.StringIO(), on_line=metrics.count_line)
    log = structlog.get_logger("platevault.x")
    log.error("a")
    log.error("b")
    logging.getLogger("lsst").warning("c")
    log.debug("not written")

    def count(level: str) -> float | None:
        return metrics.registry.get_sample_value(
            "platevault_process_log_lines_total", {"level": level}
        )

    assert (count("error"), count("warning"), count("debug")) == (2.0, 1.0, None)
