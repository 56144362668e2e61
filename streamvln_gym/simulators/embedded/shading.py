"""Colour of the visible surface: texture x interpolated vertex colour, unlit (numba kernels).

Works on runs of pixels of one row that show the same triangle. With d the depth and ray(x, y) the view ray of unit
depth, an attribute with value a0 at the triangle's first corner p0 and world gradient g is a = a0 + g.(camera - p0) +
d (g.ray), where g.ray is affine in x. Textures are sampled bilinearly on two mip levels (trilinear); the level follows
from the analytic derivatives, evaluated every LOD_STEP pixels. Colours are mixed as three 20-bit lanes of one integer.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

LOD_STEP = 16  # pixels between two evaluations of the mip level
_LANE = (1 << 20) - 1
_LANES_14 = 0x3FFF | 0x3FFF << 20 | 0x3FFF << 40
# columns of the attribute table
U, V, RED, GREEN, BLUE, ATTRIBUTES = 0, 1, 2, 3, 4, 5


@njit(cache=True, nogil=True, error_model="numpy")
def _bilinear(texels, offset, width_bits, height_bits, u, v):
    """Lanes of 8.12 bits of the colour at (u, v), both positive, of one mip level that begins at `offset`."""
    x = np.int64(u * np.float32(256 << width_bits)) - 128
    y = np.int64(v * np.float32(256 << height_bits)) - 128
    fx, fy = x & 255, y & 255
    mask = (1 << width_bits) - 1
    x0, x1 = (x >> 8) & mask, ((x >> 8) + 1) & mask
    mask = (1 << height_bits) - 1
    row0 = offset + (((y >> 8) & mask) << width_bits)
    row1 = offset + ((((y >> 8) + 1) & mask) << width_bits)
    w11 = (fx * fy) >> 4
    w10 = (fx << 4) - w11
    w01 = (fy << 4) - w11
    w00 = 4096 - (fx << 4) - w01
    a, b = np.int64(texels[row0 + x0]), np.int64(texels[row0 + x1])
    c, d = np.int64(texels[row1 + x0]), np.int64(texels[row1 + x1])
    a = (a & 0xFF) | (a & 0xFF00) << 12 | (a & 0xFF0000) << 24
    b = (b & 0xFF) | (b & 0xFF00) << 12 | (b & 0xFF0000) << 24
    c = (c & 0xFF) | (c & 0xFF00) << 12 | (c & 0xFF0000) << 24
    d = (d & 0xFF) | (d & 0xFF00) << 12 | (d & 0xFF0000) << 24
    return a * w00 + b * w10 + c * w01 + d * w11


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
    offsets,
    width_bits,
    height_bits,
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
        texels, offsets, width_bits, height_bits: see `textures.MipMaps`.
        rgb: uint8 (H, W, 3), receives the picture.
    """
    height, width = ids.shape
    constant = np.empty(ATTRIBUTES, np.float32)  # the attributes' parts that do not depend on the pixel
    start = np.empty(ATTRIBUTES, np.float32)  # g.ray at the run's first pixel
    step_x = np.empty(ATTRIBUTES, np.float32)  # its change from pixel to pixel
    step_y = np.empty(ATTRIBUTES, np.float32)
    one = np.float32(1.0)
    half = np.float32(0.5)
    to_unit = np.float32(65536.0 / 255.0)
    for y in range(height):
        ray_y = (height / 2 - y - 0.5) / focal[1]
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
            plain = one_colour[t]
            if plain and texture == 0:
                red = np.uint8(values[t, RED] + half)
                green = np.uint8(values[t, GREEN] + half)
                blue = np.uint8(values[t, BLUE] + half)
                for k in range(out.shape[0]):
                    out[k, 0] = red
                    out[k, 1] = green
                    out[k, 2] = blue
                continue
            # --- the run's affine parts
            ray_x = (begin + 0.5 - width / 2) / focal[0]
            offset = 0.0
            for k in range(3):
                offset += normals[t, k] * (triangles[t, k] - position[k])
            last = V + 1 if plain else ATTRIBUTES
            for a in range(U if texture > 0 else RED, last):
                along_x, along_y, along_z, shift = 0.0, 0.0, 0.0, 0.0
                for k in range(3):
                    g = gradients[t, a, k]
                    along_x += g * rotation[0, k]
                    along_y += g * rotation[1, k]
                    along_z -= g * rotation[2, k]
                    shift += g * (position[k] - triangles[t, k])
                constant[a] = values[t, a] + shift
                start[a] = along_x * ray_x + along_y * ray_y + along_z
                step_x[a] = along_x / focal[0]
                step_y[a] = -along_y / focal[1]
            red16 = np.int64(values[t, RED] * to_unit + half)
            green16 = np.int64(values[t, GREEN] * to_unit + half)
            blue16 = np.int64(values[t, BLUE] * to_unit + half)
            row = inverse_depth[y, begin:x]
            if texture == 0:
                for k in range(row.size):
                    d = one / row[k]
                    for c in range(3):
                        value = constant[RED + c] + d * (start[RED + c] + np.float32(k) * step_x[RED + c])
                        out[k, c] = np.uint8(min(max(value, np.float32(0.0)), np.float32(255.0)) + half)
                continue
            dw_x = dw_y = 0.0
            for k in range(3):
                dw_x += rotation[0, k] * normals[t, k]
                dw_y -= rotation[1, k] * normals[t, k]
            dw_x /= offset * focal[0]
            dw_y /= offset * focal[1]
            w_bits, h_bits = width_bits[texture], height_bits[texture]
            tex_w, tex_h = np.float32(1 << w_bits), np.float32(1 << h_bits)
            max_lod = np.float32(256 * max(w_bits, h_bits))
            lod_step = np.float32(0.0)
            lod_here = np.float32(0.0)
            for chunk in range(0, row.size, LOD_STEP):
                stop = min(chunk + LOD_STEP, row.size)
                # mip level x 256 at the chunk's two ends
                for end in range(0 if chunk == 0 else 1, 2):
                    k = stop - 1 if end else chunk
                    d = one / row[k]
                    s = d * (start[U] + np.float32(k) * step_x[U])
                    r = d * (start[V] + np.float32(k) * step_x[V])
                    du_x = tex_w * d * (step_x[U] - s * dw_x)
                    dv_x = tex_h * d * (step_x[V] - r * dw_x)
                    du_y = tex_w * d * (step_y[U] - s * dw_y)
                    dv_y = tex_h * d * (step_y[V] - r * dw_y)
                    rho = max(du_x * du_x + dv_x * dv_x, du_y * du_y + dv_y * dv_y)
                    lod = np.float32(128.0 * math.log2(rho + 1e-12))
                    if end:
                        lod_step = (lod - lod_here) / np.float32(max(stop - 1 - chunk, 1))
                        lod_end = lod
                    else:
                        lod_here = lod
                for k in range(chunk, stop):
                    d = one / row[k]
                    u = constant[U] + d * (start[U] + np.float32(k) * step_x[U])
                    v = constant[V] + d * (start[V] + np.float32(k) * step_x[V])
                    lod = np.int64(min(max(lod_here + np.float32(k - chunk) * lod_step, np.float32(0.0)), max_lod))
                    level = lod >> 8
                    part = (lod & 255) >> 2
                    lanes = _bilinear(
                        texels, offsets[texture, level], max(w_bits - level, 0), max(h_bits - level, 0), u, v
                    )
                    if part > 0:
                        other = _bilinear(
                            texels,
                            offsets[texture, level + 1],
                            max(w_bits - level - 1, 0),
                            max(h_bits - level - 1, 0),
                            u,
                            v,
                        )
                        lanes = (lanes >> 6 & _LANES_14) * (64 - part) + (other >> 6 & _LANES_14) * part
                    if not plain:
                        red16 = _level16(constant[RED] + d * (start[RED] + np.float32(k) * step_x[RED]))
                        green16 = _level16(constant[GREEN] + d * (start[GREEN] + np.float32(k) * step_x[GREEN]))
                        blue16 = _level16(constant[BLUE] + d * (start[BLUE] + np.float32(k) * step_x[BLUE]))
                    out[k, 0] = ((lanes & _LANE) * red16 + (1 << 27)) >> 28
                    out[k, 1] = ((lanes >> 20 & _LANE) * green16 + (1 << 27)) >> 28
                    out[k, 2] = ((lanes >> 40) * blue16 + (1 << 27)) >> 28
                lod_here = lod_end + lod_step


