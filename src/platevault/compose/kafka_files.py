"""Files that settings of Kafka name: further options of its clients, and lengths of the past."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from platevault.compose.server_settings import refuse_readable_by_others
from platevault.domain.errors import UsageError

#: Parts of the names of options that are secrets (librdkafka, CONFIGURATION.md).
_SECRET = ("password", "secret")


class KafkaFileError(UsageError):
    """A file of Kafka settings is wrong: mend it, or do not name it; nothing was started."""


def read_options(file: Path | None) -> dict[str, str]:
    """Read options of librdkafka by name; none without a file.

    Raises
    ------
    KafkaFileError
        It cannot be read, or is no mapping of names to plain values.
    SecretFileError
        It holds a password and others can read it.
    """
    if file is None:
        return {}
    expected = "a mapping of librdkafka options (YAML), such as ssl.ca.location: /etc/ssl/ca.pem"
    options = {}
    for name, value in _read(file, expected).items():
        if isinstance(value, bool):
            options[name] = str(value).lower()
        elif isinstance(value, str | int | float):
            options[name] = str(value)
        else:
            raise KafkaFileError(
                "An option of Kafka has no plain value",
                file=str(file),
                field=name,
                problem=f"{name} is a {type(value).__name__}",
                expected=expected,
            )
    if any(part in name for name in options for part in _SECRET):
        refuse_readable_by_others(file)
    return options


def read_history_limits(file: Path | None) -> dict[str, int]:
    """Read by component how many messages are read for its past; none without a file.

    Raises
    ------
    KafkaFileError
        It cannot be read, or is no mapping of components to numbers.
    """
    if file is None:
        return {}
    expected = "a mapping of components to numbers of messages, 1 or more (YAML), such as Test: 500"
    limits = {}
    for name, value in _read(file, expected).items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise KafkaFileError(
                "A length of the past is no number",
                file=str(file),
                field=name,
                problem=f"{name} is {value!r}",
                expected=expected,
            )
        limits[name] = value
    return limits


def _read(file: Path, expected: str) -> dict[str, Any]:
    try:
        loaded = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise KafkaFileError(
            "A file of Kafka settings cannot be read",
            file=str(file),
            problem=str(error),
            expected=expected,
        ) from error
    if loaded is None:
        return {}
    if not isinstance(loaded, dict):
        raise KafkaFileError(
            "A file of Kafka settings is no mapping",
            file=str(file),
            problem=f"it is a {type(loaded).__name__}",
            expected=expected,
        )
    return {str(name): value for name, value in loaded.items()}
