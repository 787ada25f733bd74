"""Options of `platevault serve` that cannot be say what to write instead."""

from collections.abc import Sequence

import pytest

from platevault.compose.cameras import load_camera
from platevault.compose.serving.kinds import ServiceKind
from platevault.compose.serving.process import ServeOptions, ServiceOptionError, check_options
from platevault.compose.settings import load_settings


@pytest.mark.parametrize(
    ("kind", "cameras", "shared", "field", "expected"),
    [
        ("archiver", [], {}, "camera", "--camera once, such as --camera latiss"),
        ("archiver", ["latiss", "comcam"], {}, "camera", "--camera once,"),
        ("forwarder", [], {}, "camera", "--camera once or more, such as --camera latiss"),
        ("forwarder", ["latiss"], {}, "leases", "redis or sqlite, in the file of the site"),
        ("forwarder", ["latiss"], {"leases": "redis"}, "queue", "rabbitmq or sqlite, in the file"),
        ("header-service", ["latiss"], {"leases": "redis"}, "bus", "kafka or dds, in the file"),
        (
            "forwarder", ["latiss"], {"leases": "redis", "queue": "rabbitmq"}, "daq.host",
            "host and port of the DAQ or of an emulator",
        ),
    ],
)  # fmt: skip
def test_an_option_that_cannot_be_is_named_with_what_was_expected(
    kind: str, cameras: Sequence[str], shared: dict[str, str], field: str, expected: str
) -> None:
    options = ServeOptions(
        kind=ServiceKind(kind),
        cameras={camera: load_camera(camera) for camera in cameras},
        name="",
        sensors=[],
        seed=1,
        keyword_files={},
    )
    with pytest.raises(ServiceOptionError) as caught:
        check_options(load_settings(None, **shared), options)
    assert caught.value.context["field"] == field
    assert str(caught.value.context["expected"]).startswith(expected)
