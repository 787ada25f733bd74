"""Ask an archive where its images are, from a script or a notebook."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from platevault.compose.resting_ledger import site_ledger
from platevault.compose.settings import Settings, load_settings
from platevault.domain.errors import UsageError
from platevault.domain.ids import ImageName
from platevault.domain.whereabouts import ImageStatus, image_status

AnswerT = TypeVar("AnswerT")


class UnknownImageError(UsageError):
    """The ledger has no such image: check the name, or ask the archive of another site."""


class Archive:
    """The files of a site, by image.

    Parameters
    ----------
    root
        Directory below which the site keeps its data, as given to ``platevault night run``.
    settings
        Settings of the site, instead of ``root``.

    Examples
    --------
    >>> archive = Archive("night")
    >>> archive.where("CC_O_20261121_000001").verdict  # doctest: +SKIP
    <Verdict.COMPLETE: 'complete'>
    """

    def __init__(self, root: Path | str | None = None, *, settings: Settings | None = None) -> None:
        if settings is None:
            settings = load_settings() if root is None else load_settings(root=Path(root))
        self._settings = settings

    def where(self, image: str) -> ImageStatus:
        """Tell where every file of an image is.

        Raises
        ------
        InvalidNameError
            ``image`` is no image name.
        UnknownImageError
            The ledger does not know the image.
        LedgerMissingError
            There is no ledger under the root: check the path.
        """
        return _answer(lambda: self.fetch_status(image))

    def images(self, *, camera: str = "", day_obs: int = 0) -> list[ImageStatus]:
        """Tell of every image, by name; of one camera or observing day if given."""
        return _answer(lambda: self.fetch_statuses(camera=camera, day_obs=day_obs))

    async def fetch_status(self, image: str) -> ImageStatus:
        """Do what `where` does, on the caller's event loop."""
        name = str(ImageName.parse(image))
        async with site_ledger(self._settings) as ledger:
            record = await ledger.exposure(name)
            if record is None:
                raise UnknownImageError(
                    "The ledger has no such image",
                    image=name,
                    ledger=str(self._settings.ledger_path),
                )
            return image_status(record, await ledger.files(image=name), await ledger.attempts(name))

    async def fetch_statuses(self, *, camera: str = "", day_obs: int = 0) -> list[ImageStatus]:
        """Do what `images` does, on the caller's event loop."""
        async with site_ledger(self._settings) as ledger:
            return [
                image_status(record, await ledger.files(image=record.exposure.image), ())
                for record in await ledger.exposures(camera=camera, day_obs=day_obs)
            ]


def _answer(ask: Callable[[], Awaitable[AnswerT]]) -> AnswerT:
    """Run a coroutine to its end, also where a loop runs already, as in a notebook."""

    async def asked() -> AnswerT:
        return await ask()

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(asked())
    answers: list[AnswerT] = []
    failures: list[BaseException] = []

    def work() -> None:
        try:
            answers.append(asyncio.run(asked()))
        except Exception as error:  # noqa: BLE001 - handed to the caller's thread
            failures.append(error)

    thread = threading.Thread(target=work, name="platevault-client")
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
    return answers[0]
