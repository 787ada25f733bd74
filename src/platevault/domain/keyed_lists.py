"""Lists within one text: elements joined by colons, colons of an element escaped.

References
----------
CAP-572 (escaping); header contract, section A3.
"""

from __future__ import annotations


def split_list(text: str) -> list[str]:
    r"""Take a ``:``-list apart; ``\:`` stands for a colon. Empty text is an empty list."""
    if not text:
        return []
    parts: list[str] = []
    part: list[str] = []
    characters = iter(text)
    for character in characters:
        if character == "\\":
            part.append(next(characters, "\\"))
        elif character == ":":
            parts.append("".join(part))
            part = []
        else:
            part.append(character)
    parts.append("".join(part))
    return parts


def join_list(parts: list[str]) -> str:
    """Give the text of a list; `split_list` takes it apart again."""
    return ":".join(part.replace("\\", "\\\\").replace(":", "\\:") for part in parts)


def split_pairs(keys: str, values: str) -> dict[str, str]:
    """Take two parallel lists as a mapping; keys without a value are left out."""
    return dict(zip(split_list(keys), split_list(values), strict=False))
