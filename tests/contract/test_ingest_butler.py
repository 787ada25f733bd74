"""The Butler adapter keeps the contract of catalogues."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path

import pytest
from lsst.daf.butler import Butler
from typing_extensions import override

from platevault.adapters.butler.configuration import Compatibility
from platevault.adapters.butler.ingest import ButlerIngest
from platevault.domain.camera import Camera
from platevault.domain.ids import ImageName
from platevault.ports.ingest import Ingest
from platevault.testing.cameras import tiny_camera
from platevault.testing.ingest_contract import IngestContract


class TestButlerIngest(IngestContract):
    compatibility = Compatibility.PLATEVAULT

    @override
    def open_ingest(self, directory: Path) -> AbstractAsyncContextManager[Ingest]:
        return ButlerIngest(repository=directory / "repo", compatibility=self.compatibility)

    @override
    def stored(self, directory: Path, camera: Camera, image: str) -> Mapping[str, tuple[str, str]]:
        sensors = {detector.id: detector.name for detector in camera.detectors}
        with Butler.from_config(str(directory / "repo")) as butler:
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


class TestButlerIngestWithNamesOfObsLsst(TestButlerIngest):
    compatibility = Compatibility.OBS_LSST

    @pytest.fixture
    @override
    def camera(self) -> Camera:
        return replace(
            tiny_camera(),
            obs_class="lsst.obs.lsst.LsstComCam",
            obs_formatter="lsst.obs.lsst.rawFormatter.LsstComCamRawFormatter",
        )