@njit(cache=True, nogil=True, error_model="numpy")
def _level16(value):
    """A colour 0..255 as 0..65536."""
    return np.int64(min(max(value, np.float32(0.0)), np.float32(255.0)) * np.float32(65536.0 / 255.0))


@njit(cache=True, nogil=True, error_model="numpy")
def average_blocks(fine, factor, coarse):
    """Box filter: fine uint8 (H * factor, W * factor, 3) to coarse uint8 (H, W, 3)."""
    height, width = coarse.shape[:2]
    sums = np.empty((width, 3), np.int32)
    count = np.int32(factor * factor)
    for y in range(height):
        sums[:] = count // 2
        for j in range(y * factor, (y + 1) * factor):
            for x in range(width):
                for i in range(x * factor, (x + 1) * factor):
                    for c in range(3):
                        sums[x, c] += fine[j, i, c]
        for x in range(width):
            for c in range(3):
                coarse[y, x, c] = sums[x, c] // count


@njit(cache=True, nogil=True, error_model="numpy")
def to_depth(inverse_depth, nothing, low, high, depth):
    """Depth in metres within [low, high] from float32 (H, W) of 1 / depth, which is `nothing` where nothing is."""
    for y in range(depth.shape[0]):
        row = inverse_depth[y]
        out = depth[y]
        for x in range(row.size):
            out[x] = min(max(np.float32(1.0) / row[x], low), high) if row[x] > nothing else high
