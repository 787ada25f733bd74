"""Cameras as data: read, check and write their YAML documents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from typing_extensions import override

from platevault.compose.camera_documents import CameraDocument
from platevault.compose.camera_rules import ContradictionError, camera_of
from platevault.domain.camera import Camera, Detector, DetectorType, InvalidCameraError


class _StrictLoader(yaml.SafeLoader):
    """YAML in which a key that stands twice is an error instead of a lost value."""

    @override
    def compose_mapping_node(self, anchor: dict[Any, yaml.Node]) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.composer.ComposerError(
                    None, None, f"key {key.value!r} stands twice", key.start_mark
                )
            seen.add(str(key.value))
        return node


def shipped_cameras() -> list[str]:
    """Name the cameras that come with the product, sorted: names for `load_camera`."""
    folder = resources.files("platevault") / "data" / "cameras"
    return sorted(
        entry.name.removesuffix(".yaml")
        for entry in folder.iterdir()
        if entry.name.endswith(".yaml")
    )


def camera_schema() -> dict[str, Any]:
    """Give the JSON schema of a camera document."""
    return CameraDocument.model_json_schema()


def load_camera(name_or_path: str | Path) -> Camera:
    """Read a camera by the name of a shipped one, in any case, or from a YAML file.

    Raises
    ------
    InvalidCameraError
        There is no such camera, or its document is wrong; the context has file, field, value and
        what was expected. Mend the document; nothing was changed.
    """
    name = str(name_or_path)
    if name.lower() in shipped_cameras():
        entry = resources.files("platevault") / "data" / "cameras" / f"{name.lower()}.yaml"
        return parse_camera(entry.read_text(encoding="utf-8"), source=f"{name.lower()}.yaml")
    path = Path(name_or_path)
    if path.suffix not in {".yaml", ".yml"}:
        raise InvalidCameraError(
            "There is no such camera",
            value=name,
            expected=f"one of {', '.join(shipped_cameras())}, or a .yaml file",
        )
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidCameraError(
            "Camera file cannot be read", file=name, problem=str(error)
        ) from error
    return parse_camera(text, source=name)


def parse_camera(text: str, *, source: str = "camera document") -> Camera:
    """Make a camera of the text of a YAML document; errors as `load_camera`, naming ``source``."""
    try:
        content = yaml.load(text, Loader=_StrictLoader)  # noqa: S506  (a subclass of SafeLoader)
    except yaml.YAMLError as error:
        raise InvalidCameraError(
            "Camera file is not YAML", file=source, problem=" ".join(str(error).split())
        ) from error
    try:
        return camera_of(CameraDocument.model_validate(content))
    except ValidationError as error:
        faults = error.errors(include_url=False)
        first = faults[0]
        raise InvalidCameraError(
            "Camera document is wrong",
            file=source,
            field=_path_of(first["loc"]),
            value=first["input"] if first["type"] != "missing" else None,
            expected=first["msg"],
            further_faults=len(faults) - 1,
        ) from error
    except ContradictionError as fault:
        raise InvalidCameraError(fault.message, file=source, **fault.context) from fault


def _path_of(location: Sequence[int | str]) -> str:
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
    return path


# --- writing --------------------------------------------------------------------------------------


def format_camera(camera: Camera) -> str:
    """Write a camera as YAML, every amplifier and filter spelled out.

    `parse_camera` of the text gives an equal camera.
    """
    rafts: dict[str, list[Detector]] = {}
    for detector in camera.detectors:
        rafts.setdefault(detector.raft, []).append(detector)
    types = {detector.type.name: detector.type for detector in camera.detectors}
    content: dict[str, Any] = {
        "name": camera.name,
        "code": camera.code,
        "keyword_set": camera.keyword_set,
        "header_name": camera.header_name,
        "telescope_name": camera.telescope_name,
        "components": asdict(camera.components),
        "site": {
            "name": camera.site,
            "longitude_deg": camera.longitude_deg,
            "latitude_deg": camera.latitude_deg,
            "elevation_m": camera.elevation_m,
        },
        "plate_scale_arcsec_per_mm": camera.plate_scale_arcsec_per_mm,
        "partition": camera.partition,
        "platform": camera.platform,
        "extname_prefix": camera.extname_prefix,
        "word_bits": camera.word_bits,
        "readout_s": camera.readout_s,
        "limits": {"exposure_max": camera.exposure_max, "detector_max": camera.detector_max},
    }
    if camera.obs_class:
        content["obs_lsst"] = {
            "instrument_class": camera.obs_class,
            "formatter": camera.obs_formatter,
        }
    content |= {
        "constants": dict(camera.constants),
        "detector_types": {name: _type_content(one) for name, one in sorted(types.items())},
        "raft_layouts": {
            name: _layout_content(camera, name, members) for name, members in rafts.items()
        },
        "rafts": [_raft_content(camera, name, members) for name, members in rafts.items()],
        "filters": [{"name": one.name, "band": one.band} for one in camera.filters],
    }
    return yaml.safe_dump(content, sort_keys=False, default_flow_style=None, width=100)


def _type_content(one: DetectorType) -> dict[str, Any]:
    content = asdict(one)
    del content["name"]
    content["amplifiers"] = [asdict(amp) for amp in one.amplifiers]
    return content


def _layout_content(camera: Camera, raft: str, members: Sequence[Detector]) -> dict[str, Any]:
    boards = [board for board in camera.boards if board.name.startswith(f"{raft}/")]
    return {
        "detectors": [
            {
                "slot": one.slot,
                "x_mm": one.centre_x_mm,
                "y_mm": one.centre_y_mm,
                "orientation_deg": int(one.orientation_deg),
                "offset": one.id - members[0].id,
                "type": one.type.name,
                "purpose": str(one.purpose),
            }
            for one in members
        ],
        "boards": [
            {
                "board": board.location.partition("/")[2],
                "name": board.name.partition("/")[2],
                "slots": [name.partition("_")[2] for name in board.detectors],
            }
            for board in boards
        ],
    }


def _raft_content(camera: Camera, raft: str, members: Sequence[Detector]) -> dict[str, Any]:
    boards = [board for board in camera.boards if board.name.startswith(f"{raft}/")]
    return {
        "name": raft,
        "layout": raft,
        "first_id": members[0].id,
        "serial": members[0].raft_serial,
        "bay": boards[0].location.partition("/")[0],
        "frame_bay": members[0].frame_bay,
        "serials": {one.slot: one.serial for one in members if one.serial},
        "maker_serials": {one.slot: one.maker_serial for one in members if one.maker_serial},
        "boards": {
            board.name.partition("/")[2]: {"serial": board.serial, "lsst_name": board.lsst_name}
            for board in boards
        },
    }
