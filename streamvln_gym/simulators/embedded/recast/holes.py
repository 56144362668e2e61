"""Joins a region's holes to its outline by cuts, so that every region is one polygon (Recast's mergeRegionHoles)."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from streamvln_gym.simulators.embedded.recast.contours import Contour
from streamvln_gym.simulators.embedded.recast.plane import in_cone, meets, same_place


def merge_holes(contours: list[Contour]) -> list[Contour]:
    """The contours with holes joined to their regions' outlines; a hole that cannot be joined stays by itself."""
    outlines: dict[int, Contour] = {}
    holes: dict[int, list[Contour]] = {}
    for contour in contours:
        if contour.is_hole:
            holes.setdefault(contour.region, []).append(contour)
        else:
            outlines[contour.region] = contour
    for region in sorted(holes):
        if region in outlines:
            _merge_into(outlines[region], holes[region])
    return [contour for contour in contours if len(contour.corners) >= 3]


def _merge_into(outline: Contour, holes: list[Contour]) -> None:
    """Joins the holes to the outline from left to right; a joined hole is left without corners."""
    holes = sorted(holes, key=lambda hole: min((x, z) for x, _, z in hole.corners.tolist()))
    total = len(outline.corners) + sum(len(hole.corners) + 2 for hole in holes)
    # Recast's list of candidates outlives a hole, and a later search looks at its old entries (see _find_cut).
    candidates = np.full((total, 2), -1, np.int64)
    for i, hole in enumerate(holes):
        rest = np.concatenate([other.corners for other in holes[i:]]).astype(np.int64)
        first = np.cumsum([0] + [len(other.corners) for other in holes[i:]])
        a, b = _find_cut(outline.corners.astype(np.int64), rest, first, candidates, i)
        if a < 0:
            continue
        outline.corners = _joined(outline.corners, a, hole.corners, b)
        hole.corners = hole.corners[:0]


def _joined(outline: NDArray[np.int32], a: int, hole: NDArray[np.int32], b: int) -> NDArray[np.int32]:
    """The outline from its corner a round to a, then the hole from its corner b round to b."""
    return np.concatenate([outline[a:], outline[: a + 1], hole[b:], hole[: b + 1]])


@njit(cache=True, nogil=True)
def _blocked(start, end, skipped, corners):
    """Whether a cut meets an edge of the contour `corners`, but for edges at the corner number `skipped`."""
    n = len(corners)
    for k in range(n):
        following = k + 1 if k + 1 < n else 0
        if skipped == k or skipped == following:
            continue
        a, b = corners[k], corners[following]
        if same_place(start, a) or same_place(end, a) or same_place(start, b) or same_place(end, b):
            continue
        if meets(start, end, a, b):
            return True
    return False


@njit(cache=True, nogil=True)
def _find_cut(outline, holes, first, candidates, number):
    """The shortest cut from the outline to the hole 0 of `holes`: corner numbers, or (-1, -1).

    Hole k has the corners first[k] to first[k + 1]. `candidates` are (corner, squared length); `number` is the hole's
    among all of the region: Recast 1.6.0 excepts the outline's edges at candidate `number`, and so it is done here.
    """
    hole, n = holes[: first[1]], len(outline)
    start = 0
    for k in range(1, len(hole)):
        if hole[k, 0] < hole[start, 0] or (hole[k, 0] == hole[start, 0] and hole[k, 2] < hole[start, 2]):
            start = k
    for turn in range(len(hole)):
        b = (start + turn) % len(hole)
        corner = hole[b]
        count = 0
        for j in range(n):
            if in_cone(
                outline[j - 1 if j > 0 else n - 1], outline[j], outline[j + 1 if j + 1 < n else 0], corner, True
            ):
                length = (outline[j, 0] - corner[0]) ** 2 + (outline[j, 2] - corner[2]) ** 2
                place = count
                while place > 0 and candidates[place - 1, 1] > length:
                    candidates[place, 0], candidates[place, 1] = candidates[place - 1, 0], candidates[place - 1, 1]
                    place -= 1
                candidates[place, 0], candidates[place, 1] = j, length
                count += 1
        for j in range(count):
            a = candidates[j, 0]
            blocked = _blocked(outline[a], corner, candidates[number, 0], outline)
            k = 0
            while not blocked and k + 1 < len(first):
                blocked = _blocked(outline[a], corner, -1, holes[first[k] : first[k + 1]])
                k += 1
            if not blocked:
                return a, b
    return -1, -1
