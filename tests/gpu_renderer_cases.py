"""Views of small scenes for `GpuRenderer`; apart, so that a process of its own can draw them in the interpreter."""

import numpy as np
import pytest
import torch

from streamvln_gym.simulators.base import CameraConfig
from streamvln_gym.simulators.embedded.gpu_renderer import GpuRenderer
from streamvln_gym.simulators.embedded.renderer import Renderer
from streamvln_gym.simulators.embedded.scene import Scene
from streamvln_gym.simulators.embedded.textures import Sampling, Wrap

WRAPS = ((Wrap.REPEAT, Wrap.REPEAT), (Wrap.CLAMP, Wrap.MIRROR), (Wrap.MIRROR, Wrap.CLAMP))


def room(seed: int, size: float, triangles: int) -> Scene:
    """A room of six coloured walls around the origin, and triangles at random in it; walls and some others textured."""
    rng = np.random.default_rng(seed)
    corners = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], np.float32) * size
    faces = [
        (0, 1, 3),
        (0, 3, 2),
        (4, 7, 5),
        (4, 6, 7),
        (0, 4, 5),
        (0, 5, 1),
        (2, 3, 7),
        (2, 7, 6),
        (0, 2, 6),
        (0, 6, 4),
    ]
    faces += [(1, 5, 7), (1, 7, 3)]
    walls = corners[np.array(faces)]
    centres = rng.uniform(-0.7, 0.7, (triangles, 1, 3)) * size
    points = np.concatenate([walls, centres + rng.uniform(-0.4, 0.4, (triangles, 3, 3)) * size]).astype(np.float32)
    count = len(points)
    colours = rng.uniform(0, 255, (count, 3, 3)).astype(np.float32)
    colours[::3] = colours[::3, :1]  # of one colour
    textures = [np.full((1, 1, 3), 255, np.uint8)]
    # Smooth ones, since mip levels differ a little.
    waves = np.sin(np.arange(32)[:, None, None] / 5.1) + np.cos(np.arange(64)[None, :, None] / (10.2, 5.1, 20.4))
    textures += [(128 + 60 * np.roll(waves, 9 * k, axis=1)).astype(np.uint8) for k in range(len(WRAPS))]
    return Scene(
        triangles=points,
        uvs=rng.uniform(-1.0, 2.0, (count, 3, 2)).astype(np.float32),
        colours=colours,
        texture_index=rng.integers(0, len(textures), count).astype(np.int32),
        textures=tuple(textures),
        samplings=(Sampling(), *(Sampling(*wrap) for wrap in WRAPS)),
        double_sided=np.arange(count) % 4 > 0,  # some walls are seen from one side only
        instances=np.arange(count, dtype=np.int32) % 7,
    )


def check_rooms(device: str, width: int, height: int, factor: int, views: int, triangles: int) -> None:
    """Draws rooms on both renderers, some from outside. `Renderer` interpolates colours and mip levels along a row."""
    camera = CameraConfig(width=width, height=height, mount_height=0.3, supersampling=factor)
    classes = np.array([3, 1, 4, 1, 5, 9, 2, 0], np.int32)
    ours = GpuRenderer(camera, torch.device(device))
    scenes = {seed: Renderer(room(seed, 2.0 + seed, triangles)) for seed in range(2)}
    for key, renderer in scenes.items():
        ours.add(key, renderer.mesh, classes)
    rng = np.random.default_rng(5)
    keys = [int(key) for key in rng.integers(0, 2, views)]
    positions, yaws = rng.uniform(-2.4, 2.4, (views, 3)), rng.uniform(0.0, 7.0, views)
    drawn = ours.render(keys, positions, yaws)
    wrong = [0.0, 0.0, 0.0]
    for k, (key, position, yaw) in enumerate(zip(keys, positions, yaws, strict=True)):
        expected = scenes[key].render(position, yaw, camera, ("rgb", "depth", "instance"))
        colour_error = np.abs(drawn.rgb[k].cpu().numpy().astype(int) - expected["rgb"]).max(axis=2)
        depth_error = np.abs(drawn.depth[k].cpu().numpy() - expected["depth"][..., 0])
        class_error = drawn.classes[k].cpu().numpy() != classes[expected["instance"][..., 0]]
        for number, error in enumerate((colour_error > 8, depth_error > 1e-3, class_error)):
            wrong[number] += float(error.mean()) / views
    # Pixels' centres on an edge may fall to either side, and depths of what is looked along differ more.
    assert max(wrong) < 0.01, wrong
    ours.keep([keys[0]])
    assert keys[0] in ours
    assert 1 - keys[0] not in ours
    again = ours.render([keys[0]], positions[:1], yaws[:1])
    assert torch.equal(again.rgb[0], drawn.rgb[0])
    with pytest.raises(KeyError):
        ours.render([1 - keys[0]], positions[:1], yaws[:1])
