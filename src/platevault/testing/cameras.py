"""Cameras small enough for tests that move real pixels."""

from __future__ import annotations

from platevault.domain.camera import (
    Amplifier,
    Board,
    Camera,
    Components,
    Detector,
    DetectorType,
    Filter,
    SensorPurpose,
)

_COLUMNS, _ROWS = 32, 16


def tiny_detector_type(
    name: str = "tiny", *, channels: tuple[int, ...] = (2, 3, 1, 0), xor_mask: int = 0x1FFFF
) -> DetectorType:
    """Make a detector type of four amplifiers, two by two.

    Parameters
    ----------
    name
        Name of the type.
    channels
        DAQ channel of each amplifier in HDU order.
    xor_mask
        Applied to each word.

    Returns
    -------
    DetectorType
        Segments of 40 x 18 pixels, data 32 x 16, prescan 3, overscans 5 and 2.
    """
    places = (
        # name, x0, y0, flip_x, flip_y
        ("10", 0, _ROWS, False, True),
        ("11", _COLUMNS, _ROWS, True, True),
        ("01", _COLUMNS, 0, True, False),
        ("00", 0, 0, False, False),
    )
    return DetectorType(
        name=name,
        vendor="TINY",
        model="T-4",
        data_columns=_COLUMNS,
        data_rows=_ROWS,
        prescan=3,
        serial_overscan=5,
        parallel_overscan=2,
        amplifiers=tuple(
            Amplifier(
                name=label,
                channel=channel,
                x0=x0,
                y0=y0,
                flip_x=flip_x,
                flip_y=flip_y,
            )
            for (label, x0, y0, flip_x, flip_y), channel in zip(places, channels, strict=True)
        ),
        xor_mask=xor_mask,
        pixel_um=10.0,
        frames="assembly",
        saturation_adu=0x3FFFF,
        gain_e_per_adu=1.6,
        bias_adu=25000.0,
        read_noise_adu=5.0,
    )


def tiny_camera(
    *, name: str = "TinyCam", code: str = "TC", readout_s: float = 2.0, exposure_max: int = 2**31
) -> Camera:
    """Make a camera of two boards with two small detectors each.

    Board ``22/0`` has the science detectors R22_S00 and R22_S01, board ``00/1`` the guiders R00_SG0
    and R00_SG1; both deliver the second detector first, as real boards do. The types differ in
    channel order and mask.
    """
    science = tiny_detector_type("science")
    guider = tiny_detector_type("guider", channels=(0, 1, 2, 3), xor_mask=0x20000)
    places = (
        ("R22", "S00", science, SensorPurpose.SCIENCE, -0.4, 0.0, 0.0),
        ("R22", "S01", science, SensorPurpose.SCIENCE, 0.4, 0.0, 0.0),
        ("R00", "SG0", guider, SensorPurpose.GUIDER, -0.4, -0.5, 90.0),
        ("R00", "SG1", guider, SensorPurpose.GUIDER, 0.4, -0.5, 180.0),
    )
    return Camera(
        name=name,
        code=code,
        keyword_set="ComCam",
        header_name=name,
        telescope_name="Tiny Telescope",
        components=Components(
            camera="CCCamera",
            header_service="CCHeaderService",
            archiver="CCArchiver",
            oods="CCOODS",
        ),
        detectors=tuple(
            Detector(
                id=number,
                raft=raft,
                slot=slot,
                type=kind,
                purpose=purpose,
                serial=f"TINY-{number:03d}",
                maker_serial=f"{20000 + number}",
                raft_serial=f"LCA-{raft}",
                centre_x_mm=x_mm,
                centre_y_mm=y_mm,
                orientation_deg=orientation,
            )
            for number, (raft, slot, kind, purpose, x_mm, y_mm, orientation) in enumerate(places)
        ),
        boards=(
            Board("00/1", "R00/RebG", ("R00_SG1", "R00_SG0"), "19a1b2", "TINY-REB-2"),
            Board("22/0", "R22/Reb0", ("R22_S01", "R22_S00"), "19a1b1", "TINY-REB-1"),
        ),
        filters=(Filter("r_tiny", "r"), Filter("i_tiny", "i"), Filter("pinhole")),
        extname_prefix="Segment",
        partition="tiny",
        platform="sim",
        # Coarse pixels, so that a field of 64 x 32 of them has stars.
        plate_scale_arcsec_per_mm=400.0,
        exposure_max=exposure_max,
        detector_max=4,
        site="Cerro Pachon",
        longitude_deg=-70.749417,
        latitude_deg=-30.244639,
        elevation_m=2663.0,
        readout_s=readout_s,
    )
