"""An OODS' hold on a repository, as a process that the tests start several times.

Arguments: repository, directory of the files, ``forward`` or ``backward``.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from platevault.adapters.butler.ingest import ButlerIngest
from platevault.ports.ingest import IngestFile
from platevault.testing.cameras import tiny_camera


async def _ingest(repository: Path, files: Path, *, forward: bool) -> dict[str, str]:
    camera = tiny_camera()
    images: dict[str, list[IngestFile]] = {}
    for path in await asyncio.to_thread(lambda: sorted(files.glob("*.fits"), reverse=not forward)):
        image, _, sensor = path.stem.partition("_R")
        images.setdefault(image, []).append(
            IngestFile(path=path, sensor=f"R{sensor}", sidecar=path.with_suffix(".json"))
        )
    problems: dict[str, str] = {}
    async with ButlerIngest(repository=repository) as ingest:
        await ingest.register_camera(camera)
        for image, parts in images.items():
            for result in await ingest.ingest(camera, image, parts):
                problems[f"{image} {result.sensor}"] = result.problem
    return problems


def main() -> None:
    """Run as the arguments say; print what is wrong with each file."""
    repository, files, way = sys.argv[1:]
    found = asyncio.run(_ingest(Path(repository), Path(files), forward=way == "forward"))
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main()
