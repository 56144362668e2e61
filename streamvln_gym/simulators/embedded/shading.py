"""Colour of the visible surface: texture x interpolated vertex colour, unlit (numba kernels).

Works on runs of pixels of one row that show the same triangle. With d the depth and ray(x, y) the view ray of unit
depth, an attribute with value a0 at the triangle's first corner p0 and gradient g in the world is a = a0 +
g.(camera - p0) + d (g.ray), where g.ray is affine in the pixel.

Textures are sampled as OpenGL's GL_LINEAR_MIPMAP_LINEAR does: bilinearly on the two nearest mip levels. The level
follows from the analytic derivatives, evaluated every CHUNK pixels and interpolated between; vertex colours are
interpolated linearly within a chunk, too. The three channels are mixed together as 20-bit lanes of one integer.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

CHUNK = 16  # pixels
U, V, RED, GREEN, BLUE, ATTRIBUTES = 0, 1, 2, 3, 4, 5  # rows of the attribute tables
# columns of an attribute's plane along a run: what does not depend on the pixel, g.ray at the run's first pixel, and
# how that changes from column to column and from row to row
CONSTANT, START, STEP_X, STEP_Y = 0, 1, 2, 3
_COLOUR_ONE = 65536  # fixed-point colour 1.0
_LANE = (1 << 20) - 1
_BYTES = 0xFF | 0xFF << 20 | 0xFF << 40
_LANES_14 = 0x3FFF | 0x3FFF << 20 | 0x3FFF << 40
_MAX_FIXED = 2.0e9  # below 2**31


@njit(cache=True, nogil=True, error_model="numpy")
def shade(
    inverse_depth,
    ids,
    triangles,
    normals,
    values,
    gradients,
    one_colour,
    texture_index,
    texels,
    level_start,
    size_bits,
    rotation,
    position,
    focal,
    rgb,
):
    """Fills a picture from the visibility buffer.

    Args:
        inverse_depth, ids, triangles, normals, rotation, position, focal: as in `rasterizer.rasterize`.
        values: float32 (T, 5), u, v, red, green, blue at the triangles' first corners; colours 0..255; u, v > 0.
        gradients: float32 (T, 5, 3), their gradients in the world (per metre).
        one_colour: bool (T,), whether the three corners have the same colour.
        texture_index: int32 (T,); 0 means no texture.
        texels, level_start, size_bits: see `textures.MipMaps`.
        rgb: uint8 (H, W, 3), receives the picture.
    """
    height, width = ids.shape
    planes = np.empty((ATTRIBUTES, 4))  # the attributes along a run
    slope = np.empty(2)  # change of 1 / depth from column to column and from row to row
    colour = np.empty((width, 3), np.int32)  # along the run, fixed point
    fixed_u = np.empty(width, np.int32)  # texture coordinates along the run, 1/256 texels of mip level 0
    fixed_v = np.empty(width, np.int32)
    lod = np.empty(width, np.int32)  # mip level along the run x 256
    for y in range(height):
        x = 0
        while x < width:
            t = ids[y, x]
            begin = x
            x += 1
            while x < width and ids[y, x] == t:
                x += 1
            out = rgb[y, begin:x]
            if t < 0:
                out[:] = 0
                continue
            texture = texture_index[t]
            if texture == 0 and one_colour[t]:
                red = np.uint8(values[t, RED] + np.float32(0.5))
                green = np.uint8(values[t, GREEN] + np.float32(0.5))
                blue = np.uint8(values[t, BLUE] + np.float32(0.5))
                for k in range(x - begin):
                    out[k, 0] = red
                    out[k, 1] = green
                    out[k, 2] = blue
                continue
            row = inverse_depth[y, begin:x]
            ray_x = (begin + 0.5 - width / 2) / focal[0]
            ray_y = (height / 2 - y - 0.5) / focal[1]
            first = U if texture > 0 else RED
            last = RED if one_colour[t] else ATTRIBUTES
            for a in range(RED, ATTRIBUTES):
                planes[a, CONSTANT] = values[t, a]
            for a in range(first, last):
                _set_up_plane(
                    triangles[t], values[t, a], gradients[t, a], rotation, position, focal, ray_x, ray_y, planes[a]
                )
            _interpolate_colour(row, one_colour[t], planes, colour)
            if texture == 0:
                for k in range(row.size):
                    for c in range(3):
                        out[k, c] = (colour[k, c] * 255 + _COLOUR_ONE // 2) >> 16
                continue
            _set_up_slope(triangles[t], normals[t], rotation, position, focal, slope)
            _locate_texels(row, size_bits[texture], planes, fixed_u, fixed_v)
            _select_levels(row, size_bits[texture], planes, slope, lod)
            _sample_run(texels, level_start[texture], size_bits[texture], fixed_u, fixed_v, lod, colour, out)


@njit(cache=True, nogil=True, error_model="numpy")
def _set_up_plane(corners, value, gradient, rotation, position, focal, ray_x, ray_y, plane):
    """The affine parts of one attribute along a run whose first view ray is (ray_x, ray_y)."""
    along_x = along_y = along_z = shift = 0.0
    for k in range(3):
        along_x += gradient[k] * rotation[0, k]
        along_y += gradient[k] * rotation[1, k]
        along_z -= gradient[k] * rotation[2, k]
        shift += gradient[k] * (position[k] - corners[k])
    plane[CONSTANT] = value + shift
    plane[START] = along_x * ray_x + along_y * ray_y + along_z
    plane[STEP_X] = along_x / focal[0]
    plane[STEP_Y] = -along_y / focal[1]


@njit(cache=True, nogil=True, error_model="numpy")
def _set_up_slope(corners, normal, rotation, position, focal, slope):
    """How 1 / depth changes in a triangle's plane from column to column and from row to row."""
    offset = along_x = along_y = 0.0
    for k in range(3):
        offset += normal[k] * (corners[k] - position[k])
        along_x += normal[k] * rotation[0, k]
        along_y += normal[k] * rotation[1, k]
    slope[0] = along_x / (offset * focal[0])
    slope[1] = -along_y / (offset * focal[1])


