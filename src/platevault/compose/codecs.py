"""Which pixel codec is at work here."""

from platevault.adapters.fits.codec_choice import active_codec

__all__ = ["active_codec"]
