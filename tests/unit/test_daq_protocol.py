from __future__ import annotations

import itertools
import struct
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from platevault.domain.daq_protocol import (
    CONTROL_LIMIT_BYTES,
    HEAD_BYTES,
    PAYLOAD_LIMIT_BYTES,
    BoardEntry,
    Closed,
    DescribeBoard,
    Frame,
    FrameMisuseError,
    FrameReader,
    ImageEntry,
    ImageList,
    Listen,
    Listening,
    ListImages,
    MalformedFrameError,
    Message,
    NeedData,
    PayloadPart,
    Problem,
    ProblemCode,
    ReadBoard,
    decode_message,
    encode_head,
    encode_message,
)
from platevault.domain.wire import ReadoutRegisters, StripeLayout, WordPacking

HEAD = struct.Struct(">4sBBHIIQ")
IMAGE = ImageEntry(
    image="CC_O_20250415_000060",
    folder="raw",
    tag="00f1",
    annotation="",
    triggered_tai=1.7e9 + 1 / 3,
    complete=True,
    boards=("22/0", "22/1"),
)
BOARD = BoardEntry(
    location="22/0",
    registers=ReadoutRegisters(3, 509, 64, 2000, 48, 1, 2, 3, 4, 5),
    layout=StripeLayout.DETECTOR_MAJOR,
    packing=WordPacking.PACKED18,
    channels=(16, 16, 8),
    size_bytes=12,
    serial="19a1b1",
    firmware="3139500b",
    platform="sim",
    partition="comcam",
    daq_version="R5-V8.0",
    facts={"A": 1, "B": 1.0, "C": True, "D": None, "E": "x"},
)
MESSAGES: tuple[Message, ...] = (
    ListImages(partition="p", folder="raw"),
    DescribeBoard(partition="p", image="i", location="22/0"),
    ReadBoard(partition="p", image="i", location="22/0"),
    Listen(partition="p"),
    Listening(),
    IMAGE,
    ImageList(images=(IMAGE, IMAGE)),
    BOARD,
    Problem(code=ProblemCode.IMAGE_MISSING, message="no", context={"image": "'i'"}),
)


def said(reader: FrameReader, pieces: Iterable[bytes]) -> tuple[list[tuple[int, bytes]], bytes]:
    """Feed pieces; give frames and all payload bytes."""
    frames: list[tuple[int, bytes]] = []
    payload = bytearray()
    for piece in pieces:
        reader.receive_data(piece)
        while True:
            match reader.next_event():
                case Frame(request, control, _):
                    frames.append((request, control))
                case PayloadPart(data):
                    payload += data
                case NeedData(size):
                    assert size > 0
                    break
                case Closed():
                    return frames, bytes(payload)
    return frames, bytes(payload)


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message.type)
def test_a_message_survives_the_wire_with_its_types(message: Message) -> None:
    again = decode_message(encode_message(message))
    assert again == message
    if isinstance(message, BoardEntry) and isinstance(again, BoardEntry):
        assert [type(value) for value in again.facts.values()] == [
            int,
            float,
            bool,
            type(None),
            str,
        ]


def two_frames() -> tuple[bytes, bytes]:
    payload = bytes(range(256)) * 3
    stream = (
        encode_head(1, b'{"a":1}', payload_bytes=len(payload))
        + payload
        + encode_head(2, b"{}")
        + encode_head(4_000_000_000, b"[3]", payload_bytes=1)
        + b"z"
    )
    return stream, payload + b"z"


EXPECTED = [(1, b'{"a":1}'), (2, b"{}"), (4_000_000_000, b"[3]")]


def test_a_stream_is_understood_when_it_comes_whole() -> None:
    stream, payload = two_frames()
    assert said(FrameReader(), [stream]) == (EXPECTED, payload)


def test_a_stream_is_understood_byte_by_byte() -> None:
    stream, payload = two_frames()
    pieces = [stream[place : place + 1] for place in range(len(stream))]
    assert said(FrameReader(), pieces) == (EXPECTED, payload)


@pytest.mark.parametrize("behind", [b"P", b"PVDQ\x01", HEAD.pack(b"PVDQ", 1, 0, 0, 9, 5, 0)])
def test_a_frame_is_given_before_what_stands_behind_it(behind: bytes) -> None:
    stream, payload = two_frames()
    reader = FrameReader()
    assert said(reader, [stream + behind]) == (EXPECTED, payload)
    with pytest.raises(MalformedFrameError):
        said(reader, [b""])


@given(cuts=st.lists(st.integers(0, 900), max_size=12))
def test_cuts_of_a_stream_do_not_change_its_meaning(cuts: list[int]) -> None:
    stream, payload = two_frames()
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    pieces = [stream[a:b] for a, b in itertools.pairwise(edges) if b > a]
    assert said(FrameReader(), pieces) == (EXPECTED, payload)


