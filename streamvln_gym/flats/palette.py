"""Named colours: what a piece of furniture, a wall or a door frame can be, and which name a colour has."""

from __future__ import annotations

RGB = tuple[int, int, int]

PALETTE: dict[str, RGB] = {
    "red": (204, 38, 40),
    "orange": (242, 126, 28),
    "yellow": (248, 208, 48),
    "green": (56, 150, 62),
    "turquoise": (48, 188, 186),
    "blue": (42, 84, 196),
    "purple": (124, 56, 164),
    "pink": (244, 136, 176),
    "brown": (124, 78, 44),
    "beige": (222, 194, 148),
    "black": (44, 44, 48),
    "grey": (122, 126, 132),
    "white": (244, 244, 240),
}
"""The colour names that scene objects carry."""

VIVID = ("red", "orange", "yellow", "green", "turquoise", "blue", "purple", "pink")
GLOW: RGB = (255, 246, 206)
"""What a lit lamp shows, whatever the shading."""


TONES: dict[str, tuple[str, RGB]] = {
    "walnut": ("brown", (112, 70, 42)),
    "mahogany": ("brown", (134, 72, 46)),
    "pine": ("beige", (216, 178, 122)),
    "steel": ("grey", (150, 156, 162)),
    "leaf": ("green", (60, 142, 58)),
    "dark leaf": ("green", (40, 112, 54)),
    "light leaf": ("green", (98, 172, 72)),
    "terracotta": ("orange", (206, 112, 66)),
    "pure": ("white", (255, 255, 255)),
    "sand": ("beige", (226, 200, 156)),
    "cardboard": ("beige", (200, 164, 112)),
    "skin": ("beige", (236, 200, 166)),
}
"""Further tones, each with the palette name that a person would give it."""

WALL_COLOURS: dict[str, RGB] = {
    "white": (242, 241, 236),
    "cream": (244, 234, 206),
    "light grey": (212, 215, 219),
    "light blue": (182, 212, 240),
    "light green": (190, 224, 184),
    "yellow": (248, 228, 138),
    "peach": (250, 208, 176),
    "pink": (246, 196, 208),
    "lavender": (212, 200, 240),
    "mint": (180, 232, 214),
    "terracotta": (222, 148, 112),
    "teal": (120, 184, 184),
}
"""Colours that walls are painted in, by name."""

FLOOR_TINTS: dict[str, tuple[RGB, ...]] = {
    "wooden": ((206, 158, 104), (176, 122, 76), (140, 92, 58), (226, 190, 142)),
    "tiled": ((238, 236, 228), (206, 222, 230), (214, 204, 190), (190, 196, 200)),
    "carpeted": ((178, 168, 158), (150, 164, 190), (170, 186, 160), (194, 166, 160), (208, 196, 172)),
    "concrete": ((176, 178, 180), (156, 158, 162)),
}
"""Tints of each kind of floor."""


def colour_rgb(name: str) -> RGB:
    """RGB of a palette colour or a tone.

    Raises:
        ValueError: there is no such colour.
    """
    if name in PALETTE:
        return PALETTE[name]
    if name in TONES:
        return TONES[name][1]
    raise ValueError(f"unknown colour {name!r}; use one of {sorted(PALETTE)} or a tone of {sorted(TONES)}")


def colour_name(name: str) -> str:
    """The palette name of a palette colour or a tone."""
    return name if name in PALETTE else TONES[name][0]
