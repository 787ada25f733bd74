"""Read the keyword schema that comes with the product, and a camera's own rows."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from pathlib import Path

from platevault.domain.camera import Camera
from platevault.domain.header_sources import InvalidKeywordsError
from platevault.domain.keywords import (
    Keyword,
    KeywordSet,
    keyword_set,
    parse_keywords,
    parse_topics,
)


def load_keyword_set(
    camera: Camera,
    *,
    own_file: Path | None = None,
    sal_indices: Mapping[str, int] | None = None,
) -> KeywordSet:
    """Give the keywords of a camera.

    Parameters
    ----------
    camera
        The camera.
    own_file
        CSV file of the schema's form with rows of this camera: each replaces the row of its
        keyword, adds one, or, with capture ``dropped``, takes it out. See `own_keyword_file`.
    sal_indices
        SAL index by component where the site differs (``ESS``, ``DIMM``).

    Raises
    ------
    InvalidKeywordsError
        A row is wrong; file, line and value are in the context. Mend it.
    """
    folder = resources.files("platevault") / "data" / "keywords"
    own: tuple[Keyword, ...] = ()
    if own_file is not None:
        try:
            text = own_file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidKeywordsError(
                "Keyword file cannot be read", file=str(own_file), problem=str(error)
            ) from error
        own = parse_keywords(text, file=str(own_file))
    return keyword_set(
        camera,
        keywords=parse_keywords((folder / "keywords.csv").read_text(encoding="utf-8")),
        policies=parse_topics((folder / "topics.csv").read_text(encoding="utf-8")),
        own=own,
        sal_indices=sal_indices,
    )


def own_keyword_file(camera_file: str | Path) -> Path | None:
    """Find a camera's own rows: ``mine.yaml`` has them in ``mine.keywords.csv`` beside it."""
    path = Path(camera_file).with_suffix(".keywords.csv")
    return path if path.is_file() else None