@njit(cache=True, nogil=True, error_model="numpy")
def _interpolate_colour(row, is_constant, planes, colour):
    """Fixed-point vertex colours along a run: exact at the ends of each chunk, linear between."""
    for c in range(3):
        here = _fixed_colour(planes[RED + c, CONSTANT] + (0.0 if is_constant else planes[RED + c, START] / row[0]))
        if is_constant:
            for k in range(row.size):
                colour[k, c] = here
            continue
        for chunk in range(0, row.size, CHUNK):
            stop = min(chunk + CHUNK, row.size - 1)
            there = _fixed_colour(
                planes[RED + c, CONSTANT] + (planes[RED + c, START] + stop * planes[RED + c, STEP_X]) / row[stop]
            )
            step = (there - here) / max(stop - chunk, 1)
            for k in range(chunk, min(chunk + CHUNK, row.size)):
                colour[k, c] = np.int32(here + step * (k - chunk))
            here = there


@njit(cache=True, nogil=True, error_model="numpy")
def _fixed_colour(level):
    """A colour 0..255 as 0..65536, rounded."""
    return min(max(level, 0.0), 255.0) * (_COLOUR_ONE / 255.0) + 0.5


@njit(cache=True, nogil=True, error_model="numpy")
def _locate_texels(row, size_bits, planes, fixed_u, fixed_v):
    """Texture coordinates along a run in 1/256 texels of mip level 0."""
    most = np.float32(_MAX_FIXED)
    scale = np.float32(256 << size_bits[0])
    u0, u1, u2 = np.float32(planes[U, CONSTANT]), np.float32(planes[U, START]), np.float32(planes[U, STEP_X])
    for k in range(row.size):
        fixed_u[k] = np.int32(min(max((u0 + (u1 + np.float32(k) * u2) / row[k]) * scale, np.float32(0.0)), most))
    scale = np.float32(256 << size_bits[1])
    v0, v1, v2 = np.float32(planes[V, CONSTANT]), np.float32(planes[V, START]), np.float32(planes[V, STEP_X])
    for k in range(row.size):
        fixed_v[k] = np.int32(min(max((v0 + (v1 + np.float32(k) * v2) / row[k]) * scale, np.float32(0.0)), most))


@njit(cache=True, nogil=True, error_model="numpy")
def _select_levels(row, size_bits, planes, slope, lod):
    """Mip levels x 256 along a run, by OpenGL's rule: log2 of the longer of the pixel's two sides in texels."""
    width, height = float(1 << size_bits[0]), float(1 << size_bits[1])
    highest = 256.0 * max(size_bits[0], size_bits[1])
    here = 0.0
    for chunk in range(-CHUNK, row.size, CHUNK):  # the first turn finds the level of pixel 0
        stop = min(chunk + CHUNK, row.size - 1)
        d = 1.0 / row[stop]
        s = d * (planes[U, START] + stop * planes[U, STEP_X])
        r = d * (planes[V, START] + stop * planes[V, STEP_X])
        u_x, v_x = width * (planes[U, STEP_X] - s * slope[0]), height * (planes[V, STEP_X] - r * slope[0])
        u_y, v_y = width * (planes[U, STEP_Y] - s * slope[1]), height * (planes[V, STEP_Y] - r * slope[1])
        squared = d * d * max(u_x * u_x + v_x * v_x, u_y * u_y + v_y * v_y)
        there = min(max(128.0 * math.log2(max(squared, 1e-30)), 0.0), highest)
        if chunk >= 0:
            step = (there - here) / max(stop - chunk, 1)
            for k in range(chunk, min(chunk + CHUNK, row.size)):
                lod[k] = np.int32(here + step * (k - chunk))
        here = there


