"""Frames of the DAQ protocol over a socket, for the device's end and for the test bench."""

from __future__ import annotations

import asyncio
import socket
from contextlib import ExitStack

import numpy as np
from numpy.typing import NDArray

from platevault.domain.daq_protocol import (
    Closed,
    Frame,
    FrameReader,
    MalformedFrameError,
    NeedData,
    PayloadPart,
    encode_head,
)

#: Largest piece sent at a time [byte].
_PIECE_BYTES = 4 << 20
#: After this much the event loop gets its turn, however fast the receiver is [byte].
_TURN_BYTES = 16 << 20


class FrameSocket:
    """Sends and receives frames.

    Parameters
    ----------
    connected
        A connected socket that does not block; owned from now on.
    """

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._reader = FrameReader()

    @classmethod
    async def connect(cls, host: str, port: int, *, within_s: float) -> FrameSocket:
        """Connect; `OSError` (`TimeoutError` is one) if nobody answers."""
        loop = asyncio.get_running_loop()
        with ExitStack() as undo:
            async with asyncio.timeout(within_s):
                found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
                family, kind, protocol, _, address = found[0]
                connecting = undo.enter_context(socket.socket(family, kind, protocol))
                connecting.setblocking(False)
                await loop.sock_connect(connecting, address)
            undo.pop_all()
            return cls(connecting)

    def close(self) -> None:
        """Close the socket; more than once does no harm."""
        self._socket.close()

    async def send(
        self,
        request: int,
        control: bytes,
        payload: NDArray[np.uint8] | None = None,
        *,
        announced_bytes: int | None = None,
        within_s: float | None = None,
    ) -> None:
        """Send one frame.

        Parameters
        ----------
        request, control
            Number and JSON of the control message.
        payload
            Contiguous bytes, shape ``(n_bytes,)``; they must not change before this returns.
        announced_bytes
            Size that the head says, if more than is sent [byte]; the connection must be closed
            then.
        within_s
            Limit of each piece [s]: `TimeoutError` if the other end does not take it.
        """
        loop = asyncio.get_running_loop()
        size = 0 if payload is None else len(payload)
        head = encode_head(
            request, control, payload_bytes=size if announced_bytes is None else announced_bytes
        )
        async with asyncio.timeout(within_s):
            await loop.sock_sendall(self._socket, head)
        if payload is None:
            return
        view = payload.data
        for number, first in enumerate(range(0, size, _PIECE_BYTES)):
            async with asyncio.timeout(within_s):
                await loop.sock_sendall(self._socket, view[first : first + _PIECE_BYTES])
            if number % (_TURN_BYTES // _PIECE_BYTES) == 0:
                await asyncio.sleep(0)

    async def next_frame(self) -> Frame | None:
        """Give the next frame; ``None`` when the other end closed between frames.

        Raises
        ------
        MalformedFrameError
            The other end broke the protocol, or sends a payload. Close the connection.
        """
        loop = asyncio.get_running_loop()
        while True:
            match self._reader.next_event():
                case Frame() as frame:
                    if frame.payload_bytes:
                        raise MalformedFrameError(
                            "Nobody asked for a payload", payload_bytes=frame.payload_bytes
                        )
                    return frame
                case NeedData(size_bytes):
                    self._reader.receive_data(await loop.sock_recv(self._socket, size_bytes))
                case Closed():
                    return None
                case PayloadPart():
                    raise MalformedFrameError("Nobody asked for a payload")
