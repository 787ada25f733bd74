"""Amplifier planes to the assembled detector, and back.

References
----------
Placing and turning of amplifiers: ``raw-fits`` contract, section 3.4.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from platevault.domain.camera import DetectorType
from platevault.domain.wire import MalformedPixelsError


def assemble(planes: Sequence[NDArray[np.int32]], detector_type: DetectorType) -> NDArray[np.int32]:
    """Put the data of every amplifier in its place and leave the overscan out.

    Parameters
    ----------
    planes
        One plane per amplifier in HDU order, each of shape ``(rows, columns)`` [adu], as read.

    Returns
    -------
    numpy.ndarray
        Shape ``(trimmed_rows, trimmed_columns)`` [adu]. A new array; ``planes`` are untouched.

    Raises
    ------
    MalformedPixelsError
        Number or shape of the planes is not that of the detector type. Do not retry.
    """
    kind = detector_type
    if len(planes) != len(kind.amplifiers):
        raise MalformedPixelsError(
            "Detector has not a plane for each amplifier",
            value=len(planes),
            expected=len(kind.amplifiers),
        )
    whole = np.zeros((kind.trimmed_rows, kind.trimmed_columns), dtype=np.int32)
    for amp, plane in zip(kind.amplifiers, planes, strict=True):
        if plane.shape != (kind.rows, kind.columns):
            raise MalformedPixelsError(
                "Amplifier plane has another shape",
                amplifier=amp.name,
                value=plane.shape,
                expected=(kind.rows, kind.columns),
            )
        data = plane[: kind.data_rows, kind.prescan : kind.prescan + kind.data_columns]
        whole[amp.y0 : amp.y0 + kind.data_rows, amp.x0 : amp.x0 + kind.data_columns] = data[
            :: -1 if amp.flip_y else 1, :: -1 if amp.flip_x else 1
        ]
    return whole


def take_apart(
    whole: NDArray[np.int32], detector_type: DetectorType
) -> tuple[NDArray[np.int32], ...]:
    """Cut an assembled detector into the data of its amplifiers, in the order of reading.

    The opposite of `assemble`.

    Parameters
    ----------
    whole
        Shape ``(trimmed_rows, trimmed_columns)`` [adu].

    Returns
    -------
    tuple
        One view of ``whole`` per amplifier in HDU order, each of shape
        ``(data_rows, data_columns)``, without overscan.

    Raises
    ------
    MalformedPixelsError
        ``whole`` has another shape. Do not retry.
    """
    kind = detector_type
    if whole.shape != (kind.trimmed_rows, kind.trimmed_columns):
        raise MalformedPixelsError(
            "Detector image has another shape",
            value=whole.shape,
            expected=(kind.trimmed_rows, kind.trimmed_columns),
        )
    return tuple(
        whole[amp.y0 : amp.y0 + kind.data_rows, amp.x0 : amp.x0 + kind.data_columns][
            :: -1 if amp.flip_y else 1, :: -1 if amp.flip_x else 1
        ]
        for amp in kind.amplifiers
    )
