"""Headers of a raw file: structure, the cards given, and checksums."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import structlog

from platevault.adapters.fits.cards import (
    BLOCK_BYTES,
    CARD_BYTES,
    InvalidCardError,
    format_card,
    render_card,
)
from platevault.adapters.fits.checksum import add_sums, encode_checksum, sum_words
from platevault.adapters.fits.codec import Encoding, SegmentData
from platevault.domain.headers import Card

_log = structlog.get_logger(__name__)

#: Set by the writer whatever a header says (raw-fits contract, sec. 2 and 11).
STRUCTURE = frozenset(
    {
        *("SIMPLE", "XTENSION", "BITPIX", "NAXIS", "NAXIS1", "NAXIS2", "EXTEND", "PCOUNT"),
        *("GCOUNT", "BSCALE", "BZERO", "TFIELDS", "TTYPE1", "TFORM1", "ZIMAGE", "ZTENSION"),
        *("ZBITPIX", "ZNAXIS", "ZNAXIS1", "ZNAXIS2", "ZPCOUNT", "ZGCOUNT", "ZTILE1", "ZTILE2"),
        *("ZCMPTYPE", "ZNAME1", "ZVAL1", "ZNAME2", "ZVAL2", "ZHECKSUM", "ZDATASUM"),
        *("CHECKSUM", "DATASUM", "END"),
    }
)
_PRIMARY = (
    Card("SIMPLE", True, "file does conform to FITS standard"),
    Card("BITPIX", 8, "number of bits per data pixel"),
    Card("NAXIS", 0, "number of data axes"),
    Card("EXTEND", True, "FITS dataset may contain extensions"),
)
_SCALE = "".join(
    map(format_card, (Card("BSCALE", 1.0, "counts as stored"), Card("BZERO", 0.0, "no offset")))
)
_LONG_STRINGS = Card("LONGSTRN", "OGIP 1.0", "CONTINUE cards are in use")
_LONG_STRINGS_TEXT = format_card(_LONG_STRINGS)
#: Value of CHECKSUM while the sum is taken, FITS 4.0 sec. 4.4.2.7.
_ZERO = "0" * 16
_VALUE_BYTES = len(_ZERO)
#: Where the value begins within a card.
_VALUE_AT = 11
_END = f"{'END':80}"
_CHECKSUM = "HDU checksum"
_DATASUM = "data unit checksum"
#: Sizes of segments whose structure is kept as text.
_STRUCTURES = 64


@dataclass(frozen=True, slots=True)
class Header:
    """A header as it stands in the file.

    Attributes
    ----------
    data
        Whole blocks.
    checksum
        Value of CHECKSUM.
    """

    data: bytes
    checksum: str


@dataclass(frozen=True, slots=True)
class Body:
    """Cards between structure and checksums, as text.

    Attributes
    ----------
    text
        Whole cards.
    written
        As a reader will see them.
    """

    text: str
    written: Sequence[Card]


@dataclass(frozen=True, slots=True)
class _Template:
    given: Sequence[Card]
    clean: Sequence[Card | None]
    texts: Sequence[str]
    body: Body


class CardFormatter:
    """Formats lists of cards, and of a list like the last one only the cards that differ.

    Safe to use from several threads. What it gives depends on the cards alone.

    Notes
    -----
    A card that had to be changed or left out is logged when it is formatted, so not again for
    the next image if it is still the same.
    """

    def __init__(self) -> None:
        self._templates: dict[tuple[str, int], _Template] = {}

    def format(self, cards: Sequence[Card], *, detector_type: str, hdu: int) -> Body:
        """Write cards; structure among them is left out, and so is what FITS cannot hold.

        Parameters
        ----------
        cards
            In order.
        detector_type, hdu
            Whose; lists of the same are compared.
        """
        key = (detector_type, hdu)
        known = self._templates.get(key)
        if known is None or len(known.given) != len(cards):
            template = _fresh(cards, hdu)
        else:
            changed = [
                place
                for place, (card, old) in enumerate(zip(cards, known.given, strict=True))
                if card is not old and not _is_same(card, old)
            ]
            if not changed:
                return known.body
            template = _patched(known, cards, changed, hdu)
        self._templates[key] = template
        return template.body


def _is_same(card: Card, old: Card) -> bool:
    """Compare as text would: 1, 1.0 and True differ, and so do 0.0 and -0.0."""
    value, former = card.value, old.value
    kind = type(value)
    return (
        (
            value is former
            or (
                kind is type(former)
                and value == former
                and bool(value or kind is not float or repr(value) == repr(former))
            )
        )
        and card.keyword == old.keyword
        and card.comment == old.comment
    )


def _fresh(cards: Sequence[Card], hdu: int) -> _Template:
    given = list(cards)
    rendered = [_rendered(card, hdu) for card in given]
    texts = [text for text, _ in rendered]
    clean = [card for _, card in rendered]
    return _Template(given, clean, texts, _joined(clean, texts))


def _patched(known: _Template, cards: Sequence[Card], changed: list[int], hdu: int) -> _Template:
    clean, texts = list(known.clean), list(known.texts)
    for place in changed:
        texts[place], clean[place] = _rendered(cards[place], hdu)
    return _Template(list(cards), clean, texts, _joined(clean, texts))


def _joined(clean: Sequence[Card | None], texts: Sequence[str]) -> Body:
    text = "".join(texts)
    written = [card for card in clean if card is not None]
    if max(map(len, texts), default=0) > CARD_BYTES and any(
        "CONTINUE" in text for text in texts if len(text) > CARD_BYTES
    ):
        return Body(_LONG_STRINGS_TEXT + text, [_LONG_STRINGS, *written])
    return Body(text, written)


def _rendered(card: Card, hdu: int) -> tuple[str, Card | None]:
    """Write a card; nothing if it is structure or has no form in FITS."""
    if card.keyword in STRUCTURE:
        return "", None
    try:
        text, clean = render_card(card)
    except InvalidCardError as error:
        _log.warning("Header card left out", hdu=hdu, **error.context)
        return "", None
    if clean is card:
        return text, card
    if _is_changed(card, clean):
        _log.warning(
            "Header value changed to be legal",
            hdu=hdu,
            keyword=card.keyword,
            value=repr(card.value),
            written=repr(clean.value),
        )
    return text, clean


def _is_changed(card: Card, clean: Card) -> bool:
    """Tell whether more than trailing blanks of the value or characters of the comment went."""
    if isinstance(card.value, str):
        return card.value.rstrip(" ") != clean.value
    return card.value is not clean.value


def primary_header(body: Body) -> tuple[Header, list[Card]]:
    """Make HDU 0's header; also give its cards as a reader will see them."""
    header = _close(_format(*_PRIMARY) + body.text, data_sum=0)
    checks = (Card("CHECKSUM", header.checksum, _CHECKSUM), Card("DATASUM", "0", _DATASUM))
    return header, [*_PRIMARY, *body.written, *checks]


