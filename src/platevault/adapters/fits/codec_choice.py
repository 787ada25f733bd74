"""Which codec is at work: the fastest that this machine can run, or the one asked for."""

from __future__ import annotations

from enum import StrEnum
from importlib import import_module

import structlog

from platevault.adapters.fits.codec import Codec, CodecInfo
from platevault.adapters.fits.library_codec import LibraryCodec
from platevault.adapters.fits.native_codec import Level, NativeCodec
from platevault.domain.errors import UsageError

_log = structlog.get_logger(__name__)


class CodecName(StrEnum):
    """What can be asked for."""

    AUTO = "auto"
    """The fastest there is."""
    AVX2 = "avx2"
    """Compiled kernel, AVX2."""
    PORTABLE = "portable"
    """Compiled kernel without special instructions."""
    NUMBA = "numba"
    """Compiled at start by numba."""
    LIBRARY = "library"
    """NumPy and fitsio."""


class CodecUnavailableError(UsageError):
    """The codec asked for cannot run here: ask for another, or ``auto``."""


def choose_codec(name: str = CodecName.AUTO) -> Codec:
    """Give the fastest codec, with a warning in the log if that is slow, or the one asked for.

    Raises
    ------
    CodecUnavailableError
        The codec asked for is unknown, was not built, or needs another processor.
    """
    match name:
        case CodecName.AUTO:
            return _fastest()
        case CodecName.AVX2:
            return _native(Level.AVX2)
        case CodecName.PORTABLE:
            return _native(Level.PORTABLE)
        case CodecName.NUMBA:
            return _numba("asked for")
        case CodecName.LIBRARY:
            return LibraryCodec()
        case _:
            raise CodecUnavailableError(
                "Unknown codec", value=name, expected=[str(known) for known in CodecName]
            )


def active_codec(name: str = CodecName.AUTO) -> CodecInfo:
    """Tell which codec `choose_codec` gives; for ``platevault version`` and status pages."""
    return choose_codec(name).info


def _fastest() -> Codec:
    reasons = []
    for level in sorted(Level, reverse=True):
        try:
            return _native(level)
        except CodecUnavailableError as error:
            reasons.append(str(error.context["reason"]))
    reason = reasons[-1]
    try:
        codec = _numba(reason)
    except CodecUnavailableError:
        codec = LibraryCodec(reason=reason)
    _log.warning("Slow pixel codec at work", **_facts(codec))
    return codec


def _facts(codec: Codec) -> dict[str, str]:
    return {"codec": codec.info.name, "codec_level": codec.info.level, "detail": codec.info.detail}


def _native(level: Level) -> Codec:
    try:
        kernel = import_module("platevault.adapters.fits._kernel")
    except ImportError as error:
        raise CodecUnavailableError(
            "Codec cannot run here",
            value=level.name.lower(),
            reason=f"the kernel was not built or does not load: {error}",
        ) from error
    if not kernel.has_level(level):
        raise CodecUnavailableError(
            "Codec cannot run here", value=level.name.lower(), reason="the processor lacks AVX2"
        )
    return NativeCodec(kernel=kernel, level=level)


def _numba(reason: str) -> Codec:
    try:
        module = import_module("platevault.adapters.fits.numba_codec")
    except ImportError as error:
        raise CodecUnavailableError(
            "Codec cannot run here",
            value="numba",
            reason="numba is not installed: pip install 'platevault[numba]'",
        ) from error
    codec: Codec = module.NumbaCodec(reason=reason)
    return codec