@njit(cache=True, nogil=True, error_model="numpy")
def _sample_run(texels, level_start, size_bits, fixed_u, fixed_v, lod, colour, out):
    """Writes texture x colour for the pixels of a run, out uint8 (n, 3)."""
    count = out.shape[0]
    k = 0
    while k < count:  # segments within two mip levels
        level = np.int64(lod[k] >> 8)
        begin = k
        k += 1
        while k < count and lod[k] >> 8 == level:
            k += 1
        w_bits, h_bits = max(size_bits[0] - level, 0), max(size_bits[1] - level, 0)
        for i in range(begin, k):
            u, v = np.int64(fixed_u[i]) >> level, np.int64(fixed_v[i]) >> level
            lanes = _bilinear(texels, level_start[level], w_bits, h_bits, u, v)
            part = (lod[i] & 255) >> 2
            if part > 0:
                other = _bilinear(
                    texels, level_start[level + 1], max(w_bits - 1, 0), max(h_bits - 1, 0), u >> 1, v >> 1
                )
                lanes = (lanes >> 6 & _LANES_14) * (64 - part) + (other >> 6 & _LANES_14) * part
            out[i, 0] = ((lanes & _LANE) * colour[i, 0] + (1 << 27)) >> 28
            out[i, 1] = ((lanes >> 20 & _LANE) * colour[i, 1] + (1 << 27)) >> 28
            out[i, 2] = ((lanes >> 40) * colour[i, 2] + (1 << 27)) >> 28


@njit(cache=True, nogil=True, error_model="numpy")
def _bilinear(texels, start, width_bits, height_bits, u, v):
    """Lanes of 8.12 bits of a mip level's colour at (u, v), in 1/256 texels; the level begins at `start`."""
    u -= 128
    v -= 128
    mask_u, mask_v = (1 << width_bits) - 1, (1 << height_bits) - 1
    left, right = u >> 8 & mask_u, (u >> 8) + 1 & mask_u
    top = start + ((v >> 8 & mask_v) << width_bits)
    bottom = start + (((v >> 8) + 1 & mask_v) << width_bits)
    part_u, part_v = u & 255, v & 255
    bottom_right = part_u * part_v >> 4  # weights, together 4096
    top_right = (part_u << 4) - bottom_right
    bottom_left = (part_v << 4) - bottom_right
    top_left = 4096 - (part_u << 4) - bottom_left
    return (
        _spread(texels[np.uint64(top + left)]) * top_left
        + _spread(texels[np.uint64(top + right)]) * top_right
        + _spread(texels[np.uint64(bottom + left)]) * bottom_left
        + _spread(texels[np.uint64(bottom + right)]) * bottom_right
    )


@njit(cache=True, nogil=True, error_model="numpy")
def _spread(texel):
    """A packed texel as three lanes of 20 bits."""
    wide = np.int64(texel)
    return (wide | wide << 32) & _BYTES


@njit(cache=True, nogil=True, error_model="numpy")
def average_blocks(fine, factor, coarse):
    """Box filter: fine uint8 (H * factor, W * factor, 3) to coarse uint8 (H, W, 3)."""
    height, width = coarse.shape[:2]
    sums = np.empty(width * factor * 3, np.int32)
    count = factor * factor
    for y in range(height):
        sums[:] = 0
        for j in range(y * factor, (y + 1) * factor):
            row = fine[j].ravel()
            for k in range(row.size):
                sums[k] += row[k]
        for x in range(width):
            for c in range(3):
                total = count // 2
                for i in range(factor):
                    total += sums[(x * factor + i) * 3 + c]
                coarse[y, x, c] = total // count


@njit(cache=True, nogil=True, error_model="numpy")
def to_depth(inverse_depth, nothing, low, high, depth):
    """Depth in metres within [low, high] from float32 (H, W) of 1 / depth, which is `nothing` where nothing is."""
    for y in range(depth.shape[0]):
        row = inverse_depth[y]
        out = depth[y]
        for x in range(row.size):
            out[x] = min(max(np.float32(1.0) / row[x], low), high) if row[x] > nothing else high
