"""A piece of furniture, and the taste of a flat's owners."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from streamvln_gym.flats.mesh import Model
from streamvln_gym.flats.palette import VIVID


@dataclass(frozen=True)
class Piece:
    """One thing to be placed.

    Attributes:
        category: what it is called.
        model: its polygons; front towards -z, footprint centred on the origin, bottom at y = 0.
        material: word for its material, None if not worth naming.
        surface: height in metres of a top on which small things may stand, None if there is none.
        mount: "floor", "wall", "ceiling" or "top".
        bottom: metres between the floor and its lowest point (wall mounts).
        has_front: whether one can say which way it faces.
    """

    category: str
    model: Model
    material: str | None = None
    surface: float | None = None
    mount: str = "floor"
    bottom: float = 0.0
    has_front: bool = True

    @cached_property
    def bounds(self) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
        """Lowest and highest corner of what is drawn, in the model's frame."""
        return self.model.bounds()

    @property
    def size(self) -> tuple[float, float, float]:
        """(width, depth, height) in metres; width and depth are twice the reach from the origin."""
        (x0, _, z0), (x1, y1, z1) = self.bounds
        return 2.0 * max(x1, -x0), 2.0 * max(z1, -z0), y1

    @property
    def back(self) -> float:
        """Metres from the origin to its back."""
        return self.bounds[1][2]

    @property
    def front(self) -> float:
        """Metres from the origin to its front."""
        return -self.bounds[0][2]

    @cached_property
    def colour(self) -> str | None:
        """The palette colour that most of it shows."""
        return self.model.main_colour()


@dataclass(frozen=True)
class Style:
    """What one flat's furniture has in common.

    Attributes:
        wood: tone of most wooden things.
        other_wood: tone of the others.
        metal: tone of frames.
        favourites: three vivid colours that come back in sofas and in sets of things, so that some match.
    """

    wood: str
    other_wood: str
    metal: str
    favourites: tuple[str, ...]

    @classmethod
    def sample(cls, rng: np.random.Generator) -> Style:
        """A style at random."""
        woods = ("walnut", "mahogany", "pine", "white")
        first, second = rng.choice(len(woods), 2, replace=False)
        other = "black" if rng.random() < 0.2 else woods[second]
        favourites = tuple(VIVID[int(k)] for k in rng.permutation(len(VIVID))[:3])
        return cls(woods[first], other, ("black", "steel", "white")[int(rng.integers(3))], favourites)

    def timber(self, rng: np.random.Generator) -> str:
        """A tone for something wooden."""
        return self.wood if rng.random() < 0.7 else self.other_wood

    def favourite(self, rng: np.random.Generator) -> str:
        """One of the flat's favourite colours."""
        return self.favourites[int(rng.integers(len(self.favourites)))]

    def fabric(self, rng: np.random.Generator) -> str:
        """A colour for something upholstered or painted: mostly vivid."""
        if rng.random() < 0.2:
            return self.favourite(rng)
        if rng.random() < 0.8:
            return VIVID[int(rng.integers(len(VIVID)))]
        return ("beige", "grey", "white", "black", "brown")[int(rng.integers(5))]


def sized(width: float, depth: float, height: float) -> Model:
    """An empty model of a given size."""
    return Model(width, depth, height)


def legs(model: Model, height: float, colour: str, thickness: float = 0.05, inset: float = 0.03) -> None:
    """Adds four legs at the corners of the footprint."""
    for sx in (-1, 1):
        for sz in (-1, 1):
            x, z = sx * (model.width / 2 - inset), sz * (model.depth / 2 - inset)
            xs, zs = sorted((x, x - sx * thickness)), sorted((z, z - sz * thickness))
            model.box((xs[0], xs[1]), (0.0, height), (zs[0], zs[1]), colour, hide="ud")
