"""What a Butler repository has, read without our adapter."""

from __future__ import annotations

from pathlib import Path

from lsst.daf.butler import Butler

from platevault.domain.camera import Camera
from platevault.domain.ids import ImageName


def stored_datasets(repository: Path, camera: Camera, image: str) -> dict[str, tuple[str, str]]:
    """Give the raw datasets of an image: sensor -> (dataset id, path)."""
    sensors = {detector.id: detector.name for detector in camera.detectors}
    with Butler.from_config(str(repository)) as butler:
        refs = butler.query_datasets(
            "raw",
            collections=f"{camera.name}/raw/all",
            instrument=camera.name,
            exposure=ImageName.parse(image).exposure_id,
            explain=False,
        )
        return {
            sensors[ref.dataId["detector"]]: (str(ref.id), butler.getURI(ref).ospath)
            for ref in refs
        }
