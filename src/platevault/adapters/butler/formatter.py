"""Reads raw files for the Butler; needs nothing but pip packages.

Any process that opens the repository imports this module by its recorded name.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any, ClassVar

from lsst.daf.butler import FormatterV2
from typing_extensions import override

from platevault.adapters.butler.raw_file import read_dimensions, read_metadata, read_raw_image


class RawFormatter(FormatterV2):  # type: ignore[misc]  # the library is not typed for us
    """Gives a raw file as a `RawImage`, its ``metadata`` or its ``dimensions``.

    The parameter ``bbox``, ``(x0, y0, x1, y1)`` in the assembled detector [pixel], limits reading
    to the amplifiers and rows that it needs.
    """

    supported_extensions: ClassVar[AbstractSet[str]] = frozenset(
        {".fits", ".fits.fz", ".fit", ".fz"}
    )
    unsupported_parameters: ClassVar[AbstractSet[str] | None] = frozenset()
    can_read_from_local_file: ClassVar[bool] = True

    @override
    def read_from_local_file(
        self, path: str, component: str | None = None, expected_size: int = -1
    ) -> Any:
        if component == "metadata":
            return read_metadata(Path(path))
        if component == "dimensions":
            return read_dimensions(Path(path))
        parameters = self.file_descriptor.parameters or {}
        return read_raw_image(Path(path), parameters.get("bbox"))
