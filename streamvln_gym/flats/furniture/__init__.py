"""Low-poly furniture: each builder makes one recognisable piece in a named colour and material."""

from streamvln_gym.flats.furniture.catalogue import BUILDERS, build
from streamvln_gym.flats.furniture.piece import Piece, Style

__all__ = ["BUILDERS", "Piece", "Style", "build"]
