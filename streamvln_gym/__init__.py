"""Vision-and-language navigation as an ordinary Gymnasium environment, and StreamVLN as an ordinary policy.

Importing this package registers the environment ids; simulators, models and agents are imported when they are used.
"""

from pathlib import Path

from streamvln_gym.registration import register_environments

__version__ = "0.1.0"

# The agents live in the repository's top-level folder `agents/` and are installed as `streamvln_gym.agents`.
# A run from the repository (or an editable install) finds them there.
if not (Path(__file__).parent / "agents").exists() and (Path(__file__).parents[1] / "agents" / "base.py").exists():
    __path__.append(str(Path(__file__).parents[1]))

register_environments()
