"""What is awaited after a start, before exposures that began earlier are closed.

References
----------
Header contract, sections B2.5 and B4.5.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from enum import StrEnum

from platevault.domain.errors import TransientError
from platevault.ports.clock import Clock
from platevault.runtime.service import StopToken
from platevault.runtime.waiting import wait_first
from platevault.services.header_service.observing import HeaderObserver
from platevault.services.header_service.sampling import Samples


class StoppedWaitingError(TransientError):
    """The component ends before the exposure was complete: a restart goes on with it."""


class PastState(StrEnum):
    """What became of the past that the bus keeps."""

    AWAITED = "awaited"
    """The first subscription does not stand yet, and no exposure is closed."""
    TAKEN = "taken"
    """All that the bus still tells is in the buffers."""
    GIVEN_UP = "given up"
    """The bus was silent for too long: headers are made without the past; it may come yet."""


class Recovery:
    """Holds exposures open until the past was taken, but not for ever.

    Parameters
    ----------
    samples
        Buffers into which the past goes.
    limit_s
        Longest wait from the start of the component on [s].
    clock, observer
        Time, and who hears of the work.
    say
        Logs with a level, a sentence and facts, also on the bus.
    """

    def __init__(
        self,
        *,
        samples: Samples,
        limit_s: float,
        clock: Clock,
        observer: HeaderObserver,
        say: Callable[[int, str, Mapping[str, object]], Awaitable[None]],
    ) -> None:
        self._samples = samples
        self._limit_s = limit_s
        self._clock = clock
        self._observer = observer
        self._say = say
        self._began_tai = 0.0
        self._taken = asyncio.Event()
        self._open = asyncio.Event()
        self.state = PastState.AWAITED

    def begin(self) -> None:
        """Let the time run, and hold exposures open again."""
        self._began_tai = self._clock.now_tai()
        self.state = PastState.AWAITED
        self._taken.clear()
        self._open.clear()

    def past_taken(self) -> None:
        """Hear that all of the past is in the buffers."""
        self._taken.set()

    @property
    def under_way(self) -> bool:
        """Exposures that are heard of now may have begun before the start of the component."""
        return not self._taken.is_set() or self._left_s > 0

    @property
    def _left_s(self) -> float:
        return self._began_tai + self._limit_s - self._clock.now_tai()

    async def watch(self, stop: StopToken) -> bool:
        """Let exposures go on when the past was taken, or the limit is over; say which.

        Returns
        -------
        is_late
            The past came after exposures had been let go.
        """
        await wait_first(self._taken.wait(), self._clock.sleep(self._limit_s), stop.wait())
        given_up = not self._taken.is_set()
        if given_up and stop.requested:
            return False
        self._set(PastState.GIVEN_UP if given_up else PastState.TAKEN)
        self._open.set()
        if not given_up:
            await self._tell(logging.INFO, "The past was taken")
            return False
        await self._tell(logging.ERROR, "The past was not taken in time")
        await wait_first(self._taken.wait(), stop.wait())
        if not self._taken.is_set():
            return False
        self._set(PastState.TAKEN)
        await self._tell(logging.WARNING, "The past was taken late")
        return True

    def _set(self, state: PastState) -> None:
        self.state = state
        after_s = self._clock.now_tai() - self._began_tai
        self._observer.past_taken(taken=state is PastState.TAKEN, after_s=after_s)

    async def _tell(self, level: int, sentence: str) -> None:
        after_s = round(self._clock.now_tai() - self._began_tai, 3)
        await self._say(level, sentence, {"after_s": after_s, "limit_s": self._limit_s})

    async def opened(self) -> None:
        """Return when exposures may be closed."""
        await self._open.wait()

    async def wait(self, image: str, stop: StopToken) -> None:
        """Return when exposures may be closed; `StoppedWaitingError` if ``stop`` came first."""
        while not self._open.is_set():
            if stop.requested:
                raise StoppedWaitingError("The past is still awaited", image=image)
            await wait_first(self._open.wait(), stop.wait())

    async def wait_telemetry(self, image: str, lacks: Callable[[], bool], stop: StopToken) -> None:
        """Return when ``lacks`` is over, or the limit is; `StoppedWaitingError` as in `wait`."""
        while self._left_s > 0 and lacks():
            if stop.requested:
                raise StoppedWaitingError("Telemetry is still awaited", image=image)
            news = self._samples.news
            await wait_first(news.wait(), self._clock.sleep(self._left_s), stop.wait())
