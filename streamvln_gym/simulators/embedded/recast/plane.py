"""Exact tests of points with integer coordinates in the (x, z) plane, as Recast triangulates with them.

A point is a row (x, height, z). Coordinates are turned to int64, in which nothing can overflow.
"""

from __future__ import annotations

from numba import njit


@njit(cache=True, nogil=True)
def area2(a, b, c):
    """Twice the signed area of the triangle abc; negative if c is left of the line from a to b."""
    return (b[0] - a[0]) * (c[2] - a[2]) - (c[0] - a[0]) * (b[2] - a[2])


@njit(cache=True, nogil=True)
def same_place(a, b):
    """Whether two points differ at most in height."""
    return a[0] == b[0] and a[2] == b[2]


@njit(cache=True, nogil=True)
def crosses(a, b, c, d):
    """Whether the segments ab and cd cross in a point inside both."""
    abc, abd, cda, cdb = area2(a, b, c), area2(a, b, d), area2(c, d, a), area2(c, d, b)
    if abc == 0 or abd == 0 or cda == 0 or cdb == 0:
        return False
    return (abc < 0) != (abd < 0) and (cda < 0) != (cdb < 0)


@njit(cache=True, nogil=True)
def lies_between(a, b, c):
    """Whether c lies on the segment ab."""
    if area2(a, b, c) != 0:
        return False
    axis = 0 if a[0] != b[0] else 2
    return a[axis] <= c[axis] <= b[axis] or a[axis] >= c[axis] >= b[axis]


@njit(cache=True, nogil=True)
def meets(a, b, c, d):
    """Whether the segments ab and cd have a point in common."""
    return (
        crosses(a, b, c, d)
        or lies_between(a, b, c)
        or lies_between(a, b, d)
        or lies_between(c, d, a)
        or lies_between(c, d, b)
    )


@njit(cache=True, nogil=True)
def in_cone(before, corner, after, point, strict):
    """Whether `point` is seen from a polygon's corner towards the inside; `strict` excludes the edges' lines."""
    if area2(before, corner, after) <= 0:  # convex
        left, right = area2(corner, point, before), area2(point, corner, after)
        return left < 0 and right < 0 if strict else left <= 0 and right <= 0
    return not (area2(corner, point, after) <= 0 and area2(point, corner, before) <= 0)
