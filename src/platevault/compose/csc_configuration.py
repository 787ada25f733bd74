"""Where commandable components read their configuration at ``start``."""

from __future__ import annotations

from collections.abc import Sequence

import yaml

from platevault.compose.settings import Settings
from platevault.csc.configuration import ConfigurationDirectory, ModelRule
from platevault.domain.camera import Camera
from platevault.services.archiver.settings import ArchiverConfiguration

#: Version of the configuration schema of Archivers, part of the directory's name.
ARCHIVER_SCHEMA = "v1"


def archiver_configuration(
    settings: Settings, camera: Camera, sensors: Sequence[str]
) -> ConfigurationDirectory:
    """Give the configuration directory of an Archiver.

    It is ``csc_configuration`` of the settings, which the operator keeps; without it a directory
    below the root, whose ``_init.yaml`` is written here from the settings, and into which an
    operator may still put ``_<site>.yaml`` and overrides.
    """
    root = settings.csc_configuration or settings.root / "run" / "csc"
    directory = ConfigurationDirectory(
        root=root,
        component=camera.components.archiver,
        site=settings.site,
        rule=ModelRule(model=ArchiverConfiguration, version=ARCHIVER_SCHEMA),
    )
    if settings.csc_configuration is None:
        values = settings.archiver.model_copy(update={"detectors": tuple(sensors)})
        directory.path.mkdir(parents=True, exist_ok=True)
        text = yaml.safe_dump(values.model_dump(mode="json"), sort_keys=False)
        (directory.path / "_init.yaml").write_text(text, encoding="utf-8")
    return directory
