"""Visibility and colour of many views at once, as a Triton kernel: what `rasterizer` and `shading` do, on a GPU.

The clusters of each view come from front to back (`find_clusters` and a sort). A program draws a tile of one view: it
goes over them until they begin behind all that it has drawn, leaves out those whose boxes lie beside the tile, and
tests every triangle of the others against all of its pixels. With v0, v1, v2 a triangle's corners seen from the
camera, a view ray hits it where ray.(v0 x v1), ray.(v1 x v2) and ray.(v2 x v0) have one sign (Olano & Greer,
"Triangle scan conversion using 2D homogeneous coordinates", 1997), so nothing is clipped, and 1 / depth = normal.ray
/ normal.v0. Compiled without fused multiplication and addition, the two triangles of an edge get opposite numbers,
and no pixel between them is lost.
"""

from __future__ import annotations

import triton
import triton.language as tl

# Columns of the table of scenes: addresses of arrays, see `render_mesh.RenderMesh` and `textures.MipMaps`.
TRIANGLES = tl.constexpr(0)
NORMALS = tl.constexpr(1)  # float32
DOUBLE_SIDED = tl.constexpr(2)
VALUES = tl.constexpr(3)
GRADIENTS = tl.constexpr(4)
TEXTURE_INDEX = tl.constexpr(5)
CLASSES = tl.constexpr(6)  # int32, of each triangle
CLUSTER_START = tl.constexpr(7)
BOX_CENTRE = tl.constexpr(8)
BOX_HALF = tl.constexpr(9)
TEXELS = tl.constexpr(10)  # int32
LEVEL_START = tl.constexpr(11)
SIZE_BITS = tl.constexpr(12)
WRAPS = tl.constexpr(13)
HIGHEST_LEVEL = tl.constexpr(14)
CLUSTERS = tl.constexpr(15)  # how many there are
COLUMNS = tl.constexpr(16)
_NEAR = tl.constexpr(0.01)  # as `rasterizer.NEAR`
_FAR = tl.constexpr(1000.0)


@triton.jit
def find_clusters(table, scenes, poses, begins, right, up, MOST: tl.constexpr):
    """Finds where the clusters that view `program_id(0)` may show begin.

    Args:
        table: int64 (scenes, COLUMNS).
        scenes: int32 (views,), rows of the table.
        poses: float32 (views, 12): rows of the rotation from world to camera (right, up, backward), and the position.
        begins: float32 (views, MOST), receives their least depth, metres; infinity for those outside of the view, and
            after the last.
        right, up: how far the view reaches to each side at depth 1.
        MOST: a power of two, more than any scene has clusters.
    """
    view = tl.program_id(0)
    cluster = tl.arange(0, MOST)
    scene = table + tl.load(scenes + view).to(tl.int64) * COLUMNS
    pose = poses + view * 12
    i_x, i_y, i_z, j_x, j_y, j_z, k_x, k_y, k_z = _axes(pose)
    real = cluster < tl.load(scene + CLUSTERS).to(tl.int32)
    centre = tl.load(scene + BOX_CENTRE).to(tl.pointer_type(tl.float32)) + 3 * cluster
    half = tl.load(scene + BOX_HALF).to(tl.pointer_type(tl.float32)) + 3 * cluster
    x = tl.load(centre, real, 0.0) - tl.load(pose + 9)
    y = tl.load(centre + 1, real, 0.0) - tl.load(pose + 10)
    z = tl.load(centre + 2, real, 0.0) - tl.load(pose + 11)
    h_x, h_y, h_z = tl.load(half, real, 0.0), tl.load(half + 1, real, 0.0), tl.load(half + 2, real, 0.0)
    reach = _reach(k_x, k_y, k_z, x, y, z, h_x, h_y, h_z)
    # The planes through the camera and the view's sides; inwards is positive.
    r_x, r_y, r_z = right * k_x, right * k_y, right * k_z
    reach = tl.minimum(reach, _reach(r_x + i_x, r_y + i_y, r_z + i_z, x, y, z, h_x, h_y, h_z))
    reach = tl.minimum(reach, _reach(r_x - i_x, r_y - i_y, r_z - i_z, x, y, z, h_x, h_y, h_z))
    u_x, u_y, u_z = up * k_x, up * k_y, up * k_z
    reach = tl.minimum(reach, _reach(u_x + j_x, u_y + j_y, u_z + j_z, x, y, z, h_x, h_y, h_z))
    reach = tl.minimum(reach, _reach(u_x - j_x, u_y - j_y, u_z - j_z, x, y, z, h_x, h_y, h_z))
    begin = -_reach(-k_x, -k_y, -k_z, x, y, z, h_x, h_y, h_z)
    tl.store(begins + view * MOST + cluster, tl.where(real & (reach >= 0.0), begin, float("inf")))


