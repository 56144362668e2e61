"""The benchmark of streaming at full size, in thin sizes on a CPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_tiny_benchmark_measures_every_part(tmp_path):
    out = tmp_path / "latency.json"
    options = ["--tiny", "--batches", "1", "--steps", "40", "--long-steps", "40", "--chunks", "4", "--out", str(out)]
    command = [sys.executable, str(ROOT / "benchmarks" / "streaming_latency.py"), *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stdout, done.stdout
    found = json.loads(out.read_text())
    assert not found["errors"]
    parts = {"rates", "floors", "batch fast 1", "batch eager 1", "profile fast 1", "agreement", "memory none"}
    assert parts <= set(found["results"])
    assert found["results"]["agreement"]["fast"]["agree"] == 1.0
    assert found["results"]["batch fast 1"]["steps_per_second"] > 0.0
    assert "| fast 1 | 1 |" in done.stdout