def segment_header(
    body: Body, segment: SegmentData, *, columns: int, rows: int, encoding: Encoding
) -> Header:
    """Make the header of an amplifier's HDU.

    Parameters
    ----------
    body
        Its cards.
    segment
        Its data unit.
    columns, rows
        Size [pixel].
    encoding
        Form of its data.
    """
    text = _SCALE + body.text
    image = _image_structure(columns, rows)
    if not encoding.compressed:
        return _close(image + text, data_sum=segment.data_sum)
    # Unpacking programs carry cards and comments over, so the image's own checksum can be known.
    original = _checksum_of(image + text, data_sum=segment.plane_sum)
    before, between, after = _table_structure(columns, rows, min(encoding.tile_rows, rows))
    tile_format = f"'1PB({segment.longest_tile_bytes})'"
    structure = (
        f"{before}{f'PCOUNT  = {segment.heap_bytes:20} / size of special data area':80}"
        f"{between}{f'TFORM1  = {tile_format:20} / variable length array':80}"
        f"{after}{_checksum_card('ZHECKSUM', original, _CHECKSUM)}"
        f"{_sum_card('ZDATASUM', segment.plane_sum, _DATASUM)}"
    )
    return _close(structure + text, data_sum=segment.data_sum)


def _format(*cards: Card) -> str:
    return "".join(map(format_card, cards))


