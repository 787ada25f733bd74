"""The forms in which a DAQ client may hand over the words of a board."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from platevault.domain.errors import UsageError
from platevault.domain.wire import StripeLayout, WordPacking

_WORD_BITS = 18
#: Samples whose bits are taken apart at a time.
_SAMPLES = 1 << 14


class UnsuitableLayoutError(UsageError):
    """Words of this board cannot be delivered in the chosen form: choose another."""


def rearranged(
    words: NDArray[np.int32],
    channels: tuple[int, ...],
    layout: StripeLayout,
    packing: WordPacking,
) -> NDArray[np.uint8]:
    """Bring the words of a board into another layout or packing.

    Parameters
    ----------
    words
        Masked words, shape ``(samples, sum(channels))``.
    channels
        Channels of each detector, in stripe order.
    layout, packing
        The form wanted.

    Returns
    -------
    numpy.ndarray
        Bytes, shape ``(n_bytes,)``.

    Raises
    ------
    UnsuitableLayoutError
        Words have more than 18 bits, or a detector's stripe does not end on a byte. Nothing done.
    """
    if layout is StripeLayout.SAMPLE_MAJOR:
        parts = [words]
    else:
        parts = np.split(words, np.cumsum(channels)[:-1], axis=1)
    if packing is WordPacking.INT32:
        return np.concatenate([part.reshape(-1) for part in parts]).view(np.uint8)
    if len(parts) > 1 and any(part.shape[1] * _WORD_BITS % 8 for part in parts):
        raise UnsuitableLayoutError(
            "A detector's stripe does not end on a byte", channels=channels, packing=packing
        )
    return np.concatenate([_packed(part) for part in parts])


def _packed(words: NDArray[np.int32]) -> NDArray[np.uint8]:
    if words.size and (int(words.min()) < 0 or int(words.max()) >> _WORD_BITS):
        raise UnsuitableLayoutError("A word does not fit 18 bits", value=int(words.max()))
    pieces = []
    for first in range(0, len(words), _SAMPLES):
        part = np.ascontiguousarray(words[first : first + _SAMPLES], "<i4")
        octets = part.view(np.uint8).reshape(len(part), -1, 4)
        bits = np.unpackbits(octets, axis=-1, bitorder="little")[..., :_WORD_BITS]
        pieces.append(np.packbits(bits.reshape(len(part), -1), axis=-1, bitorder="little").ravel())
    return np.concatenate(pieces) if pieces else np.zeros(0, np.uint8)
