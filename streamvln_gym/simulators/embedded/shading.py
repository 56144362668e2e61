"""Colour of the visible surface: texture x interpolated vertex colour, unlit (numba kernels).

Works on runs of pixels of one row that show the same triangle. With d the depth and ray(x, y) the view ray of unit
depth, an attribute with value a0 at the triangle's first corner p0 and gradient g in the world is a = a0 +
g.(camera - p0) + d (g.ray), where g.ray is affine in the pixel.

Textures are sampled as OpenGL's GL_LINEAR_MIPMAP_LINEAR does: bilinearly on the two nearest mip levels. The level
follows from the analytic derivatives, evaluated every CHUNK pixels and interpolated between; vertex colours are
interpolated linearly within a chunk, too. The three channels are mixed together as 20-bit lanes of one integer.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from streamvln_gym.simulators.embedded.textures import Wrap

CHUNK = 16  # pixels
U, V, RED, GREEN, BLUE, ATTRIBUTES = 0, 1, 2, 3, 4, 5  # rows of the attribute tables
# columns of an attribute's plane in the picture: what does not depend on the pixel, g.ray at pixel (0, 0), and how that
# changes from column to column and from row to row
CONSTANT, ORIGIN, STEP_X, STEP_Y = 0, 1, 2, 3
INVERSE_DEPTH = ATTRIBUTES  # one more row: how 1 / depth changes (STEP_X, STEP_Y only)
_COLOUR_ONE = 65536  # fixed-point colour 1.0
_LANE = (1 << 20) - 1
_BYTES = 0xFF | 0xFF << 20 | 0xFF << 40
_LANES_14 = 0x3FFF | 0x3FFF << 20 | 0x3FFF << 40
_MAX_FIXED = 2.0e9  # below 2**31
_MAX_SLOTS = 1 << 14
_CLAMP, _MIRROR = int(Wrap.CLAMP), int(Wrap.MIRROR)


def plane_slots(triangles: int) -> int:
    """How many slots `planes` has for a mesh of so many triangles.

    A row of pixels shows few of a scan's triangles, and the next row mostly the same ones.
    """
    return min(1 << max(triangles - 1, 0).bit_length(), _MAX_SLOTS)


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
    wraps,
    highest_level,
    rotation,
    position,
    focal,
    planes,
    drawn,
    frame,
    rgb,
):
    """Fills a picture from the visibility buffer.

    Args:
        inverse_depth, ids, rotation, position, focal: as in `rasterizer.rasterize`.
        triangles, normals, values, gradients, one_colour, texture_index: see `render_mesh.RenderMesh`.
        texels, level_start, size_bits, wraps, highest_level: see `textures.MipMaps`.
        planes: float32 (S, 6, 4), work space: attributes of triangles in this picture, filled when first seen; S, a
            power of two, may be less than T (see `plane_slots`).
        drawn: int64 (S,), work space: which triangle of which frame is in each slot of `planes`.
        frame: a number above 0 that no earlier picture had.
        rgb: uint8 (H, W, 3), receives the picture.
    """
    height, width = ids.shape
    colour = np.empty((3, width), np.int32)  # along the run, fixed point
    fixed_u = np.empty(width, np.int32)  # texture coordinates along the run, 1/256 texels of mip level 0
    fixed_v = np.empty(width, np.int32)
    lod = np.empty(width, np.int32)  # mip level along the run x 256
    last_slot = len(planes) - 1
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
                _fill_run(values, t, out)
                continue
            row = inverse_depth[y, begin:x]
            slot, key = t & last_slot, np.int64(frame) << 32 | t
            if drawn[slot] != key:
                drawn[slot] = key
                if one_colour[t]:
                    changing = RED
                    planes[slot, RED:ATTRIBUTES, CONSTANT] = values[t, RED:ATTRIBUTES]
                else:
                    changing = ATTRIBUTES
                _set_up_planes(
                    triangles, normals, values, gradients, t, changing, rotation, position, focal, width, height,
                    planes[slot],
                )  # fmt: skip
            _interpolate_colour(row, one_colour[t], planes, slot, begin, y, colour)
            if texture == 0:
                _write_colour(colour, out)
                continue
            bits = size_bits[texture]
            _locate_texels(row, bits[0], planes, slot, U, begin, y, fixed_u)
            _locate_texels(row, bits[1], planes, slot, V, begin, y, fixed_v)
            _select_levels(row, bits, highest_level[texture], planes, slot, begin, y, lod)
            if wraps[texture, 0] | wraps[texture, 1] == 0:
                _sample_run(texels, level_start[texture], bits, fixed_u, fixed_v, lod, colour, out)
            else:
                _sample_wrapped_run(
                    texels, level_start[texture], bits, wraps[texture], fixed_u, fixed_v, lod, colour, out
                )


@njit(cache=True, nogil=True, error_model="numpy")
def _fill_run(values, t, out):
    """Writes the one colour of triangle t to a run, out uint8 (n, 3)."""
    red = np.uint8(values[t, RED] + np.float32(0.5))
    green = np.uint8(values[t, GREEN] + np.float32(0.5))
    blue = np.uint8(values[t, BLUE] + np.float32(0.5))
    for k in range(out.shape[0]):
        out[k, 0] = red
        out[k, 1] = green
        out[k, 2] = blue


@njit(cache=True, nogil=True, error_model="numpy")
def _write_colour(colour, out):
    """Writes fixed-point colours (3, >= n) to a run, out uint8 (n, 3)."""
    for k in range(out.shape[0]):
        for c in range(3):
            out[k, c] = (colour[c, k] * 255 + _COLOUR_ONE // 2) >> 16


@njit(cache=True, nogil=True, error_model="numpy")
def _set_up_planes(
    triangles, normals, values, gradients, t, changing, rotation, position, focal, width, height, planes
):
    """Fills planes (6, 4): the first `changing` attributes of triangle t as functions of the pixel, and 1 / depth."""
    ray_x, ray_y = (0.5 - width / 2) / focal[0], (height / 2 - 0.5) / focal[1]
    for a in range(changing):
        along_x = along_y = along_z = shift = 0.0
        for k in range(3):
            g = gradients[t, a, k]
            along_x += g * rotation[0, k]
            along_y += g * rotation[1, k]
            along_z -= g * rotation[2, k]
            shift += g * (position[k] - triangles[t, k])
        planes[a, CONSTANT] = values[t, a] + shift
        planes[a, ORIGIN] = along_x * ray_x + along_y * ray_y + along_z
        planes[a, STEP_X] = along_x / focal[0]
        planes[a, STEP_Y] = -along_y / focal[1]
    offset = along_x = along_y = 0.0
    for k in range(3):
        offset += normals[t, k] * (triangles[t, k] - position[k])
        along_x += normals[t, k] * rotation[0, k]
        along_y += normals[t, k] * rotation[1, k]
    planes[INVERSE_DEPTH, STEP_X] = along_x / (offset * focal[0])
    planes[INVERSE_DEPTH, STEP_Y] = -along_y / (offset * focal[1])


@njit(cache=True, nogil=True, error_model="numpy")
def _interpolate_colour(row, is_constant, planes, slot, x, y, colour):
    """Fixed-point vertex colours along a run from pixel (x, y): exact at the ends of each chunk, linear between."""
    for c in range(3):
        constant, step_x = planes[slot, RED + c, CONSTANT], planes[slot, RED + c, STEP_X]
        if is_constant:
            colour[c, : row.size] = np.int32(_fixed_colour(constant))
            continue
        start = planes[slot, RED + c, ORIGIN] + x * step_x + y * planes[slot, RED + c, STEP_Y]
        here = _fixed_colour(constant + start / row[0])
        for chunk in range(0, row.size, CHUNK):
            stop = min(chunk + CHUNK, row.size - 1)
            there = _fixed_colour(constant + (start + stop * step_x) / row[stop])
            step = (there - here) / max(stop - chunk, 1)
            for k in range(chunk, min(chunk + CHUNK, row.size)):
                colour[c, k] = np.int32(here + step * (k - chunk))
            here = there


@njit(cache=True, nogil=True, error_model="numpy")
def _fixed_colour(level):
    """A colour 0..255 as 0..65536, ready for rounding down."""
    return min(max(level, 0.0), 255.0) * (_COLOUR_ONE / 255.0) + 0.5


@njit(cache=True, nogil=True, error_model="numpy")
def _locate_texels(row, bits, planes, slot, axis, x, y, fixed):
    """Texture coordinates (axis U or V) along a run from pixel (x, y) in 1/256 texels of mip level 0."""
    most = np.float32(_MAX_FIXED)
    scale = np.float32(256 << bits)
    step = planes[slot, axis, STEP_X]
    start = np.float32(planes[slot, axis, ORIGIN] + x * np.float64(step) + y * np.float64(planes[slot, axis, STEP_Y]))
    constant = planes[slot, axis, CONSTANT]
    for k in range(row.size):
        value = (constant + (start + np.float32(k) * step) / row[k]) * scale
        fixed[k] = np.int32(min(max(value, np.float32(0.0)), most))


@njit(cache=True, nogil=True, error_model="numpy")
def _select_levels(row, size_bits, highest_level, planes, slot, x, y, lod):
    """Mip levels x 256 along a run from pixel (x, y), by OpenGL's rule: log2 of the pixel's longer side in texels."""
    width, height = np.float32(1 << size_bits[0]), np.float32(1 << size_bits[1])
    u_step_x, u_step_y = planes[slot, U, STEP_X] * width, planes[slot, U, STEP_Y] * width
    v_step_x, v_step_y = planes[slot, V, STEP_X] * height, planes[slot, V, STEP_Y] * height
    u_start = np.float32(planes[slot, U, ORIGIN] * width + x * u_step_x + y * u_step_y)
    v_start = np.float32(planes[slot, V, ORIGIN] * height + x * v_step_x + y * v_step_y)
    w_step_x, w_step_y = planes[slot, INVERSE_DEPTH, STEP_X], planes[slot, INVERSE_DEPTH, STEP_Y]
    highest = np.float32(256 * highest_level)
    here = np.float32(0.0)
    for chunk in range(-CHUNK, row.size, CHUNK):  # the first turn finds the level of pixel 0
        stop = min(chunk + CHUNK, row.size - 1)
        d = np.float32(1.0) / row[stop]
        u = d * (u_start + np.float32(stop) * u_step_x)
        v = d * (v_start + np.float32(stop) * v_step_x)
        u_x, v_x = u_step_x - u * w_step_x, v_step_x - v * w_step_x
        u_y, v_y = u_step_y - u * w_step_y, v_step_y - v * w_step_y
        there = min(_lod(d * d * max(u_x * u_x + v_x * v_x, u_y * u_y + v_y * v_y)), highest)
        if chunk >= 0:
            step = (there - here) / np.float32(max(stop - chunk, 1))
            for k in range(chunk, min(chunk + CHUNK, row.size)):
                lod[k] = np.int32(here + step * np.float32(k - chunk))
        here = there


@njit(cache=True, nogil=True, error_model="numpy")
def _lod(squared):
    """max(256 log2(sqrt(squared)), 0) within 1: the exponent's bits, and a parabola for the mantissa's share."""
    if not squared > np.float32(1.0):
        return np.float32(0.0)
    bits = np.float32(squared).view(np.int32)
    part = np.float32(bits & 0x7FFFFF) * np.float32(2.0**-23)
    logarithm = np.float32((bits >> 23) - 127) + part + np.float32(0.346) * part * (np.float32(1.0) - part)
    return np.float32(128.0) * logarithm


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
        for i in range(np.uint64(begin), np.uint64(k)):
            u, v = np.int64(fixed_u[i]) >> level, np.int64(fixed_v[i]) >> level
            lanes = _bilinear(texels, level_start[level], w_bits, h_bits, u, v)
            part = (lod[i] & 255) >> 2
            if part > 0:
                other = _bilinear(
                    texels, level_start[level + 1], max(w_bits - 1, 0), max(h_bits - 1, 0), u >> 1, v >> 1
                )
                lanes = (lanes >> 6 & _LANES_14) * (64 - part) + (other >> 6 & _LANES_14) * part
            out[i, 0] = ((lanes & _LANE) * colour[0, i] + (1 << 27)) >> 28
            out[i, 1] = ((lanes >> 20 & _LANE) * colour[1, i] + (1 << 27)) >> 28
            out[i, 2] = ((lanes >> 40) * colour[2, i] + (1 << 27)) >> 28


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
def _sample_wrapped_run(texels, level_start, size_bits, wraps, fixed_u, fixed_v, lod, colour, out):
    """As `_sample_run`, for a texture that is clamped or mirrored (see `textures.Wrap`)."""
    for i in range(out.shape[0]):
        level = np.int64(lod[i] >> 8)
        w_bits, h_bits = max(size_bits[0] - level, 0), max(size_bits[1] - level, 0)
        u, v = np.int64(fixed_u[i]) >> level, np.int64(fixed_v[i]) >> level
        lanes = _bilinear_wrapped(texels, level_start[level], w_bits, h_bits, wraps, u, v)
        part = (lod[i] & 255) >> 2
        if part > 0:
            w_bits, h_bits = max(w_bits - 1, 0), max(h_bits - 1, 0)
            other = _bilinear_wrapped(texels, level_start[level + 1], w_bits, h_bits, wraps, u >> 1, v >> 1)
            lanes = (lanes >> 6 & _LANES_14) * (64 - part) + (other >> 6 & _LANES_14) * part
        out[i, 0] = ((lanes & _LANE) * colour[0, i] + (1 << 27)) >> 28
        out[i, 1] = ((lanes >> 20 & _LANE) * colour[1, i] + (1 << 27)) >> 28
        out[i, 2] = ((lanes >> 40) * colour[2, i] + (1 << 27)) >> 28


@njit(cache=True, nogil=True, error_model="numpy")
def _bilinear_wrapped(texels, start, width_bits, height_bits, wraps, u, v):
    """As `_bilinear`, with `wraps` (2,)."""
    u -= 128
    v -= 128
    left = _wrapped(u >> 8, width_bits, wraps[0])
    right = _wrapped((u >> 8) + 1, width_bits, wraps[0])
    top = start + (_wrapped(v >> 8, height_bits, wraps[1]) << width_bits)
    bottom = start + (_wrapped((v >> 8) + 1, height_bits, wraps[1]) << width_bits)
    part_u, part_v = u & 255, v & 255
    bottom_right = part_u * part_v >> 4
    top_right = (part_u << 4) - bottom_right
    bottom_left = (part_v << 4) - bottom_right
    top_left = 4096 - (part_u << 4) - bottom_left
    return (
        _spread(texels[top + left]) * top_left
        + _spread(texels[top + right]) * top_right
        + _spread(texels[bottom + left]) * bottom_left
        + _spread(texels[bottom + right]) * bottom_right
    )


@njit(cache=True, nogil=True, error_model="numpy")
def _wrapped(index, bits, wrap):
    """The column or row of a picture of 2**bits that `index` shows."""
    size = 1 << bits
    if wrap == _CLAMP:
        return min(max(index, 0), size - 1)
    if wrap == _MIRROR:
        index &= 2 * size - 1
        return min(index, 2 * size - 1 - index)
    return index & size - 1


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