@triton.jit
def draw_tile(
    table, scenes, poses, begins, order, rgb, depth, classes, width, height, focal_x, focal_y, min_depth, max_depth,
    MOST: tl.constexpr, TILE: tl.constexpr, LEVELS: tl.constexpr,
):  # fmt: skip
    """Draws the tile `program_id(1)` of view `program_id(0)`.

    Args:
        table, scenes, poses: as in `find_clusters`.
        begins: float32 (views, MOST), what that has found, sorted.
        order: int64 (views, MOST), which clusters these are.
        rgb: uint8 (views, height, width, 3), receives the pictures, black where nothing is.
        depth: float32 (views, height, width), receives metres.
        classes: int32 (views, height, width), receives the triangles' classes, 0 where nothing is.
        width, height, focal_x, focal_y: pixels.
        min_depth, max_depth: metres; what is nearer or farther is set to them.
        TILE: side of a tile, a power of two.
        LEVELS: mip levels there are, see `textures.MAX_LEVELS`.
    """
    view = tl.program_id(0)
    across = tl.cdiv(width, TILE)
    left, top = tl.program_id(1) % across * TILE, tl.program_id(1) // across * TILE
    lane = tl.arange(0, TILE * TILE)
    column, line = left + lane % TILE, top + lane // TILE
    ray_x, ray_y = (column + 0.5 - width * 0.5) / focal_x, (height * 0.5 - line - 0.5) / focal_y
    scene = table + tl.load(scenes + view).to(tl.int64) * COLUMNS
    pose = poses + view * 12
    nearest, shown = _find_visible(
        scene, pose, begins + view * MOST, order + view * MOST, ray_x, ray_y,
        (left - width * 0.5) / focal_x, (left + TILE - width * 0.5) / focal_x,
        (height * 0.5 - top - TILE) / focal_y, (height * 0.5 - top) / focal_y,
    )  # fmt: skip
    drawn = shown >= 0
    t = tl.where(drawn, shown, 0)
    place = (view.to(tl.int64) * height + line) * width + column
    wanted = (column < width) & (line < height)
    metres = tl.where(drawn, tl.minimum(tl.maximum(1.0 / nearest, min_depth), max_depth), max_depth)
    tl.store(depth + place, metres, wanted)
    class_of = tl.load(scene + CLASSES).to(tl.pointer_type(tl.int32))
    tl.store(classes + place, tl.where(drawn, tl.load(class_of + t, drawn, 0), 0), wanted)
    _shade(scene, pose, ray_x, ray_y, nearest, t, drawn, focal_x, focal_y, rgb + 3 * place, wanted, LEVELS)


