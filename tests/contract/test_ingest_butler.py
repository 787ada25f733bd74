"""The Butler adapter keeps the contract of catalogues."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest
from typing_extensions import override

from platevault.adapters.butler.ingest import ButlerIngest
from platevault.domain.camera import Camera
from platevault.ports.ingest import Ingest
from platevault.testing.butler_datasets import stored_datasets
from platevault.testing.cameras import tiny_camera
from platevault.testing.ingest_contract import IngestContract


@pytest.fixture(scope="module")
def made_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository without images; copying it is faster than making another."""
    root = tmp_path_factory.mktemp("made") / "repo"

    async def make() -> None:
        async with ButlerIngest(repository=root) as ingest:
            await ingest.register_camera(tiny_camera())

    asyncio.run(make())
    return root


class TestButlerIngest(IngestContract):
    @pytest.fixture(autouse=True)
    def _repository(self, tmp_path: Path, made_repository: Path) -> None:
        shutil.copytree(made_repository, tmp_path / "repo")

    @override
    def open_ingest(self, directory: Path) -> AbstractAsyncContextManager[Ingest]:
        return ButlerIngest(repository=directory / "repo")

    @override
    def stored(self, directory: Path, camera: Camera, image: str) -> Mapping[str, tuple[str, str]]:
        return stored_datasets(directory / "repo", camera, image)
