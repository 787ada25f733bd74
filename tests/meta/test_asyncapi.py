"""The document of messages says what the code does."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from platevault.compose.asyncapi import (
    DOCUMENT,
    PAGE,
    QUEUES,
    asyncapi_document,
    format_document,
    format_page,
    message_classes,
    write_document,
)
from platevault.domain.messages import EndReadout, Message, encode_message, singles
from platevault.testing.capture import CaptureRig

FOLDER = Path(__file__).parents[2] / "docs" / "reference" / "messages"


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "$ref":
                yield value
            else:
                yield from references(value)
    elif isinstance(node, list):
        for value in node:
            yield from references(value)


def resolve(document: Any, reference: str) -> Any:
    for part in reference.removeprefix("#/").split("/"):
        document = document[part]
    return document


@pytest.mark.parametrize(("name", "text"), [(DOCUMENT, format_document()), (PAGE, format_page())])
def test_the_document_is_up_to_date(name: str, text: str) -> None:
    """If not: ``python -m platevault.compose.asyncapi docs/reference/messages``."""
    assert (FOLDER / name).read_text(encoding="utf-8") == text


def test_what_is_written_is_what_is_made(tmp_path: Path) -> None:
    write_document(tmp_path / "messages")
    stored = yaml.safe_load((tmp_path / "messages" / DOCUMENT).read_text(encoding="utf-8"))
    assert stored == asyncapi_document()


def test_every_reference_leads_somewhere() -> None:
    document = asyncapi_document()
    found = list(references(document))
    assert len(found) > 30
    for reference in found:
        assert resolve(document, reference)


def test_every_message_is_sent_on_some_queue_and_has_a_historical_name() -> None:
    sent = {one for queue in QUEUES for messages in queue.senders.values() for one in messages}
    assert sent == set(message_classes())
    for one in asyncapi_document()["components"]["messages"].values():
        assert one["x-historical-type"]
        assert one["summary"]


def test_an_encoded_message_has_the_shape_that_the_document_says() -> None:
    schema = asyncapi_document()["components"]["messages"]["end_readout"]["payload"]
    message = EndReadout(
        camera="LATISS",
        image="AT_O_20330517_000001",
        board="00/0",
        sensors=("R00_S00",),
        target_dir="LATISS/20330517/AT_O_20330517_000001",
        reply_queue="archiver.LATISS",
        end_readout_tai=1.0,
        header_due_tai=2.0,
    )
    body = json.loads(encode_message(message))
    jsonschema.validate(body, schema)
    for changes in ({"board": 3}, {"unheard": "of"}, {"type": "header_ready"}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**body, **changes}, schema)


async def test_services_send_what_the_document_says_and_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: set[tuple[str, type[Message]]] = set()
    async with CaptureRig(tmp_path) as rig:
        send = rig.queue.send

        async def noted(queue: str, message: Message, *, priority: int = 0) -> None:
            sent.update((queue, type(one)) for one in (message, *singles(message)))
            await send(queue, message, priority=priority)

        monkeypatch.setattr(rig.queue, "send", noted)
        await rig.corridor()
        image = rig.image_name()
        await rig.take(image)
        await rig.until(lambda: rig.is_delivered(image))
        await rig.pass_time(15.0)
    documented = {
        (re.compile(re.sub(r"\\{\w+\\}", ".+", re.escape(queue.address))), one)
        for queue in QUEUES
        for messages in queue.senders.values()
        for one in messages
    }
    strays = {
        (queue, one.__name__)
        for queue, one in sent
        if not any(one is known and address.fullmatch(queue) for address, known in documented)
    }
    assert not strays
    # All but the OODS speak here.
    assert len({one for _, one in sent}) >= len(message_classes()) - 1