@triton.jit
def _find_visible(scene, pose, begins, order, ray_x, ray_y, low_x, high_x, low_y, high_y):
    """1 / depth of what the rays (N,) of a tile meet first, and which triangle that is, -1 for none.

    Args:
        scene: row of the table.
        pose: see `find_clusters`.
        begins, order: the view's clusters from front to back, the last begins at infinity.
        ray_x, ray_y: the rays' ends at depth 1, to the right and up.
        low_x, high_x, low_y, high_y: the tile's sides there.
    """
    i_x, i_y, i_z, j_x, j_y, j_z, k_x, k_y, k_z = _axes(pose)
    eye_x, eye_y, eye_z = tl.load(pose + 9), tl.load(pose + 10), tl.load(pose + 11)
    triangles = tl.load(scene + TRIANGLES).to(tl.pointer_type(tl.float32))
    normals = tl.load(scene + NORMALS).to(tl.pointer_type(tl.float32))
    double_sided = tl.load(scene + DOUBLE_SIDED).to(tl.pointer_type(tl.int8))
    cluster_start = tl.load(scene + CLUSTER_START).to(tl.pointer_type(tl.int32))
    box_centre = tl.load(scene + BOX_CENTRE).to(tl.pointer_type(tl.float32))
    box_half = tl.load(scene + BOX_HALF).to(tl.pointer_type(tl.float32))

    # The planes through the camera and the tile's sides, in the world; inwards is positive.
    l_x, l_y, l_z = i_x - low_x * k_x, i_y - low_x * k_y, i_z - low_x * k_z
    r_x, r_y, r_z = high_x * k_x - i_x, high_x * k_y - i_y, high_x * k_z - i_z
    b_x, b_y, b_z = j_x - low_y * k_x, j_y - low_y * k_y, j_z - low_y * k_z
    t_x, t_y, t_z = high_y * k_x - j_x, high_y * k_y - j_y, high_y * k_z - j_z

    nearest = tl.full(ray_x.shape, 1.0 / _FAR, tl.float32)
    shown = tl.full(ray_x.shape, -1, tl.int32)
    farthest = _FAR * 1.0  # what the tile shows is no farther
    begin = tl.load(begins)
    while begin < farthest:
        cluster = tl.load(order).to(tl.int32)
        x = tl.load(box_centre + 3 * cluster) - eye_x
        y = tl.load(box_centre + 3 * cluster + 1) - eye_y
        z = tl.load(box_centre + 3 * cluster + 2) - eye_z
        half_x, half_y = tl.load(box_half + 3 * cluster), tl.load(box_half + 3 * cluster + 1)
        half_z = tl.load(box_half + 3 * cluster + 2)
        reach = _reach(l_x, l_y, l_z, x, y, z, half_x, half_y, half_z)
        reach = tl.minimum(reach, _reach(r_x, r_y, r_z, x, y, z, half_x, half_y, half_z))
        reach = tl.minimum(reach, _reach(b_x, b_y, b_z, x, y, z, half_x, half_y, half_z))
        reach = tl.minimum(reach, _reach(t_x, t_y, t_z, x, y, z, half_x, half_y, half_z))
        if reach >= 0.0:
            for t in range(tl.load(cluster_start + cluster), tl.load(cluster_start + cluster + 1)):
                n_x, n_y, n_z = tl.load(normals + 3 * t), tl.load(normals + 3 * t + 1), tl.load(normals + 3 * t + 2)
                x0, y0, z0 = _corner(triangles + 9 * t, eye_x, eye_y, eye_z)
                offset = n_x * x0 + n_y * y0 + n_z * z0
                if (offset < 0.0) | ((offset > 0.0) & (tl.load(double_sided + t) != 0)):
                    x1, y1, z1 = _corner(triangles + 9 * t + 3, eye_x, eye_y, eye_z)
                    x2, y2, z2 = _corner(triangles + 9 * t + 6, eye_x, eye_y, eye_z)
                    # in the camera's axes: right, up, ahead
                    u0, v0, w0 = _seen(x0, y0, z0, i_x, i_y, i_z, j_x, j_y, j_z, k_x, k_y, k_z)
                    u1, v1, w1 = _seen(x1, y1, z1, i_x, i_y, i_z, j_x, j_y, j_z, k_x, k_y, k_z)
                    u2, v2, w2 = _seen(x2, y2, z2, i_x, i_y, i_z, j_x, j_y, j_z, k_x, k_y, k_z)
                    a, b, c = _seen(n_x, n_y, n_z, i_x, i_y, i_z, j_x, j_y, j_z, k_x, k_y, k_z)
                    side0 = ray_x * (v1 * w2 - w1 * v2) + ray_y * (w1 * u2 - u1 * w2) + (u1 * v2 - v1 * u2)
                    side1 = ray_x * (v2 * w0 - w2 * v0) + ray_y * (w2 * u0 - u2 * w0) + (u2 * v0 - v2 * u0)
                    side2 = ray_x * (v0 * w1 - w0 * v1) + ray_y * (w0 * u1 - u0 * w1) + (u0 * v1 - v0 * u1)
                    inside = (tl.minimum(tl.minimum(side0, side1), side2) >= 0.0) | (
                        tl.maximum(tl.maximum(side0, side1), side2) <= 0.0
                    )
                    inverse = (ray_x * a + ray_y * b + c) / offset
                    better = inside & (inverse > nearest) & (inverse <= 1.0 / _NEAR)
                    nearest = tl.where(better, inverse, nearest)
                    shown = tl.where(better, t, shown)
            farthest = 1.0 / tl.min(nearest)
        begins += 1
        order += 1
        begin = tl.load(begins)
    return nearest, shown


