"""Sums of FITS data: DATASUM and CHECKSUM.

A sum is a 32-bit ones' complement sum of big-endian words. It does not depend on the order of
words, so sums of pieces that begin on a word add.

References
----------
FITS 4.0 sec. 4.4.2.7 and appendix J.
"""

from __future__ import annotations

import sys

import numpy as np

_WORD = 0xFFFFFFFF
_SWAPS = sys.byteorder == "little"
#: ASCII codes that must not appear in CHECKSUM (punctuation between digits and letters).
_EXCLUDED = frozenset(b":;<=>?@[\\]^_`")
_OFFSET = 0x30


def sum_words(data: bytes | bytearray | memoryview) -> int:
    """Sum bytes, padded with zeros to whole words.

    Parameters
    ----------
    data
        Any number of bytes, less than 2**34.
    """
    view = memoryview(data).cast("B")
    whole = view.nbytes & ~3
    words = np.frombuffer(view[:whole], dtype=np.uint32)
    if _SWAPS:
        words = words.byteswap()
    total = _fold(int(words.sum(dtype=np.uint64)))
    if whole != view.nbytes:
        rest = bytes(view[whole:]).ljust(4, b"\0")
        total = add_sums(total, int.from_bytes(rest, "big"))
    return total


def add_sums(*sums: int) -> int:
    """Add sums of pieces that each begin on a word."""
    return _fold(sum(sums))


def _fold(total: int) -> int:
    while total > _WORD:
        total = (total & _WORD) + (total >> 32)
    return total


def _encoded_byte(value: int) -> bytes:
    """Spread one byte over four legal characters whose sum keeps it."""
    quotient, remainder = divmod(value, 4)
    letters = [quotient + _OFFSET] * 4
    letters[0] += remainder
    while any(letter in _EXCLUDED for letter in letters):
        for first in (0, 2):
            if letters[first] in _EXCLUDED or letters[first + 1] in _EXCLUDED:
                letters[first] += 1
                letters[first + 1] -= 1
    return bytes(letters)


_ENCODED = [_encoded_byte(value) for value in range(256)]


def encode_checksum(total: int) -> str:
    """Write the complement of an HDU's sum as the sixteen characters of CHECKSUM.

    Parameters
    ----------
    total
        Sum of the HDU with ``'0000000000000000'`` as the value of CHECKSUM.
    """
    spread = [_ENCODED[byte] for byte in (~total & _WORD).to_bytes(4, "big")]
    text = bytes(spread[place % 4][place // 4] for place in range(16))
    return (text[-1:] + text[:-1]).decode("ascii")
