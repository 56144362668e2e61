"""Processes that build flats ahead."""

import subprocess
import sys

SCRIPT = """
import gc, sys, time
from pathlib import Path

if __name__ == "__main__":
    from streamvln_gym.flats.dataset import SPLITS
    from streamvln_gym.flats.files import is_built
    from streamvln_gym.training.online.builders import FlatBuilders

    root, seed = Path(sys.argv[1]), SPLITS["train"].first_seed
    builders = FlatBuilders(root, "train", [seed, seed + 1], 2)
    gc.collect()
    while not all(is_built(root, "train", each) for each in (seed, seed + 1)):
        builders.check()
        time.sleep(0.1)
    builders.close()
    print("both are there")
else:
    time.sleep(1.0)  # a program whose import takes long, as that of torch does
"""


def test_builders_that_start_late_share_the_seeds(tmp_path):
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, script, tmp_path / "flats"], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout == "both are there\n", done.stderr
