"""Whether a network interface carries anything."""

from __future__ import annotations

import fcntl
import socket
import struct

#: Request for the flags of an interface, and its record: name, flags (Linux, ``netdevice(7)``).
_SIOCGIFFLAGS = 0x8913
_RECORD = struct.Struct("16sH22x")
_LONGEST_NAME = 15
#: Somebody switched it on; its other end is there.
IFF_UP, IFF_RUNNING = 0x1, 0x40


def interface_problem(interface: str) -> str:
    """Tell what is wrong with a network interface; empty if it carries.

    Parameters
    ----------
    interface
        Its name.
    """
    name = interface.encode()
    if not 0 < len(name) <= _LONGEST_NAME:
        return f"network interface {interface} is not there"
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
            answer = fcntl.ioctl(any_socket, _SIOCGIFFLAGS, _RECORD.pack(name, 0))
    except OSError:
        return f"network interface {interface} is not there"
    return problem_of_flags(interface, _RECORD.unpack(answer)[1])


def problem_of_flags(interface: str, flags: int) -> str:
    """Tell what the flags of an interface complain of."""
    if not flags & IFF_UP:
        return f"network interface {interface} is switched off"
    if not flags & IFF_RUNNING:
        return f"network interface {interface} has no link"
    return ""
