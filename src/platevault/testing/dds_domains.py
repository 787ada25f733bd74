"""A DDS domain for the tests of one process, which nobody else on the host is in."""

from __future__ import annotations

import socket
from functools import cache

from platevault.domain.errors import TransientError

#: Nights take theirs from 1 to 100.
_DOMAINS = range(101, 201)


class NoFreeDomainError(TransientError):
    """The tests of other processes hold every domain; wait until they end."""


@cache
def own_domain() -> int:
    """Give the domain of this process, which it holds until it ends.

    Raises
    ------
    NoFreeDomainError
        There is none.
    """
    hold = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    for domain_id in _DOMAINS:
        try:
            # A name without a file, which the system takes back from a process that was killed.
            hold.bind(f"\0platevault-tests-dds-{domain_id}")
        except OSError:
            continue
        hold.detach()
        return domain_id
    hold.close()
    raise NoFreeDomainError("Every DDS domain is in use", expected=f"one of {_DOMAINS}")
