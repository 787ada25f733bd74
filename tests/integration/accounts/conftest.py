"""What the tests of all servers of the stack share: its scripts, and passwords that they made."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from platevault.testing.stack_servers import load_accounts, make_secrets

_SCRIPTS = Path(__file__).parents[3] / "deploy" / "compose"


@pytest.fixture(scope="session")
def scripts() -> Path:
    return _SCRIPTS


@pytest.fixture(scope="session")
def accounts(scripts: Path) -> ModuleType:
    return load_accounts(scripts)


@pytest.fixture(scope="session")
def secrets(scripts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_secrets(scripts, tmp_path_factory.mktemp("stack"))
