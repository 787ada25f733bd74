"""One connection to a DAQ store: frames over a socket, payloads straight into a buffer."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from platevault.domain.daq_protocol import (
    Frame,
    FrameReader,
    MalformedFrameError,
    Message,
    NeedData,
    decode_message,
    encode_head,
    encode_message,
)
from platevault.ports.readout import ReadoutUnavailableError

#: Largest piece received at a time [byte].
_PIECE_BYTES = 4 << 20
#: After this much the event loop gets its turn, however fast the sender is [byte].
_TURN_BYTES = 16 << 20


class DaqConnection:
    """Asks one question at a time.

    Parameters
    ----------
    connected
        A connected socket that does not block; owned from now on.
    """

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._reader = FrameReader()
        self._requests = 0

    @classmethod
    async def open(cls, host: str, port: int, *, within_s: float) -> DaqConnection:
        """Connect.

        Raises
        ------
        ReadoutUnavailableError
            Nobody answers there. Retry.
        """
        loop = asyncio.get_running_loop()
        with ExitStack() as undo, translated_errors(host=host, port=port):
            async with asyncio.timeout(within_s):
                found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
                family, kind, protocol, _, address = found[0]
                connecting = undo.enter_context(socket.socket(family, kind, protocol))
                connecting.setblocking(False)
                connecting.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                await loop.sock_connect(connecting, address)
            undo.pop_all()
            return cls(connecting)

    def close(self) -> None:
        """Close the socket; more than once does no harm."""
        self._socket.close()

    @property
    def stale(self) -> bool:
        """The other end closed, or sent what nobody asked for."""
        try:
            self._socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True
        return True

    @property
    def same_host(self) -> bool:
        """The other end is on this host."""
        try:
            return bool(self._socket.getpeername()[0] == self._socket.getsockname()[0])
        except OSError:
            return False

    async def tell(self, message: Message, *, within_s: float) -> None:
        """Send what has no reply; errors as for `ask`."""
        head = encode_head(self._requests, encode_message(message))
        with translated_errors():
            async with asyncio.timeout(within_s):
                await asyncio.get_running_loop().sock_sendall(self._socket, head)

    async def ask(self, question: Message, *, within_s: float) -> tuple[Message, int]:
        """Send a request and give the reply and the size of its payload [byte].

        Raises
        ------
        ReadoutUnavailableError
            The connection broke, or no reply came in time. Close it.
        """
        self._requests += 1
        head = encode_head(self._requests, encode_message(question))
        with translated_errors():
            async with asyncio.timeout(within_s):
                await asyncio.get_running_loop().sock_sendall(self._socket, head)
                return await self._next()

    async def hear(self) -> Message:
        """Give the next announcement; `ReadoutUnavailableError` if the connection broke."""
        with translated_errors():
            message, _ = await self._next()
            return message

    async def receive_into(self, buffer: memoryview, *, within_s: float) -> None:
        """Fill ``buffer`` with bytes of the payload; each piece must come within ``within_s`` [s].

        Raises
        ------
        ReadoutUnavailableError
            The connection broke or stalled. Close it; the buffer holds nothing of use.
        """
        loop = asyncio.get_running_loop()
        filled, turn = 0, 0
        with translated_errors():
            while filled < len(buffer):
                piece = buffer[filled : filled + _PIECE_BYTES]
                async with asyncio.timeout(within_s):
                    size = await loop.sock_recv_into(self._socket, piece)
                if size == 0:
                    raise MalformedFrameError(
                        "Connection closed within a payload",
                        received_bytes=filled,
                        expected=len(buffer),
                    )
                self._reader.take_payload(size)
                filled += size
                turn += size
                if turn >= _TURN_BYTES:
                    turn = 0
                    await asyncio.sleep(0)

    async def _next(self) -> tuple[Message, int]:
        loop = asyncio.get_running_loop()
        while True:
            match self._reader.next_event():
                case Frame(request, control, payload_bytes):
                    if request != self._requests:
                        raise MalformedFrameError(
                            "Reply to another request", value=request, expected=self._requests
                        )
                    return decode_message(control), payload_bytes
                case NeedData(size_bytes):
                    # No more than that, so that a payload stays in the socket for its buffer.
                    self._reader.receive_data(await loop.sock_recv(self._socket, size_bytes))
                case event:
                    raise MalformedFrameError("Connection closed", event=type(event).__name__)


@contextmanager
def translated_errors(**context: object) -> Iterator[None]:
    """Turn errors of sockets and protocol into `ReadoutUnavailableError`."""
    try:
        yield
    except TimeoutError as error:
        raise ReadoutUnavailableError("The DAQ did not answer in time", **context) from error
    except (OSError, MalformedFrameError) as error:
        raise ReadoutUnavailableError(
            "The connection to the DAQ broke", reason=str(error), **context
        ) from error
