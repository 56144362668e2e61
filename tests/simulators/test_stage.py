"""Where habitat puts a stage: stage configurations and bare files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from streamvln_gym.errors import SceneError
from streamvln_gym.simulators.embedded.scene import load_scene
from streamvln_gym.simulators.embedded.stage import Stage, frame_matrix
from tests.simulators.glb_writer import write_glb

POINTS = np.array([[1.0, 2.0, 3.0], [2.0, 2.0, 3.0], [1.0, 2.0, 4.0]])
Z_UP = {"up": [0, 0, 1], "front": [0, 1, 0]}


def placed(folder: Path, config: dict | None, name: str = "a") -> np.ndarray:
    """The corners of POINTS after the stage's rules."""
    path = write_glb(folder / f"{name}.glb", [{"position": POINTS}])
    if config is not None:
        (folder / f"{name}.stage_config.json").write_text(json.dumps(config))
    return load_scene(path).triangles[0]


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (None, [1, 3, -2]),  # a bare file is a scan
        (Z_UP, [1, 3, -2]),
        ({}, [1, 2, 3]),  # a configuration without a frame means Y up
        ({"up": [0, 1, 0]}, [1, 2, 3]),
        ({"up": [0, 0, 1]}, [1, 3, -2]),  # with the front -Z this is no frame...
        ({"up": [0, 1, 0], "front": [1, 0, 0]}, [3, 2, -1]),
        ({"up": [1, 0, 0], "front": [0, 0, 2]}, [2, 1, -3]),
        ({**Z_UP, "scale": [2, 10, 1]}, [2, 30, -2]),  # along the world's axes
        ({**Z_UP, "origin": [5, 5, 5], "units_to_meters": 0.01}, [1, 3, -2]),  # habitat does not use them either
    ],
)
def test_frames(tmp_path: Path, config: dict | None, expected: list[float]) -> None:
    if config == {"up": [0, 0, 1]}:
        expected = [1, 2, 3]  # ...so that habitat takes its default, Y up
    np.testing.assert_allclose(placed(tmp_path, config)[0], expected, atol=1e-6)


def test_frame_matrices_are_rotations() -> None:
    for up, front in (((0, 0, 1), (0, 1, 0)), ((0.6, 0.8, 0), (0, 0, 1)), ((0, -1, 0), (1, 0, 0))):
        matrix = frame_matrix(up, front)
        np.testing.assert_allclose(matrix @ matrix.T, np.eye(3), atol=1e-12)
        assert np.linalg.det(matrix) == pytest.approx(1.0)
        np.testing.assert_allclose(matrix @ np.array(up, float), [0, 1, 0], atol=1e-12)
        np.testing.assert_allclose(matrix @ np.array(front, float), [0, 0, -1], atol=1e-12)


def test_a_mirroring_scale_keeps_the_front_in_front(tmp_path: Path) -> None:
    plain = placed(tmp_path, {}, "a")
    mirrored = placed(tmp_path, {"scale": [-1, 1, 1]}, "b")
    normals = [np.cross(corners[1] - corners[0], corners[2] - corners[0]) for corners in (plain, mirrored)]
    np.testing.assert_allclose(normals[1], normals[0] * [-1, 1, 1], atol=1e-6)


def test_the_render_asset_can_be_another_file(tmp_path: Path) -> None:
    write_glb(tmp_path / "mesh.glb", [{"position": POINTS + 10}])
    np.testing.assert_allclose(placed(tmp_path, {"render_asset": "mesh.glb"})[0], [11, 12, 13])
    assert Stage.of(tmp_path / "a.glb").path == tmp_path / "mesh.glb"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "cannot read the stage configuration"),
        ("[1]", "not a JSON object"),
        ('{"up": [0, 1]}', r"up = \[0, 1\]; it must be three numbers"),
        ('{"up": "y"}', "up = 'y'"),
        ('{"front": [0, 0, 0]}', "front = "),
        ('{"scale": [1, 0, 1]}', "scale = "),
        ('{"render_asset": "a.ply"}', r"a\.ply.*Convert it to GLB"),
        ('{"render_asset": "nowhere.glb"}', r"cannot open the scene .*nowhere\.glb"),
    ],
)
def test_bad_configurations_are_refused(tmp_path: Path, text: str, words: str) -> None:
    path = write_glb(tmp_path / "a.glb", [{"position": POINTS}])
    (tmp_path / "a.stage_config.json").write_text(text)
    with pytest.raises(SceneError, match=words):
        load_scene(path)


def test_basis_scans_name_the_plain_download_and_use_it_where_it_is(tmp_path: Path) -> None:
    basis = tmp_path / "TEEsavR23oF.basis.glb"
    basis.write_bytes(b"glTF")
    with pytest.raises(SceneError, match=r"Basis.*TEEsavR23oF\.glb is not beside it.*hm3d-<split>-glb"):
        load_scene(basis)
    write_glb(tmp_path / "TEEsavR23oF.glb", [{"position": POINTS}])
    np.testing.assert_allclose(load_scene(basis).triangles[0, 0], [1, 3, -2])
