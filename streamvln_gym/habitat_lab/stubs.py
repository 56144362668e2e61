"""Makes habitat-lab importable without habitat-sim: stands in for four of its modules that need magnum or habitat-sim.

None of them has to do with navigation: object states, rearrangement (task and simulator) and the batch renderer.
(Checked with habitat-lab 0.3.320260507.)
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

from streamvln_gym.errors import SimulatorUnavailableError
from streamvln_gym.simulators.habitat_install import CONDA_LINE


def install_stubs() -> None:
    """Puts the stand-ins in place; does nothing the second time."""
    rearrange = "habitat.tasks.rearrange"
    _put("habitat.sims.habitat_simulator.object_state_machine", ObjectStateMachine=_unavailable("ObjectStateMachine"))
    _put(rearrange, _try_register_rearrange_task=lambda: None, __path__=[])
    _put(f"{rearrange}.rearrange_sim", RearrangeSim=_unavailable("RearrangeSim"), add_perf_timing_func=_untimed)
    _put("habitat.core.batch_rendering.env_batch_renderer", EnvBatchRenderer=_unavailable("EnvBatchRenderer"))


def _put(name: str, **content: Any) -> None:
    if name not in sys.modules:
        module = ModuleType(name, f"Stand-in of {__name__}: the real module needs habitat-sim.")
        vars(module).update(content)
        sys.modules[name] = module


def _unavailable(name: str) -> type:
    """A class that says why there is none of it."""

    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807
        raise SimulatorUnavailableError(
            f"habitat-lab's {name} needs habitat-sim, which is not installed. Install it: `{CONDA_LINE}`."
        )

    return type(name, (), {"__init__": __init__})


def _untimed(name: str | None = None) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """habitat-lab's timing decorator, without timing."""
    return lambda function: function
