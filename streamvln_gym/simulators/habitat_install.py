"""Whether habitat can be used in this Python, and what to do if not."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version

CONDA_LINE = "conda install habitat-sim=0.3.3 headless -c conda-forge -c aihabitat"
PIP_LINE = "pip install 'streamvln-gym[habitat]'"
_TIMEOUT_SECONDS = 180.0


@dataclass(frozen=True)
class HabitatInstallation:
    """What of habitat is installed.

    Attributes:
        sim: whether there is a package `habitat_sim`.
        lab: whether there is a package `habitat`.
        sim_version: "0.3.3" (which the tag 0.3.4 reports too), "" if unknown.
        lab_version: likewise of habitat-lab.
        import_error: the last line of what importing both said, "" if it went well or was not tried.
    """

    sim: bool
    lab: bool
    sim_version: str = ""
    lab_version: str = ""
    import_error: str = ""

    @property
    def problem(self) -> str:
        """Why simulator="habitat" cannot be had, with the remedy; "" if it can."""
        if not self.sim:
            old = "" if sys.version_info < (3, 13) else " into Python 3.10 to 3.12 (this is a newer one)"
            return (
                f"simulator='habitat' needs habitat-sim, which is not installed. Install it{old}: `{CONDA_LINE}`, "
                f"then `{PIP_LINE}`. simulator='embedded' needs nothing more and loads the same scenes."
            )
        if not self.lab:
            return (
                "simulator='habitat' needs habitat-lab beside habitat-sim, and it is not installed. Install it: "
                f"`{PIP_LINE}`."
            )
        if not self._fits:
            return (
                f"simulator='habitat' needs habitat-sim and habitat-lab 0.3.3 or 0.3.4, and habitat-sim "
                f"{self.sim_version or '?'} and habitat-lab {self.lab_version or '?'} are installed. Install these: "
                f"`{CONDA_LINE}`, then `{PIP_LINE}`. (For habitat 0.2.4 see docs/habitat.md.)"
            )
        if self.import_error:
            return (
                f"habitat is installed but cannot be imported: {self.import_error}. `streamvln-gym doctor` says more; "
                "simulator='embedded' works without it."
            )
        return ""

    @property
    def _fits(self) -> bool:
        return all(not found or found.startswith("0.3.") for found in (self.sim_version, self.lab_version))


@lru_cache(maxsize=1)
def habitat_installation() -> HabitatInstallation:
    """Looks for habitat; imports it, if it is there, in a process of its own. The answer is kept."""
    sim, lab = (importlib.util.find_spec(name) is not None for name in ("habitat_sim", "habitat"))
    found = HabitatInstallation(sim, lab, _version("habitat-sim"), _version("habitat-lab"))
    return (
        found if found.problem else HabitatInstallation(sim, lab, found.sim_version, found.lab_version, _import_error())
    )


def habitat_problem() -> str:
    """Why simulator="habitat" cannot be had, with the remedy; "" if it can."""
    return habitat_installation().problem


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _import_error() -> str:
    code = "import habitat_sim, habitat.sims.habitat_simulator.habitat_simulator"
    environment = {"HABITAT_SIM_LOG": "quiet", "MAGNUM_LOG": "quiet", **os.environ}
    try:
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_SECONDS,
            check=False,
            env={**environment, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    if done.returncode == 0:
        return ""
    lines = [line for line in done.stderr.strip().splitlines() if line.strip()]
    return lines[-1] if lines else f"the process that tried ended with {done.returncode}"
