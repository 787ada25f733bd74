"""Variables that users of ts_salobj 8 know, as settings of ours."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from platevault.compose.kafka_files import KafkaFileError, read_history_limits, read_options
from platevault.compose.server_settings import KafkaPart, SecretFileError
from platevault.domain.errors import UsageError

#: Variables and the fields of the part ``kafka`` that they set (SAL over Kafka, section 12).
SALOBJ_VARIABLES: Mapping[str, str] = {
    "LSST_KAFKA_BROKER_ADDR": "brokers",
    "LSST_SCHEMA_REGISTRY_URL": "registry_url",
    "LSST_TOPIC_SUBNAME": "subname",
    "LSST_KAFKA_REPLICATION_FACTOR": "replication_factor",
    "LSST_KAFKA_PRODUCER_WAIT_ACKS": "acks",
    "LSST_KAFKA_SECURITY_PROTOCOL": "security_protocol",
    "LSST_KAFKA_SECURITY_MECHANISM": "sasl_mechanism",
    "LSST_KAFKA_SECURITY_USERNAME": "username",
    "LSST_KAFKA_SECURITY_PASSWORD": "password",
    "LSST_KAFKA_BROKER_CLIENT_CONFIGURATION": "client_options_file",
    "LSST_KAFKA_CONSUMER_CONFIGURATION": "consumer_options_file",
    "LSST_KAFKA_PRODUCER_CONFIGURATION": "producer_options_file",
    "LSST_MAX_HISTORY_READ": "history_limit",
    "LSST_HISTORY_READ_CONFIG": "history_limits_file",
}
#: Sets the name of the site.
SITE_VARIABLE = "LSST_SITE"
#: Fields that name a file, and what reads it.
_READERS: Mapping[str, Callable[[Path], object]] = {
    "client_options_file": read_options,
    "consumer_options_file": read_options,
    "producer_options_file": read_options,
    "history_limits_file": read_history_limits,
}


class SalobjVariableError(UsageError):
    """A variable of ts_salobj has a value that cannot be: mend or unset it; nothing was started."""


def salobj_fields(environment: Mapping[str, str], *, own: Mapping[str, Any]) -> dict[str, Any]:
    """Give what the variables of ts_salobj set and our own settings do not, as a tree of settings.

    One that is empty counts as unset.

    Parameters
    ----------
    environment
        All variables.
    own
        Tree of our own settings, which win.

    Raises
    ------
    SalobjVariableError
        A value is wrong, or the file that it names: variable, value and what was expected.
    """
    part = own.get("kafka")
    taken = part if isinstance(part, Mapping) else {}
    kafka = {
        field: _checked(variable, field, environment[variable])
        for variable, field in SALOBJ_VARIABLES.items()
        if environment.get(variable) and field not in taken
    }
    tree: dict[str, Any] = {"kafka": kafka} if kafka else {}
    if environment.get(SITE_VARIABLE) and "site" not in own:
        tree["site"] = environment[SITE_VARIABLE]
    return tree


def _checked(variable: str, field: str, value: str) -> str:
    secret = field == "password"
    try:
        KafkaPart.model_validate({field: value})
        reader = _READERS.get(field)
        if reader is not None:
            reader(Path(value))
    except ValidationError as error:
        raise SalobjVariableError(
            "A variable of ts_salobj is not valid",
            variable=variable,
            value="***" if secret else value,
            expected=error.errors(include_url=False)[0]["msg"],
        ) from (None if secret else error)
    except (KafkaFileError, SecretFileError) as error:
        raise SalobjVariableError(
            "A variable of ts_salobj names a file that cannot be used",
            variable=variable,
            value=value,
            problem=error.context.get("problem", error.args[0] if error.args else ""),
            expected=error.context.get("expected", "a readable file"),
        ) from error
    return value
