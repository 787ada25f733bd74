"""Ports that go away and come back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Outage:
    """Stands before a port and raises instead of calling it while ``down``.

    Parameters
    ----------
    port
        What is called otherwise.
    error
        Makes what is raised.
    only
        Names of the methods concerned; all if empty.
    """

    def __init__(
        self, port: Any, error: Callable[[], Exception], *, only: tuple[str, ...] = ()
    ) -> None:
        self._port = port
        self._error = error
        self._only = only
        #: The port does not answer.
        self.down = False
        #: Calls that were refused.
        self.refused = 0

    def __getattr__(self, name: str) -> Any:
        """Give the port's attribute, guarded."""
        attribute = getattr(self._port, name)
        if not callable(attribute) or (self._only and name not in self._only):
            return attribute

        def guarded(*args: Any, **kwargs: Any) -> Any:
            if self.down:
                self.refused += 1
                raise self._error()
            return attribute(*args, **kwargs)

        return guarded
