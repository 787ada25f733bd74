"""Cameras whose detectors have few pixels, so that all but the pixels weighs as in real ones."""

from __future__ import annotations

from dataclasses import replace

from platevault.domain.camera import Camera, DetectorType

#: Columns before, columns after, and rows after the data of a small amplifier [pixel].
_PRESCAN, _SERIAL_OVERSCAN, _PARALLEL_OVERSCAN = 3, 5, 2


def with_small_frames(camera: Camera, *, columns: int, rows: int) -> Camera:
    """Give a camera that differs in the size of its amplifiers alone.

    Parameters
    ----------
    camera
        Any camera.
    columns, rows
        Size of an amplifier's data [pixel].
    """
    kinds = {one.type.name: _smaller(one.type, columns, rows) for one in camera.detectors}
    return replace(
        camera,
        detectors=tuple(replace(one, type=kinds[one.type.name]) for one in camera.detectors),
    )


def _smaller(kind: DetectorType, columns: int, rows: int) -> DetectorType:
    return replace(
        kind,
        data_columns=columns,
        data_rows=rows,
        prescan=_PRESCAN,
        serial_overscan=_SERIAL_OVERSCAN,
        parallel_overscan=_PARALLEL_OVERSCAN,
        amplifiers=tuple(
            replace(
                amplifier,
                x0=amplifier.x0 // kind.data_columns * columns,
                y0=amplifier.y0 // kind.data_rows * rows,
            )
            for amplifier in kind.amplifiers
        ),
    )
