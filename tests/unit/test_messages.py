"""Messages between services keep their shape."""

import pytest

from platevault.domain.messages import (
    MOST_TOGETHER,
    EndReadout,
    ImageInOods,
    MalformedMessageError,
    Together,
    decode_message,
    encode_message,
    in_envelopes,
    singles,
)

END_READOUT = EndReadout(
    camera="LSSTComCam",
    image="CC_O_20261121_000001",
    board="22/0",
    sensors=("R22_S00", "R22_S01", "R22_S02"),
    target_dir="LSSTComCam/20261121/CC_O_20261121_000001",
    reply_queue="archiver.LSSTComCam",
    end_readout_tai=1.8e9,
    header_due_tai=1.8e9 + 20,
)


def test_a_message_survives_its_wire_form() -> None:
    assert decode_message(encode_message(END_READOUT)) == END_READOUT


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"[1, 2]",
        b'{"type": "unheard_of"}',
        b'{"type": "image_in_oods", "camera": "x"}',
        encode_message(END_READOUT).replace(b'"board":', b'"bord":'),
        encode_message(END_READOUT)[:-5],
        b"\xff\xfe",
    ],
)
def test_a_body_of_another_shape_is_refused(body: bytes) -> None:
    with pytest.raises(MalformedMessageError):
        decode_message(body)


def test_types_are_not_bent() -> None:
    body = encode_message(
        ImageInOods(camera="c", image="i", sensor="s", status_code=0, description="")
    )
    with pytest.raises(MalformedMessageError) as caught:
        decode_message(body.replace(b'"status_code":0', b'"status_code":"0"'))
    assert "status_code" in str(caught.value.context["field"])


def test_envelopes_hold_all_messages_in_their_order_and_no_more_than_they_may() -> None:
    messages = [
        ImageInOods(camera="c", image=f"i{n}", sensor="s", status_code=0, description="")
        for n in range(2 * MOST_TOGETHER + 1)
    ]
    sent = [decode_message(encode_message(one)) for one in in_envelopes(messages)]
    assert [type(one) for one in sent] == [Together, Together, ImageInOods]
    assert [one for envelope in sent for one in singles(envelope)] == messages
    assert in_envelopes([]) == []


def test_an_envelope_holds_no_envelope() -> None:
    inner = b'{"type":"together","messages":[]}'
    body = encode_message(Together(messages=(END_READOUT, END_READOUT)))
    with pytest.raises(MalformedMessageError):
        decode_message(body.replace(b'"messages":[', b'"messages":[' + inner + b","))
