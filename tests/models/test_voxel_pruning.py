"""Voxel pruning against a brute-force reference, and its geometry."""

import math

import numpy as np
import pytest

from streamvln_gym.env import VLNEnv
from streamvln_gym.models import StreamVLNConfig
from streamvln_gym.models.voxel_pruning import VoxelPruning, keep_mask, patch_points, token_centres, voxel_ids
from streamvln_gym.simulators.base import CameraConfig


def brute_force(voxels, steps, window_steps, threshold):
    """Algorithm 1 token by token."""
    frames, tokens = voxels.shape
    latest = {}
    for t in sorted(range(frames), key=lambda frame: (steps[frame], frame)):
        for token in range(tokens):
            if voxels[t, token] >= 0:
                latest[steps[t] // window_steps, voxels[t, token]] = (t, token)
    keep = np.zeros((frames, tokens), dtype=bool)
    for t, token in latest.values():
        keep[t, token] = True
    keep[voxels < 0] = True
    for t in range(frames):
        if keep[t].sum() < threshold * tokens:
            keep[t] = False
    return keep


def random_case(rng):
    frames, side = int(rng.integers(1, 10)), int(rng.integers(1, 9))
    kinds = int(rng.choice([1, 3, 20, 400]))
    voxels = rng.integers(-1, kinds, (frames, side * side))
    voxels[rng.random(voxels.shape) < rng.choice([0.0, 0.1, 0.9])] = -1
    steps = rng.integers(0, 300, frames)
    if rng.random() < 0.7:
        steps = np.sort(steps)
    return voxels, steps, int(rng.choice([1, 4, 32, 500])), float(rng.choice([0.0, 0.05, 0.25, 0.5, 1.0]))


def test_exact_against_brute_force_on_1000_random_cases():
    rng = np.random.default_rng(0)
    dropped_frames = pruned_tokens = 0
    for _ in range(1000):
        case = random_case(rng)
        kept = keep_mask(*case)
        np.testing.assert_array_equal(kept, brute_force(*case))
        dropped_frames += int((~kept.any(axis=1)).sum())
        pruned_tokens += int((~kept).sum())
    assert dropped_frames > 300 and pruned_tokens > 10_000


def test_from_points_exact_against_brute_force():
    """The same with voxels of back-projected points, numbered by a dictionary."""
    rng = np.random.default_rng(1)
    for _ in range(200):
        frames, tokens = int(rng.integers(1, 9)), int(rng.integers(1, 40))
        points = rng.normal(0, 1, (frames, tokens, 3)).astype(np.float32)
        points[rng.random((frames, tokens)) < 0.2] = np.nan
        size = float(rng.choice([0.1, 0.25, 0.5, 2.0]))
        numbers = {}
        voxels = np.full((frames, tokens), -1)
        for t, token in np.ndindex(frames, tokens):
            if not np.isnan(points[t, token]).any():
                cell = tuple(math.floor(float(c) / size) for c in points[t, token])
                voxels[t, token] = numbers.setdefault(cell, len(numbers))
        steps = np.sort(rng.integers(0, 100, frames))
        kept = VoxelPruning(size, 32, 0.05).keep(points, steps)
        np.testing.assert_array_equal(kept, brute_force(voxels, steps, 32, 0.05))


def test_the_latest_token_of_a_period_stays():
    voxels = np.array([[0, 1, -1, 2], [0, 3, 1, 4]])
    assert keep_mask(voxels, [4, 8], 32, 0.0).tolist() == [[False, False, True, True], [True] * 4]
    assert keep_mask(voxels, [8, 4], 32, 0.0).tolist() == [[True] * 4, [False, True, False, True]]
    assert keep_mask(voxels, [4, 32], 32, 0.0).all(), "another period"
    assert keep_mask(voxels, [4, 8], 4, 0.0).all()
    assert keep_mask(np.array([[5, 5, 5]]), [0], 32, 0.0).tolist() == [[False, False, True]]


def test_frames_that_keep_less_than_theta_are_dropped():
    voxels = np.array([[0, 1, 2, 9], [0, 1, 2, 3]])
    assert keep_mask(voxels, [0, 4], 32, 0.25).tolist() == [[False] * 3 + [True], [True] * 4]
    assert keep_mask(voxels, [0, 4], 32, 0.26).tolist() == [[False] * 4, [True] * 4]


def test_invalid_depth_is_always_kept():
    depth = np.array([[0.0, np.nan], [10.0, -1.0]], dtype=np.float32)
    centres = np.array([0.25, 0.75])
    points = patch_points(depth, np.eye(3), np.eye(4), centres)
    assert np.isnan(points).all()
    np.testing.assert_array_equal(voxel_ids(points, 0.25), -1)
    assert VoxelPruning().keep(np.stack([points, points]), [0, 4]).all()
    assert not np.isnan(patch_points(depth + 20, np.eye(3), np.eye(4), centres, max_depth=31.0)[[0, 2, 3]]).any()


def test_back_projection_inverts_the_projection():
    camera = CameraConfig(width=64, height=48)
    rng = np.random.default_rng(0)
    depth = rng.uniform(0.5, 9.0, (48, 64, 1)).astype(np.float32)
    angle = 0.7
    pose = np.eye(4)
    pose[:3, :3] = [[math.cos(angle), 0, math.sin(angle)], [0, -1, 0], [math.sin(angle), 0, -math.cos(angle)]]
    pose[:3, 3] = [1.0, 1.25, -2.0]
    points = patch_points(depth, camera.intrinsics, pose, (np.arange(4) + 0.5) / 4)
    in_camera = (points - pose[:3, 3]) @ pose[:3, :3]
    pixels = in_camera @ camera.intrinsics.T
    u, v = pixels[:, 0] / pixels[:, 2], pixels[:, 1] / pixels[:, 2]
    np.testing.assert_allclose(u.reshape(4, 4), np.tile([8, 24, 40, 56], (4, 1)), atol=1e-3)
    np.testing.assert_allclose(v.reshape(4, 4), np.tile([[6], [18], [30], [42]], 4), atol=1e-3)
    np.testing.assert_allclose(in_camera[:, 2].reshape(4, 4), depth[6::12, 8::16, 0], rtol=1e-5)


def test_frames_of_the_environment_agree_on_where_things_are(tiny_flats):
    """After a turn and back, and after a step, what both frames see lies at the same place of the episode frame."""
    env: VLNEnv = tiny_flats.make(camera=CameraConfig(width=128, height=96))
    obs, info = env.reset()
    centres = (np.arange(14) + 0.5) / 14
    clouds = []
    for action in (2, 3, 3, 1):
        clouds.append(patch_points(obs["depth"], info["intrinsics"], obs["camera_pose"], centres))
        obs = env.step(action)[0]
    np.testing.assert_allclose(clouds[0], clouds[2], atol=1e-4)
    floors = [cloud[:, 1].min() for cloud in clouds]
    np.testing.assert_allclose(floors, floors[0], atol=0.02)
    lowest = min(floors)
    assert -0.3 < lowest < 0.05, "the floor lies at or just below the agent's base"
    voxels = voxel_ids(np.stack(clouds), 0.25)
    shared = np.isin(voxels[1], voxels[0]).mean()
    assert shared > 0.3, "two views 15 degrees apart share what they see"


def test_centres_of_tokens_are_those_of_the_patches_they_pool():
    config = StreamVLNConfig()  # SigLIP-base sizes of transformers; the grid is set below
    config.vision_config.image_size, config.vision_config.patch_size = 384, 14
    pixels = token_centres(config) * 384
    np.testing.assert_allclose(pixels, 13.5 + 27 * np.arange(14))
    config.pooling_mode = "average"
    pixels = token_centres(config) * 384
    np.testing.assert_allclose(pixels[:13], 14 + 28 * np.arange(13))
    assert pixels[13] == pytest.approx(26.5 * 14)
    config.pooling_ceil_mode = False
    assert len(token_centres(config)) == 13
    np.testing.assert_allclose(token_centres(StreamVLNConfig.tiny()), [0.125, 0.375, 0.625, 0.875])


def test_misuse_is_refused():
    with pytest.raises(ValueError, match="depth must have shape"):
        patch_points(np.zeros((4, 4, 3)), np.eye(3), np.eye(4), np.array([0.5]))
    with pytest.raises(ValueError, match="intrinsics must be"):
        patch_points(np.ones((4, 4)), np.eye(4), np.eye(4), np.array([0.5]))
    for wrong in (np.zeros((4, 4)), 2.0 * np.eye(4)):
        with pytest.raises(ValueError, match="camera_pose must be a rotation and a translation"):
            patch_points(np.ones((4, 4)), np.eye(3), wrong, np.array([0.5]))
    with pytest.raises(ValueError, match=r"intrinsics are of another picture.*centre \(1\.5, 1\.5\) lies outside"):
        patch_points(np.ones((1, 1)), [[2, 0, 1.5], [0, 2, 1.5], [0, 0, 1]], np.eye(4), np.array([0.5]))
    millimetres = np.full((4, 4), 1200.0)
    millimetres[0] = [0.0, -1.0, np.nan, np.inf]  # no reading
    with pytest.raises(ValueError, match="the nearest of these depths is 1200 m: is it in millimetres"):
        patch_points(millimetres, np.eye(3), np.eye(4), np.array([0.5]))
    for nothing in (np.inf, 0.0, np.nan):
        assert np.isnan(patch_points(np.full((4, 4), nothing), np.eye(3), np.eye(4), np.array([0.5]))).all()
    with pytest.raises(ValueError, match=r"camera_pose must be a finite .*, got NaN or infinity in it"):
        patch_points(np.ones((4, 4)), np.eye(3), np.full((4, 4), np.nan), np.array([0.5]))
    with pytest.raises(ValueError, match="one step per frame"):
        keep_mask(np.zeros((2, 3), dtype=np.int64), [0], 32, 0.05)
    for wrong in ({"voxel_size": 0.0}, {"window_steps": 0}, {"threshold": 1.5}, {"max_depth": float("nan")}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            VoxelPruning(**wrong)
