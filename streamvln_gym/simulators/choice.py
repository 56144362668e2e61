"""Which simulator an environment gets: the one that was asked for, or the rule of "auto"."""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

from streamvln_gym.errors import SimulatorUnavailableError
from streamvln_gym.simulators.base import CameraConfig, Simulator

SIMULATORS = ("embedded", "habitat")
SimulatorChoice = Literal["auto", "embedded", "habitat"]


def resolve_simulator(simulator: str | Simulator, dataset: str = "flats", camera: CameraConfig | None = None) -> str:
    """The name of the simulator to use.

    "auto" is habitat if it can be imported, the dataset is not the flats and habitat can render the camera (square
    pixels); otherwise embedded.

    Args:
        simulator: "auto", a name out of `SIMULATORS`, or a `Simulator`.
        dataset: the dataset's name.
        camera: what is to be rendered.

    Raises:
        SimulatorUnavailableError: it cannot be had; the message says how to get it.
    """
    from streamvln_gym.simulators.habitat import has_square_pixels
    from streamvln_gym.simulators.habitat_install import habitat_problem

    if not isinstance(simulator, str):
        if not hasattr(simulator, "try_step"):
            raise TypeError(f"simulator must be a name or a Simulator, got {type(simulator).__name__}")
        return simulator.name
    if simulator == "auto":
        fitting = not dataset.startswith("flats") and has_square_pixels(camera or CameraConfig())
        return "habitat" if fitting and not habitat_problem() else "embedded"
    if simulator == "habitat" and habitat_problem():
        raise SimulatorUnavailableError(habitat_problem())
    if simulator not in SIMULATORS:
        raise SimulatorUnavailableError(f"unknown simulator {simulator!r}: use 'auto', 'embedded' or 'habitat'")
    return simulator


def make_simulator(name: str, camera: CameraConfig, sensors: Collection[str] = ("rgb", "depth")) -> Simulator:
    """A new simulator of a name that `resolve_simulator` gave, for pictures of some of its sensors."""
    if name == "habitat":
        from streamvln_gym.simulators.habitat import HabitatSimulator

        return HabitatSimulator(camera, sensors)
    if name != "embedded":
        raise SimulatorUnavailableError(f"unknown simulator {name!r}: use one of {', '.join(SIMULATORS)}")
    from streamvln_gym.simulators.embedded.simulator import EmbeddedSimulator

    return EmbeddedSimulator(camera)
