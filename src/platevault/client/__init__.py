"""What scientists and tools import: ask where an image is."""

from platevault.client.archive import Archive, UnknownImageError
from platevault.domain.whereabouts import ImageStatus, Verdict

__all__ = ["Archive", "ImageStatus", "UnknownImageError", "Verdict"]
