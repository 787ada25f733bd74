"""The command ``platevault`` in processes of its own, without settings from our environment."""

from __future__ import annotations

import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from platevault.compose.settings import child_environment

#: How it is called; arguments follow.
PLATEVAULT = (sys.executable, "-m", "platevault")
#: Longest wait for an answer about a service [s, machine].
_ANSWER_S = 5.0


def run_platevault(
    *arguments: str, variables: Mapping[str, str] | None = None, within_s: float = 90.0
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, with ``variables`` in its environment; killed after a time [s]."""
    return subprocess.run(  # noqa: S603 - our own argument list
        [*PLATEVAULT, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**child_environment(), **(variables or {})},
        timeout=within_s,
    )


@contextmanager
def serving(
    *arguments: str, log: Path, variables: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run ``platevault serve``, which adds to ``log``; killed at the end, if it lives still."""
    with log.open("ab") as stream:
        child = subprocess.Popen(  # noqa: S603 - our own argument list
            [*PLATEVAULT, "serve", *arguments],
            stderr=stream,
            env={**child_environment(), **(variables or {})},
        )
    try:
        yield child
    finally:
        child.kill()
        child.wait()


def ask_service(port: int, path: str) -> tuple[int, str]:
    """Ask a service of this host for ``/readyz`` or another page; 0 is the status of no answer."""
    url = f"http://127.0.0.1:{port}{path}"
    try:
        with urllib.request.urlopen(url, timeout=_ANSWER_S) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()
    except OSError as error:
        return 0, str(error)