@lru_cache(_STRUCTURES)
def _image_structure(columns: int, rows: int) -> str:
    return _format(
        Card("XTENSION", "IMAGE", "IMAGE extension"),
        Card("BITPIX", 32, "number of bits per data pixel"),
        Card("NAXIS", 2, "number of data axes"),
        Card("NAXIS1", columns, "length of data axis 1"),
        Card("NAXIS2", rows, "length of data axis 2"),
        Card("PCOUNT", 0, "required keyword; must = 0"),
        Card("GCOUNT", 1, "required keyword; must = 1"),
    )


@lru_cache(_STRUCTURES)
def _table_structure(columns: int, rows: int, tile_rows: int) -> tuple[str, str, str]:
    """Give what stands before PCOUNT, from there to TFORM1, and after it (raw-fits, sec. 11)."""
    before = _format(
        Card("XTENSION", "BINTABLE", "binary table extension"),
        Card("BITPIX", 8, "8-bit bytes"),
        Card("NAXIS", 2, "2-dimensional binary table"),
        Card("NAXIS1", 8, "width of table in bytes"),
        Card("NAXIS2", -(-rows // tile_rows), "number of rows in table"),
    )
    between = _format(
        Card("GCOUNT", 1, "one data group (required keyword)"),
        Card("TFIELDS", 1, "number of fields in each row"),
        Card("TTYPE1", "COMPRESSED_DATA", "label for field   1"),
    )
    after = _format(
        Card("ZIMAGE", True, "extension contains compressed image"),
        Card("ZTENSION", "IMAGE", "IMAGE extension"),
        Card("ZBITPIX", 32, "number of bits per data pixel"),
        Card("ZNAXIS", 2, "number of data axes"),
        Card("ZNAXIS1", columns, "length of data axis 1"),
        Card("ZNAXIS2", rows, "length of data axis 2"),
        Card("ZPCOUNT", 0, "required keyword; must = 0"),
        Card("ZGCOUNT", 1, "required keyword; must = 1"),
        Card("ZTILE1", columns, "size of tiles to be compressed"),
        Card("ZTILE2", tile_rows, "size of tiles to be compressed"),
        Card("ZCMPTYPE", "RICE_1", "compression algorithm"),
        Card("ZNAME1", "BLOCKSIZE", "compression block size"),
        Card("ZVAL1", 32, "pixels per block"),
        Card("ZNAME2", "BYTEPIX", "bytes per pixel (1, 2, 4, or 8)"),
        Card("ZVAL2", 4, "bytes per pixel (1, 2, 4, or 8)"),
    )
    return before, between, after


def _sum_card(keyword: str, total: int, comment: str) -> str:
    value = f"'{total:<8}'"
    return f"{f'{keyword:8}= {value:20} / {comment}':80}"


def _checksum_card(keyword: str, value: str, comment: str) -> str:
    line = f"{keyword}= '{value}'   / {comment}"
    return f"{line:80}"


def _ended(text: str, data_sum: int) -> tuple[bytes, int]:
    """Add both checksums, the first as zeros, END and blanks; give also where zeros begin."""
    place = len(text) + _VALUE_AT
    text += _checksum_card("CHECKSUM", _ZERO, _CHECKSUM)
    text += _sum_card("DATASUM", data_sum, _DATASUM) + _END
    return text.ljust(-(-len(text) // BLOCK_BYTES) * BLOCK_BYTES).encode("ascii"), place


def _checksum_of(text: str, *, data_sum: int) -> str:
    data, _ = _ended(text, data_sum)
    return encode_checksum(add_sums(sum_words(data), data_sum))


def _close(text: str, *, data_sum: int) -> Header:
    data, place = _ended(text, data_sum)
    checksum = encode_checksum(add_sums(sum_words(data), data_sum))
    data = data[:place] + checksum.encode("ascii") + data[place + _VALUE_BYTES :]
    return Header(data, checksum)
