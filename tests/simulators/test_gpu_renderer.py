"""Drawing on a GPU; without one, in Triton's interpreter, and compiled for one."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from streamvln_gym.simulators.base import CameraConfig
from streamvln_gym.simulators.embedded.gpu_renderer import GpuRenderer
from streamvln_gym.simulators.embedded.renderer import Renderer
from tests.gpu_renderer_cases import check_rooms
from tests.simulators.test_renderer import wall

ROOT = Path(__file__).parents[2]
cuda = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


@pytest.mark.parametrize(("size", "factor", "views"), [((20, 18), 1, 3), ((8, 8), 2, 2)])
def test_pictures_in_the_interpreter(size, factor, views):
    """In a process of its own: Triton reads the variable when it is imported."""
    pytest.importorskip("triton")
    code = (
        "from tests.triton_interpreter import mend\nmend()\n"
        f"from tests.gpu_renderer_cases import check_rooms\ncheck_rooms('cpu', *{size}, {factor}, {views}, 24)"
    )
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_the_kernel_compiles_for_a_gpu():
    pytest.importorskip("triton")
    from streamvln_gym.simulators.embedded import gpu_kernels

    views = {"table": "*i64", "scenes": "*i32", "poses": "*fp32", "begins": "*fp32"}
    compile_kernel(gpu_kernels.find_clusters, {**views, "right": "fp32", "up": "fp32"}, {"MOST": 512}, 4)
    pointers = {**views, "order": "*i64", "rgb": "*u8", "depth": "*fp32", "classes": "*i32"}
    numbers = {"width": "i32", "height": "i32"} | dict.fromkeys(
        ("focal_x", "focal_y", "min_depth", "max_depth"), "fp32"
    )
    compile_kernel(gpu_kernels.draw_tile, pointers | numbers, {"MOST": 512, "TILE": 16, "LEVELS": 14}, 1)


def compile_kernel(kernel, signature, constants, warps):
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    source = ASTSource(fn=kernel, signature=signature | dict.fromkeys(constants, "constexpr"), constexprs=constants)
    options = {"num_warps": warps, "enable_fp_fusion": False}
    assert triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options).asm["cubin"]


def test_a_scene_without_instances_is_refused():
    pytest.importorskip("triton")
    renderer = GpuRenderer(CameraConfig.of_size(8, 8, 1), torch.device("cpu"))
    with pytest.raises(ValueError, match="needs triangles, and instances for their classes"):
        renderer.add("wall", Renderer(wall(1.0)).mesh, np.zeros(2, np.int32))


def test_a_pose_that_is_not_finite_is_refused():
    pytest.importorskip("triton")
    renderer = GpuRenderer(CameraConfig.of_size(8, 8, 1), torch.device("cpu"))
    with pytest.raises(ValueError, match="the pose of view 1 is not finite"):
        renderer.render(["wall"] * 2, np.array([[0.0, 0.0, 0.0], [0.0, np.nan, 0.0]]), np.zeros(2))


def test_without_triton_it_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "streamvln_gym.simulators.embedded.gpu_kernels", None)
    monkeypatch.delattr("streamvln_gym.simulators.embedded.gpu_kernels", raising=False)
    with pytest.raises(ImportError, match="drawing on a GPU needs Triton"):
        GpuRenderer(CameraConfig.of_size(8, 8, 1), torch.device("cpu"))


class TestOnAGPU:
    pytestmark = cuda

    @pytest.mark.parametrize(("size", "factor"), [((112, 112), 1), ((160, 120), 2), ((640, 480), 1)])
    def test_pictures(self, size, factor):
        check_rooms("cuda", *size, factor, 12, 400)