def test_who_receives_only_what_is_needed_never_takes_bytes_of_the_next_piece() -> None:
    stream, payload = two_frames()
    reader, taken, frames, sizes = FrameReader(), 0, [], []
    while taken < len(stream):
        match reader.next_event():
            case NeedData(size):
                reader.receive_data(stream[taken : taken + size])
                taken += size
                sizes.append(size)
            case Frame(request, control, payload_bytes):
                frames.append((request, control))
                # The payload goes past the reader, as it does into a buffer.
                for part in (payload_bytes // 2, payload_bytes - payload_bytes // 2):
                    if part:
                        reader.take_payload(part)
                        taken += part
            case event:
                pytest.fail(f"unexpected {event}")
    assert frames[:2] == EXPECTED[:2]
    assert sizes[:4] == [HEAD_BYTES, 7, HEAD_BYTES, 2]
    assert len(payload) == 256 * 3 + 1


def test_a_connection_closed_between_frames_is_closed() -> None:
    stream, _ = two_frames()
    reader = FrameReader()
    said(reader, [stream])
    reader.receive_data(b"")
    assert reader.next_event() == Closed()
    assert reader.next_event() == Closed()


@pytest.mark.parametrize("kept", [1, HEAD_BYTES - 1, HEAD_BYTES, HEAD_BYTES + 3, HEAD_BYTES + 7])
def test_a_connection_closed_within_a_frame_is_malformed(kept: int) -> None:
    stream, _ = two_frames()
    reader = FrameReader()
    with pytest.raises(MalformedFrameError):
        said(reader, [stream[:kept], b""])


@pytest.mark.parametrize(
    "head",
    [
        b"H",
        b"PVD\x00",
        HEAD.pack(b"PVDQ", 2, 0, 0, 1, 5, 0),
        HEAD.pack(b"PVDQ", 1, 1, 0, 1, 5, 0),
        HEAD.pack(b"PVDQ", 1, 0, 1, 1, 5, 0),
        HEAD.pack(b"PVDQ", 1, 0, 0, 1, 0, 0),
        HEAD.pack(b"PVDQ", 1, 0, 0, 1, CONTROL_LIMIT_BYTES + 1, 0),
        HEAD.pack(b"PVDQ", 1, 0, 0, 1, 5, PAYLOAD_LIMIT_BYTES + 1),
    ],
    ids=["http", "magic", "version", "pad", "spare", "empty", "long", "large"],
)
def test_a_head_out_of_bounds_is_refused_at_once_and_for_good(head: bytes) -> None:
    reader = FrameReader()
    reader.receive_data(head)
    for _ in range(2):
        with pytest.raises(MalformedFrameError):
            reader.next_event()


@given(noise=st.binary(min_size=1, max_size=80))
def test_noise_is_refused_or_waited_for_and_never_anything_else(noise: bytes) -> None:
    reader = FrameReader()
    reader.receive_data(noise)
    try:
        event = reader.next_event()
    except MalformedFrameError:
        assert not noise.startswith(b"PVDQ\x01\x00\x00\x00") or len(noise) >= HEAD_BYTES
    else:
        assert isinstance(event, NeedData | Frame)


@pytest.mark.parametrize(
    "control",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        b'{"type":"explode"}',
        b'{"type":"listen"}',
        b'{"type":"listen","partition":7}',
        b'{"type":"listen","partition":"p","more":1}',
        encode_message(BOARD).replace(b"packed18", b"packed19"),
        encode_message(BOARD).replace(b'"size_bytes":12', b'"size_bytes":"12"'),
    ],
)
def test_a_control_message_of_unknown_shape_is_refused(control: bytes) -> None:
    with pytest.raises(MalformedFrameError):
        decode_message(control)


@pytest.mark.parametrize(
    ("request_number", "control_bytes", "payload_bytes"),
    [
        (-1, 1, 0),
        (1 << 32, 1, 0),
        (1, 0, 0),
        (1, CONTROL_LIMIT_BYTES + 1, 0),
        (1, 1, -1),
        (1, 1, PAYLOAD_LIMIT_BYTES + 1),
    ],
)
def test_nothing_out_of_bounds_is_sent(
    request_number: int, control_bytes: int, payload_bytes: int
) -> None:
    with pytest.raises(FrameMisuseError):
        encode_head(request_number, b" " * control_bytes, payload_bytes=payload_bytes)


def test_payload_is_not_taken_where_there_is_none() -> None:
    reader = FrameReader()
    with pytest.raises(FrameMisuseError):
        reader.take_payload(1)
    reader.receive_data(encode_head(1, b"{}", payload_bytes=4))
    assert isinstance(reader.next_event(), Frame)
    with pytest.raises(FrameMisuseError):
        reader.take_payload(5)
    reader.receive_data(b"ab")
    with pytest.raises(FrameMisuseError):
        reader.take_payload(1)
    assert reader.next_event() == PayloadPart(b"ab")
    assert reader.payload_left == 2
    reader.take_payload(2)
    assert reader.next_event() == NeedData(HEAD_BYTES)
