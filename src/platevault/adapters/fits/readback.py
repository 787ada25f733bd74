"""Read raw files by another library than wrote them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from platevault.domain.errors import IntegrityError


class UnreadableFileError(IntegrityError):
    """A raw file cannot be read back: touch nothing, call a person."""


def read_amplifier_planes(path: Path, amplifiers: int) -> NDArray[np.int32]:
    """Read the counts of a raw file with fitsio.

    Parameters
    ----------
    path
        The file.
    amplifiers
        How many it must have.

    Returns
    -------
    numpy.ndarray
        Counts in HDU order, shape ``(amplifiers, rows, columns)`` [adu].

    Raises
    ------
    UnreadableFileError
        The file is missing, damaged, or has another number of images.
    """
    import fitsio

    try:
        with fitsio.FITS(str(path)) as file:
            if len(file) < amplifiers + 1:
                raise UnreadableFileError(
                    "Raw file has too few images",
                    file=str(path),
                    value=len(file) - 1,
                    expected=amplifiers,
                )
            return np.stack([file[number].read() for number in range(1, amplifiers + 1)])
    except (OSError, ValueError) as error:
        raise UnreadableFileError(
            "Raw file cannot be read", file=str(path), problem=str(error)
        ) from error