@triton.jit
def _shade(scene, pose, ray_x, ray_y, nearest, t, drawn, focal_x, focal_y, out, wanted, LEVELS: tl.constexpr):
    """Writes the colours of triangles t (N,), seen along the rays at 1 / depth `nearest`, to `out` where `wanted`."""
    i_x, i_y, i_z, j_x, j_y, j_z, k_x, k_y, k_z = _axes(pose)
    eye_x, eye_y, eye_z = tl.load(pose + 9), tl.load(pose + 10), tl.load(pose + 11)
    triangles = tl.load(scene + TRIANGLES).to(tl.pointer_type(tl.float32))
    normals = tl.load(scene + NORMALS).to(tl.pointer_type(tl.float32))
    values = tl.load(scene + VALUES).to(tl.pointer_type(tl.float32)) + 5 * t
    gradients = tl.load(scene + GRADIENTS).to(tl.pointer_type(tl.float32)) + 15 * t
    x0, y0, z0 = tl.load(triangles + 9 * t), tl.load(triangles + 9 * t + 1), tl.load(triangles + 9 * t + 2)
    x0, y0, z0 = eye_x - x0, eye_y - y0, eye_z - z0
    d = 1.0 / nearest
    way_x = d * (ray_x * i_x + ray_y * j_x + k_x)
    way_y = d * (ray_x * i_y + ray_y * j_y + k_y)
    way_z = d * (ray_x * i_z + ray_y * j_z + k_z)
    x, y, z = x0 + way_x, y0 + way_y, z0 + way_z  # from the first corner to what is seen
    texture = tl.load(tl.load(scene + TEXTURE_INDEX).to(tl.pointer_type(tl.int32)) + t)
    size_bits = tl.load(scene + SIZE_BITS).to(tl.pointer_type(tl.int64)) + 2 * texture
    u_bits, v_bits = tl.load(size_bits).to(tl.int32), tl.load(size_bits + 1).to(tl.int32)
    u, u_right, u_up = _texture_axis(values, gradients, x, y, z, i_x, i_y, i_z, j_x, j_y, j_z)
    v, v_right, v_up = _texture_axis(values + 1, gradients + 3, x, y, z, i_x, i_y, i_z, j_x, j_y, j_z)
    u_size, v_size = (1 << u_bits).to(tl.float32), (1 << v_bits).to(tl.float32)

    # Steps of the texture's place from pixel to pixel: those of the ray's foot, less what the depth changes by.
    n_x, n_y, n_z = tl.load(normals + 3 * t), tl.load(normals + 3 * t + 1), tl.load(normals + 3 * t + 2)
    offset = -(n_x * x0 + n_y * y0 + n_z * z0)
    w_right = (n_x * i_x + n_y * i_y + n_z * i_z) / offset
    w_up = (n_x * j_x + n_y * j_y + n_z * j_z) / offset
    u_way = tl.load(gradients) * way_x + tl.load(gradients + 1) * way_y + tl.load(gradients + 2) * way_z
    v_way = tl.load(gradients + 3) * way_x + tl.load(gradients + 4) * way_y + tl.load(gradients + 5) * way_z
    du_x, dv_x = (u_right - u_way * w_right) / focal_x * u_size, (v_right - v_way * w_right) / focal_x * v_size
    du_y, dv_y = (u_up - u_way * w_up) / focal_y * u_size, (v_up - v_way * w_up) / focal_y * v_size
    squared = d * d * tl.maximum(du_x * du_x + dv_x * dv_x, du_y * du_y + dv_y * dv_y)
    highest = tl.load(tl.load(scene + HIGHEST_LEVEL).to(tl.pointer_type(tl.int64)) + texture).to(tl.float32)
    lod = tl.minimum(128.0 * tl.log2(tl.maximum(squared, 1.0)), 256.0 * highest).to(tl.int32)  # 1/256 levels
    level = lod >> 8
    wraps = tl.load(scene + WRAPS).to(tl.pointer_type(tl.int64)) + 2 * texture
    u_wrap, v_wrap = tl.load(wraps).to(tl.int32), tl.load(wraps + 1).to(tl.int32)
    u_place = tl.minimum(tl.maximum(u * u_size * 256.0, 0.0), 2.0e9).to(tl.int32) >> level
    v_place = tl.minimum(tl.maximum(v * v_size * 256.0, 0.0), 2.0e9).to(tl.int32) >> level
    texels = tl.load(scene + TEXELS).to(tl.pointer_type(tl.int32))
    starts = tl.load(scene + LEVEL_START).to(tl.pointer_type(tl.int64)) + LEVELS * texture
    u_bits, v_bits = tl.maximum(u_bits - level, 0), tl.maximum(v_bits - level, 0)
    red, green, blue = _bilinear(texels + tl.load(starts + level), u_bits, v_bits, u_place, v_place, u_wrap, v_wrap)
    part = (lod & 255) >> 2
    starts += tl.minimum(level + 1, LEVELS - 1)
    u_bits, v_bits = tl.maximum(u_bits - 1, 0), tl.maximum(v_bits - 1, 0)
    red2, green2, blue2 = _bilinear(
        texels + tl.load(starts), u_bits, v_bits, u_place >> 1, v_place >> 1, u_wrap, v_wrap
    )
    textured = texture > 0
    full = _colour(values + 2, gradients + 6, x, y, z)
    tl.store(out, _shaded(red, red2, part, full, textured, drawn), wanted)
    full = _colour(values + 3, gradients + 9, x, y, z)
    tl.store(out + 1, _shaded(green, green2, part, full, textured, drawn), wanted)
    full = _colour(values + 4, gradients + 12, x, y, z)
    tl.store(out + 2, _shaded(blue, blue2, part, full, textured, drawn), wanted)


