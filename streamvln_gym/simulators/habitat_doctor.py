"""What the doctor says about habitat: versions, Python and numpy, EGL, the GPU."""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, version

from streamvln_gym.findings import Finding
from streamvln_gym.simulators.egl_devices import EglDevices, egl_devices
from streamvln_gym.simulators.habitat_install import CONDA_LINE, PIP_LINE, HabitatInstallation, habitat_installation

_TOPIC = "simulator 'habitat'"


def habitat_findings() -> list[Finding]:
    """One line where habitat is not installed (it is optional), otherwise one for everything that can be wrong."""
    found = habitat_installation()
    if not (found.sim or found.lab):
        return [Finding(_TOPIC, "missing", "habitat-sim is not installed (optional)", found.problem)]
    findings = [_usable(found), _numpy(found)]
    if sys.version_info >= (3, 13):
        findings.append(
            Finding(
                "habitat's Python",
                "problem",
                f"this is Python {sys.version_info.major}.{sys.version_info.minor}",
                "habitat-lab's numpy 1.26.4 has wheels for Python 3.10 to 3.12: make an environment of one of those",
            )
        )
    if found.sim:
        findings.append(_graphics(egl_devices()))
    return findings


def _usable(found: HabitatInstallation) -> Finding:
    versions = ", ".join(
        f"{name} {number or 'of unknown version' if there else 'not installed'}"
        for name, there, number in (
            ("habitat-sim", found.sim, found.sim_version),
            ("habitat-lab", found.lab, found.lab_version),
        )
    )
    if not found.problem:
        return Finding(_TOPIC, "ok", versions)
    if found.lab and not found.sim:
        remedy = f"it runs on the embedded simulator (streamvln_gym.habitat_lab); for habitat-sim: {CONDA_LINE}"
        return Finding(_TOPIC, "missing", versions, remedy)
    return Finding(_TOPIC, "problem", f"{versions}{_colon(found.import_error)}", _remedy(found))


def _colon(error: str) -> str:
    return f": {error}" if error else ""


def _remedy(found: HabitatInstallation) -> str:
    error = found.import_error
    if "numpy" in error or "_ARRAY_API" in error:
        return "habitat-sim was built for numpy 1: pip install numpy==1.26.4"
    if ".so" in error and ("EGL" in error or "GL" in error):
        return "a graphics library is missing: apt-get install libegl1 libgl1 libopengl0"
    if "GLIBCXX" in error:
        return "the C++ runtime is older than habitat-sim's: conda install -c conda-forge libstdcxx-ng"
    if error:
        return f"install both again into an environment of their own: {CONDA_LINE}; {PIP_LINE}"
    return found.problem


def _numpy(found: HabitatInstallation) -> Finding:
    number = version("numpy")
    try:
        gym = version("gym")
    except PackageNotFoundError:
        gym = ""
    if found.lab and number != "1.26.4":
        return Finding(
            "habitat's numpy",
            "missing" if not found.import_error else "problem",
            f"habitat-lab asks for numpy 1.26.4, this is {number}",
            "it may work; if habitat-sim cannot be imported: pip install numpy==1.26.4",
        )
    return Finding("habitat's numpy", "ok", f"{number}, gym {gym or 'not installed'}")


def _graphics(devices: EglDevices) -> Finding:
    topic = "habitat's graphics"
    if devices.problem:
        return Finding(
            topic,
            "problem",
            str(devices),
            "apt-get install libegl1 libgl1-mesa-dri, or the NVIDIA driver with its graphics libraries (in a "
            "container: NVIDIA_DRIVER_CAPABILITIES=all)",
        )
    gpu = devices.default_gpu
    detail = f"{devices}; gpu_device_id {gpu} is used"
    if gpu >= 0:
        return Finding(topic, "ok", detail)
    return Finding(topic, "ok", detail, "it renders in software; gpu_device_id=0 would end the process here")
