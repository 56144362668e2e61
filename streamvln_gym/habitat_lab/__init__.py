"""habitat-lab's tasks, measures and datasets on the embedded simulator, without habitat-sim.

```python
from streamvln_gym.habitat_lab import register_embedded_simulator

register_embedded_simulator()  # before the first `import habitat`
import habitat

config = habitat.get_config("benchmark/nav/vln_r2r.yaml", ["habitat.simulator.type=Embedded-v0", ...])
env = habitat.Env(config)
```

The other way round, `VLNEnv.from_habitat_env(env)` shows a `habitat.Env` as this package's Gymnasium environment.
habitat-lab is optional (`pip install 'streamvln-gym[habitat]'`); see docs/habitat.md.
"""

from __future__ import annotations

import importlib.util

from streamvln_gym.errors import SimulatorUnavailableError
from streamvln_gym.habitat_lab.stubs import install_stubs
from streamvln_gym.simulators.habitat_install import PIP_LINE

EMBEDDED = "Embedded-v0"
"""Under this name habitat-lab's registry has the embedded simulator."""


def register_embedded_simulator(name: str = EMBEDDED) -> None:
    """Registers the embedded simulator with habitat-lab; without habitat-sim it makes habitat-lab importable, too.

    Call it before the first `import habitat` of the process, and in every worker process.

    Args:
        name: what `habitat.simulator.type` is to say. "Sim-v0" puts it in the place of habitat-sim's, so that
            configurations run as they are (not where habitat-sim is installed).

    Raises:
        SimulatorUnavailableError: habitat-lab is not installed.
        ValueError: the name would hide habitat-sim's own simulator.
    """
    if importlib.util.find_spec("habitat") is None:
        raise SimulatorUnavailableError(
            f"habitat-lab is not installed. Install it: `{PIP_LINE}` (Python 3.10 to 3.12)."
        )
    has_habitat_sim = importlib.util.find_spec("habitat_sim") is not None
    if has_habitat_sim and name == "Sim-v0":
        raise ValueError(f"'Sim-v0' is habitat-sim's, which is installed: choose another name, e.g. {EMBEDDED!r}")
    if not has_habitat_sim:
        install_stubs()
    from streamvln_gym.habitat_lab.simulator import register

    register(name)