@triton.jit
def _axes(pose):
    """The camera's right (i), up (j) and forward (k) axes in the world."""
    i_x, i_y, i_z = tl.load(pose), tl.load(pose + 1), tl.load(pose + 2)
    j_x, j_y, j_z = tl.load(pose + 3), tl.load(pose + 4), tl.load(pose + 5)
    return i_x, i_y, i_z, j_x, j_y, j_z, -tl.load(pose + 6), -tl.load(pose + 7), -tl.load(pose + 8)


@triton.jit
def _reach(n_x, n_y, n_z, x, y, z, half_x, half_y, half_z):
    """How far a box around (x, y, z) reaches to the inner side of a plane through the camera."""
    return n_x * x + n_y * y + n_z * z + tl.abs(n_x) * half_x + tl.abs(n_y) * half_y + tl.abs(n_z) * half_z


@triton.jit
def _corner(place, eye_x, eye_y, eye_z):
    """A corner, from the camera, in the world's axes."""
    return tl.load(place) - eye_x, tl.load(place + 1) - eye_y, tl.load(place + 2) - eye_z


@triton.jit
def _seen(x, y, z, i_x, i_y, i_z, j_x, j_y, j_z, k_x, k_y, k_z):
    """A vector in the camera's axes."""
    return (
        i_x * x + i_y * y + i_z * z,
        j_x * x + j_y * y + j_z * z,
        k_x * x + k_y * y + k_z * z,
    )


