"""Headers of a raw file: structure, the cards given, and checksums."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import structlog

from platevault.adapters.fits.cards import (
    BLOCK_BYTES,
    CARD_BYTES,
    InvalidCardError,
    clean_card,
    format_card,
    is_continued,
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
_LONG_STRINGS = format_card(Card("LONGSTRN", "OGIP 1.0", "CONTINUE cards are in use"))
#: Value of CHECKSUM while the sum is taken, FITS 4.0 sec. 4.4.2.7.
_ZERO = "0" * 16
#: Where the value begins within a card.
_VALUE_AT = 11
_END = f"{'END':80}"
_CHECKSUM = "HDU checksum"
_DATASUM = "data unit checksum"


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


def primary_header(cards: Sequence[Card]) -> tuple[Header, list[Card]]:
    """Make HDU 0's header; also give its cards as a reader will see them."""
    header = _close(_format(*_PRIMARY) + format_body(cards), data_sum=0)
    checks = (Card("CHECKSUM", header.checksum, _CHECKSUM), Card("DATASUM", "0", _DATASUM))
    return header, [*_PRIMARY, *cards, *checks]


def segment_header(
    body: str, segment: SegmentData, *, columns: int, rows: int, encoding: Encoding
) -> Header:
    """Make the header of an amplifier's HDU.

    Parameters
    ----------
    body
        Its cards, from `format_body`.
    segment
        Its data unit.
    columns, rows
        Size [pixel].
    encoding
        Form of its data.
    """
    body = _SCALE + body
    image = _image_structure(columns, rows)
    if not encoding.compressed:
        return _close(image + body, data_sum=segment.data_sum)
    original = _close(image + body, data_sum=segment.plane_sum)
    tile_rows = min(encoding.tile_rows, rows)
    structure = _format(
        Card("XTENSION", "BINTABLE", "binary table extension"),
        Card("BITPIX", 8, "8-bit bytes"),
        Card("NAXIS", 2, "2-dimensional binary table"),
        Card("NAXIS1", 8, "width of table in bytes"),
        Card("NAXIS2", -(-rows // tile_rows), "number of rows in table"),
        Card("PCOUNT", segment.heap_bytes, "size of special data area"),
        Card("GCOUNT", 1, "one data group (required keyword)"),
        Card("TFIELDS", 1, "number of fields in each row"),
        Card("TTYPE1", "COMPRESSED_DATA", "label for field   1"),
        Card("TFORM1", f"1PB({segment.longest_tile_bytes})", "variable length array"),
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
        Card("ZHECKSUM", original.checksum, "HDU checksum of the image"),
        Card("ZDATASUM", str(segment.plane_sum), "data unit checksum of the image"),
    )
    return _close(structure + body, data_sum=segment.data_sum)


def format_body(cards: Iterable[Card]) -> str:
    """Write cards, with LONGSTRN before them if one needs more than 80 characters."""
    texts = [format_card(card) for card in cards]
    long = any(is_continued(text) for text in texts)
    return "".join([_LONG_STRINGS, *texts] if long else texts)


def usable_cards(cards: Iterable[Card], *, hdu: int) -> list[Card]:
    """Leave out structure, and cards that FITS cannot hold, which are logged."""
    kept = []
    for card in cards:
        if card.keyword in STRUCTURE:
            continue
        try:
            clean = clean_card(card)
        except InvalidCardError as error:
            _log.warning("Header card left out", hdu=hdu, **error.context)
            continue
        if _is_changed(card, clean):
            _log.warning(
                "Header value changed to be legal",
                hdu=hdu,
                keyword=card.keyword,
                value=repr(card.value),
                written=repr(clean.value),
            )
        kept.append(clean)
    return kept


def _is_changed(card: Card, clean: Card) -> bool:
    """Tell whether more than trailing blanks of the value or characters of the comment went."""
    if isinstance(card.value, str):
        return card.value.rstrip(" ") != clean.value
    return card.value is not clean.value


def _format(*cards: Card) -> str:
    return "".join(map(format_card, cards))


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


def _close(text: str, *, data_sum: int) -> Header:
    """Add both checksums, END and blanks."""
    text += _format(Card("CHECKSUM", _ZERO, _CHECKSUM), Card("DATASUM", str(data_sum), _DATASUM))
    place = len(text) - 2 * CARD_BYTES + _VALUE_AT
    text += _END
    data = text.ljust(-(-len(text) // BLOCK_BYTES) * BLOCK_BYTES).encode("ascii")
    checksum = encode_checksum(add_sums(sum_words(data), data_sum))
    return Header(data[:place] + checksum.encode("ascii") + data[place + 16 :], checksum)
