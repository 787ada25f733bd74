"""The examples of the how-to that adds a camera."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from typer.testing import CliRunner

from platevault.cli.main import app
from platevault.compose.cameras import load_camera, parse_camera
from platevault.domain.assembly import assemble
from platevault.domain.camera import Camera, InvalidCameraError
from platevault.domain.segments import segment_cards

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "how-to" / "add-a-camera.md").read_text(encoding="utf-8")
SHIPPED = ROOT / "config" / "cameras" / "sinistro.yaml"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with what the page speaks of."""
    (tmp_path / "sinistro.yaml").write_text("\n".join(blocks("yaml")))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_pieces_of_the_page_are_the_document_in_the_tree() -> None:
    assert parse_camera("\n".join(blocks("yaml"))) == load_camera(SHIPPED)


def test_the_commands_that_show_the_camera_work(there: Path) -> None:
    lines = [
        line.removeprefix("$ platevault ").split()
        for line in "\n".join(blocks("console")).splitlines()
        if line.startswith("$ platevault camera ")
    ]
    assert lines
    for line in lines:
        result = CliRunner().invoke(app, line)
        assert result.exit_code == 0
        assert "Sinistro" in result.stdout


def test_the_message_of_the_page_is_that_of_a_wrong_document() -> None:
    quoted = re.search(r"`(field='detector_types.*?)`", PAGE, re.DOTALL)
    assert quoted is not None
    text = "\n".join(blocks("yaml")).replace("channel: 3", "channel: 2")
    with pytest.raises(InvalidCameraError, match=re.escape(quoted[1])):
        parse_camera(text)


def test_the_python_of_the_page_reads_a_frame_and_assembles_a_file(
    there: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    camera = load_camera(there / "sinistro.yaml")
    kind = camera.detectors[0].type
    cube = np.random.default_rng(1).integers(
        0, 65536, (4, kind.rows, kind.columns), dtype=np.uint16
    )
    fits.writeto("frame.fits", cube, fits.Header({"OBJECT": "M 42"}))
    names: dict[str, Any] = {}
    for block in blocks("python"):
        exec(block, names)
    assert "('1', '2', '3', '4') 0.0 M 42 ()" in capsys.readouterr().out
    write_segments(camera, names["frame"].planes, there / "raw.fits")
    np.testing.assert_array_equal(
        names["assembled"]("raw.fits"), assemble(list(names["frame"].planes), kind)
    )


def write_segments(camera: Camera, planes: Any, path: Path) -> None:
    hdus: list[Any] = [fits.PrimaryHDU()]
    for plane, cards in zip(planes, segment_cards(camera, camera.detectors[0]), strict=True):
        hdu = fits.ImageHDU(plane)
        hdu.header.update([(card.keyword, card.value) for card in cards])
        hdus.append(hdu)
    fits.HDUList(hdus).writeto(path)
