"""Turns of those who share one registry in PostgreSQL.

Writers of one exposure would only make each other begin again, and two makers of one repository
would fail. In SQLite the file itself gives the turns.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Engine, create_engine, text
from sqlalchemy.engine import make_url

from platevault.adapters.butler.configuration import RepositorySettings

#: Longest wait for a turn [s]; far more than an ingest takes, so somebody else hangs.
TURN_WITHIN_S = 30


class RegistryTurns:
    """Gives turns by advisory locks that end with their transaction, and so with its process.

    They are a courtesy: if the connection of a lock breaks, the registry's own constraints still
    keep it right.

    Parameters
    ----------
    settings
        Which registry.
    """

    def __init__(self, *, settings: RepositorySettings) -> None:
        self._settings = settings
        self._engine: Engine | None = None

    @contextmanager
    def turn(self, *what: object) -> Iterator[None]:
        """Wait for the turn at something of this registry and have it within the context.

        Raises
        ------
        sqlalchemy.exc.OperationalError
            The database does not answer, or the turn did not come in time.
        """
        url = self._settings.registry_url
        if not url or make_url(url).get_backend_name() != "postgresql":
            yield
            return
        if self._engine is None:
            self._engine = create_engine(url, pool_size=1, pool_pre_ping=True)
        name = " ".join(map(str, ("platevault", self._settings.registry_namespace, *what)))
        with self._engine.begin() as connection:
            connection.execute(text(f"SET LOCAL lock_timeout = '{TURN_WITHIN_S}s'"))
            connection.execute(
                text("SELECT pg_advisory_xact_lock(hashtextextended(:name, 0))"), {"name": name}
            )
            yield

    def close(self) -> None:
        """Let go of the database."""
        if self._engine is not None:
            self._engine.dispose()
            self._engine = None
