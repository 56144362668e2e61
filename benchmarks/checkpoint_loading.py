"""Peak host memory and time of loading and converting a large random checkpoint in the published format.

    python benchmarks/checkpoint_loading.py --gigabytes 4

Each measurement is a fresh process. Memory is the peak resident set (VmHWM) minus that of a process that has imported
the same packages; the target is 1.2 times the size of the loaded weights. The tokenizer is the one of the tests.
"""

from __future__ import annotations

import argparse
import json
import re
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
VISION = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 64}
SHARD_BYTES = 2 * 10**9


def make_checkpoint(folder: Path, gigabytes: float) -> int:
    """Writes random bfloat16 weights: Qwen2 of width 2048 with as many layers as it takes; the size in bytes."""
    sys.path.insert(0, str(ROOT))
    import torch

    from streamvln_gym.models.conversion import config_from_published, published_key
    from streamvln_gym.models.modeling_streamvln import StreamVLNForConditionalGeneration
    from tests.golden_streamvln import description, write_tokenizer

    values = dict(description()["config"], hidden_size=2048, intermediate_size=8192, torch_dtype="bfloat16")
    values.update(num_attention_heads=16, num_key_value_heads=4)
    a_layer = 2 * (2048 * 8192 * 3 + 2048 * 2048 * 2 + 2048 * 512 * 2)
    values["num_hidden_layers"] = max(1, int((gigabytes * 1e9 - 2 * 2 * 152064 * 2048) / a_layer))
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(values))
    (folder / "generation_config.json").write_text(json.dumps(description()["generation_config"]))
    write_tokenizer(folder)
    with torch.device("meta"):
        model = StreamVLNForConditionalGeneration(config_from_published(values, VISION))
    shapes = {published_key(name): tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    generator, total, places, number = np.random.default_rng(0), 0, {}, 0
    names = list(shapes)
    while names:
        number += 1
        shard: list[str] = []
        size = 0
        while names and (not shard or size < SHARD_BYTES):
            shard.append(names.pop(0))
            size += 2 * int(np.prod(shapes[shard[-1]]))
        total += size
        file = f"model-{number:05d}.safetensors"
        places.update(dict.fromkeys(shard, file))
        write_random(folder / file, {name: shapes[name] for name in shard}, generator)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    return total


def write_random(path: Path, shapes: dict[str, tuple[int, ...]], generator: np.random.Generator) -> None:
    """One shard of random bfloat16 values between -2 and 2."""
    header, offset = {}, 0
    for name, shape in shapes.items():
        size = 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    block = generator.integers(0x3C00, 0x3FFF, 2**24, dtype=np.uint16)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for left in range(offset // 2, 0, -len(block)):
            file.write(block[:left].tobytes())


PRELUDE = """
import sys, torch, time
torch.set_num_threads(1)
from pathlib import Path
from streamvln_gym.agents.checkpoint import LoadOptions, load_checkpoint
from streamvln_gym.models.conversion import convert_checkpoint
folder, target, vision = Path(sys.argv[1]), Path(sys.argv[2]), eval(sys.argv[3])
start, size = time.perf_counter(), 0
"""
EPILOGUE = """
print(time.perf_counter() - start, size, Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0])
"""
LOAD = """
model, _ = load_checkpoint(folder, {dtype}, options=LoadOptions(vision_config=vision))
size = sum(parameter.nbytes for parameter in model.parameters())
"""
TASKS = {
    "import only": "",
    "load, as stored (bfloat16)": LOAD.format(dtype="None"),
    "load, cast to float16": LOAD.format(dtype="torch.float16"),
    "load, cast to float32": LOAD.format(dtype="torch.float32"),
    "convert": "convert_checkpoint(folder, target, vision)",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=4.0)
    parser.add_argument("--folder", type=Path, default=None, help="where to write (default: a temporary folder)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as scratch:
        folder = Path(scratch) / "published"
        total = make_checkpoint(folder, arguments.gigabytes)
        print(f"checkpoint: {total / 1e9:.2f} GB of bfloat16 in {len(list(folder.glob('*.safetensors')))} shards")
        idle = 0
        for name, task in TASKS.items():
            code = PRELUDE + task + EPILOGUE
            command = [sys.executable, "-c", code, str(folder), str(Path(scratch) / "ours"), repr(VISION)]
            output = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout
            seconds, size, peak = (float(value) for value in re.split(r"\s+", output.strip())[-3:])
            idle = idle or peak
            used = (peak - idle) * 1024
            ratio = f"{used / (size or total):5.2f} x the {'weights' if size else 'checkpoint'}'s size"
            print(f"{name:28} {seconds:7.1f} s   peak {used / 1e9:6.2f} GB   {ratio}")
            time.sleep(0.5)


if __name__ == "__main__":
    main()
