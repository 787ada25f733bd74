"""Tell on the bus which configurations there are, and which is in use."""

from __future__ import annotations

import logging

from platevault.csc.configuration import (
    Applied,
    Available,
    ConfigurationError,
    ConfigurationSource,
)
from platevault.csc.voice import Voice


class ConfigurationOffer:
    """The configurations of a component, and what it says of them.

    Parameters
    ----------
    source
        Where they are; ``None`` if the component has no settings.
    voice
        Says it.
    """

    def __init__(self, *, source: ConfigurationSource | None, voice: Voice) -> None:
        self.source = source
        self._voice = voice
        self._problem = ""

    async def look(self) -> None:
        """Look what is on offer and publish ``configurationsAvailable`` if it changed."""
        if self.source is None or not self._voice.has("configurationsAvailable"):
            return
        problem = ""
        try:
            offer = await self.source.available()
        except ConfigurationError as error:
            offer, problem = Available((), "", "", ""), str(error)
        await self._voice.publish(
            "configurationsAvailable",
            overrides=",".join(offer.overrides),
            version=offer.version,
            url=offer.url,
            schemaVersion=offer.schema_version,
        )
        if problem and problem != self._problem:
            await self._voice.log(logging.ERROR, "No configurations on offer", reason=problem)
        self._problem = problem

    async def read(self, override: str) -> Applied | None:
        """Read the configuration that ``start`` names; `ConfigurationError` if it is not valid."""
        return None if self.source is None else await self.source.read(override)

    async def tell(self, applied: Applied) -> None:
        """Publish ``configurationApplied``, also when it is the same as before."""
        if self._voice.has("configurationApplied"):
            await self._voice.publish(
                "configurationApplied",
                force=True,
                configurations=",".join(applied.files),
                version=applied.version,
                url=applied.url,
                schemaVersion=applied.schema_version,
            )
        await self._voice.log(
            logging.INFO,
            "Configuration applied",
            files=",".join(applied.files),
            version=applied.version,
        )
