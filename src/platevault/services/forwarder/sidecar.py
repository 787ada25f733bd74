"""The JSON twin of a raw file's primary header."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

from platevault.domain.headers import Card, HeaderValue

#: Cards without a value for readers.
_COMMENTARY = frozenset({"", "COMMENT", "HISTORY", "CONTINUE", "END"})


def encode_sidecar(primary: Sequence[Card]) -> bytes:
    """Give the sidecar of a raw file from the cards of its HDU 0 as written.

    A flat object with every keyword in order; undefined values and NaN are ``null``, hierarchical
    keywords have dots. A keyword that comes twice keeps its place and its last value.

    References
    ----------
    ``raw-fits`` contract, section 9; checked against sidecars of real LSSTCam exposures.
    """
    values: dict[str, HeaderValue] = {}
    for card in primary:
        keyword = card.keyword.strip()
        if keyword not in _COMMENTARY:
            values[".".join(keyword.split())] = _plain(card.value)
    values["__CONTENT__"] = "metadata"
    return json.dumps(values, ensure_ascii=True, allow_nan=False).encode("ascii")


def _plain(value: HeaderValue) -> HeaderValue:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