@triton.jit
def _texture_axis(value, gradient, x, y, z, i_x, i_y, i_z, j_x, j_y, j_z):
    """A texture coordinate, and how it changes to the camera's right and up, per metre."""
    g_x, g_y, g_z = tl.load(gradient), tl.load(gradient + 1), tl.load(gradient + 2)
    along_right = g_x * i_x + g_y * i_y + g_z * i_z
    return tl.load(value) + g_x * x + g_y * y + g_z * z, along_right, g_x * j_x + g_y * j_y + g_z * j_z


@triton.jit
def _colour(value, gradient, x, y, z):
    """A channel of the vertex colours, 0 to 65536."""
    level = tl.load(value) + tl.load(gradient) * x + tl.load(gradient + 1) * y + tl.load(gradient + 2) * z
    return (tl.minimum(tl.maximum(level, 0.0), 255.0) * (65536.0 / 255.0) + 0.5).to(tl.int64)


@triton.jit
def _shaded(sample, coarser, part, colour, textured, drawn):
    """A channel of the picture from samples (8.12 bits) of two mip levels, of which `part` / 64 is the coarser's."""
    mixed = (sample >> 6) * (64 - part) + (coarser >> 6) * part
    texture = (mixed.to(tl.int64) * colour + (1 << 27)) >> 28
    plain = (colour * 255 + (1 << 15)) >> 16
    return tl.where(drawn, tl.where(textured, texture, plain), 0).to(tl.uint8)


@triton.jit
def _bilinear(texels, u_bits, v_bits, u, v, u_wrap, v_wrap):
    """Channels, of 8.12 bits, of a mip level that begins at `texels`, at (u, v) in 1/256 texels."""
    u, v = u - 128, v - 128
    left, right = _wrapped(u >> 8, u_bits, u_wrap), _wrapped((u >> 8) + 1, u_bits, u_wrap)
    top, bottom = _wrapped(v >> 8, v_bits, v_wrap) << u_bits, _wrapped((v >> 8) + 1, v_bits, v_wrap) << u_bits
    part_u, part_v = u & 255, v & 255
    bottom_right = part_u * part_v >> 4  # weights, together 4096
    top_right = (part_u << 4) - bottom_right
    bottom_left = (part_v << 4) - bottom_right
    top_left = 4096 - (part_u << 4) - bottom_left
    a, b = tl.load(texels + top + left), tl.load(texels + top + right)
    c, d = tl.load(texels + bottom + left), tl.load(texels + bottom + right)
    red = (a & 255) * top_left + (b & 255) * top_right + (c & 255) * bottom_left + (d & 255) * bottom_right
    blue = (
        (a >> 8 & 255) * top_left
        + (b >> 8 & 255) * top_right
        + (c >> 8 & 255) * bottom_left
        + (d >> 8 & 255) * bottom_right
    )
    green = (
        (a >> 20 & 255) * top_left
        + (b >> 20 & 255) * top_right
        + (c >> 20 & 255) * bottom_left
        + (d >> 20 & 255) * bottom_right
    )
    return red, green, blue


@triton.jit
def _wrapped(index, bits, wrap):
    """The column or row of a picture of 2**bits that `index` shows, see `textures.Wrap`."""
    size = 1 << bits
    clamped = tl.minimum(tl.maximum(index, 0), size - 1)
    twice = index & (2 * size - 1)
    mirrored = tl.minimum(twice, 2 * size - 1 - twice)
    return tl.where(wrap == 0, index & (size - 1), tl.where(wrap == 1, clamped, mirrored))
