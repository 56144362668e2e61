"""Fonts for pictures: Pillow's own, and for what it cannot write (most of RxR's languages) one of the system's."""

from __future__ import annotations

import unicodedata
import warnings
from functools import lru_cache
from typing import Any

from PIL import ImageFont

# Looked for in the system's font folders, in this order.
_SYSTEM_FONTS = (
    "DejaVuSans.ttf",
    "NotoSans-Regular.ttf",
    "NotoSansDevanagari-Regular.ttf",
    "NotoSansTelugu-Regular.ttf",
    "NotoSansArabic-Regular.ttf",
    "NotoSansCJK-Regular.ttc",
    "Lohit-Devanagari.ttf",
    "Lohit-Telugu.ttf",
    "arial.ttf",
    "Arial Unicode.ttf",
    "Nirmala.ttc",
    "Nirmala.ttf",
    "msyh.ttc",
    "Kohinoor.ttc",
    "KohinoorTelugu.ttc",
    "PingFang.ttc",
)
_NO_CHARACTER = "\uffff"


@lru_cache(maxsize=32)
def font_of(size: float) -> Any:
    """Pillow's own font, so that pictures look the same everywhere."""
    return ImageFont.load_default(size=size)


def writable(text: str, size: float) -> tuple[str, Any]:
    """A text and a font of that size, in pixels, that can write it.

    That is Pillow's own font if it has all the characters, else the first of the system's that has. Where none has, the
    accents go, and a warning says which characters will not be seen.
    """
    own = font_of(size)
    if not _missing(own, text):
        return text, own
    for name in _SYSTEM_FONTS:
        font = _system_font(name, size)
        if font is not None and not _missing(font, text):
            return text, font
    plain = "".join(character if _has(own, character) else _without_accent(character) for character in text)
    missing = _missing(own, plain)
    if missing:
        _warn("".join(sorted(missing)))
    return plain, own


def _without_accent(character: str) -> str:
    return "".join(c for c in unicodedata.normalize("NFKD", character) if not unicodedata.combining(c))


@lru_cache(maxsize=128)
def _system_font(name: str, size: float) -> Any:
    try:
        return ImageFont.truetype(name, size)
    except OSError:
        return None


def _missing(font: Any, text: str) -> set[str]:
    """The text's characters that a font does not have; what has no shape is never missing."""
    shapes = {character for character in text if character.isprintable() and not character.isspace()}
    return {character for character in shapes if not _has(font, character)}


@lru_cache(maxsize=4096)
def _has(font: Any, character: str) -> bool:
    drawn, nothing = font.getmask(character), font.getmask(_NO_CHARACTER)
    return drawn.size != nothing.size or bytes(drawn) != bytes(nothing)


@lru_cache(maxsize=32)
def _warn(characters: str) -> None:
    warnings.warn(
        f"no font of this machine can write {characters[:20]}, so pictures show boxes in their place: install one, "
        "such as Google's Noto fonts (Debian and Ubuntu: apt install fonts-noto-core fonts-noto-cjk)",
        UserWarning,
        stacklevel=3,
    )
