"""Logs: one line per fact, in JSON or for people, and never a secret.

Identifiers of the work in hand (image, sensor, component) are bound once with
``structlog.contextvars.bound_contextvars`` and stand in every line below.
"""

from __future__ import annotations

import logging
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TextIO

import structlog
from structlog.typing import EventDict, Processor

from platevault.domain.errors import PlatevaultError

#: Told of each line that is written: its level.
OnLine = Callable[[str], None]

_HIDDEN = "***"
#: Names of fields whose value is hidden, whatever it is.
_SECRET_NAME = re.compile(
    r"pass(word|wd|phrase)?$|secret|token|credential|api_?key|private_?key|authorization|cookie",
    re.IGNORECASE,
)
#: ``user:password@`` of an address, wherever it stands in a text.
_SECRET_IN_URL = re.compile(r"(?<=://)([^\s/@:]*):([^\s/@]+)@")
#: ``password='...'`` within a text, as errors and settings print themselves.
_SECRET_IN_TEXT = re.compile(
    r"(\b\w*(?:password|passwd|passphrase|secret|token|credential|api_?key|private_?key)"
    r"['\"]?\s*[=:]\s*)(?:'[^']*'|\"[^\"]*\"|[^\s,;)}\]]+)",
    re.IGNORECASE,
)
_DEPTH_LIMIT = 6


def configure_logging(
    *,
    json: bool,
    level: str = "INFO",
    stream: TextIO | None = None,
    on_line: OnLine | None = None,
) -> None:
    """Set up the logs of this process, those of libraries included.

    Call it once, from the outermost layer; again replaces what was set.

    Parameters
    ----------
    json
        One JSON object per line; otherwise text for a terminal.
    level
        Lowest level that is written: DEBUG, INFO, WARNING or ERROR.
    stream
        Where lines go; standard error if ``None``.
    on_line
        Told the level of each line, for metrics.
    """
    target = stream if stream is not None else sys.stderr
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.stdlib.ExtraAdder(),
        *([_teller(on_line)] if on_line is not None else []),
    ]
    last: list[Processor] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta]
    if json:
        last += [
            _explain_error,
            hide_secrets,
            structlog.processors.JSONRenderer(default=str, ensure_ascii=False),
        ]
    else:
        last += [
            _explain_error,
            hide_secrets,
            structlog.dev.ConsoleRenderer(colors=target.isatty()),
        ]
    handler = logging.StreamHandler(target)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=last)
    )
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )


def hide_secrets(_logger: Any, _method: str, event: EventDict) -> EventDict:
    """Hide values of fields with a secret's name, and passwords in addresses."""
    return {name: _shown(name, value, 0) for name, value in event.items()}


def _shown(name: str, value: object, depth: int) -> object:
    if _SECRET_NAME.search(name):
        return _HIDDEN
    if isinstance(value, str):
        value = _SECRET_IN_URL.sub(rf"\1:{_HIDDEN}@", value)
        return _SECRET_IN_TEXT.sub(rf"\1{_HIDDEN}", value)
    if depth < _DEPTH_LIMIT:
        if isinstance(value, Mapping):
            return {str(key): _shown(str(key), one, depth + 1) for key, one in value.items()}
        if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
            return [_shown("", one, depth + 1) for one in value]
    if isinstance(value, BaseException):
        return _shown("", f"{type(value).__name__}: {value}", depth)
    return value


def _explain_error(_logger: Any, _method: str, event: EventDict) -> EventDict:
    """Put class, context and trace of an exception into fields."""
    error = event.pop("exc_info", None)
    if error is True:
        error = sys.exc_info()[1]
    elif isinstance(error, tuple):
        error = error[1]
    if isinstance(error, BaseException):
        event["error"] = type(error).__name__
        event["trace"] = "".join(traceback.format_exception(error))
        for one in _leaves(error):
            if isinstance(one, PlatevaultError):
                for name, value in one.context.items():
                    event.setdefault(name, value)
    return event


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for part in error.exceptions:
            yield from _leaves(part)
    else:
        yield error


def _teller(on_line: OnLine) -> Processor:
    def tell(_logger: Any, _method: str, event: EventDict) -> EventDict:
        on_line(str(event.get("level", "info")))
        return event

    return tell
