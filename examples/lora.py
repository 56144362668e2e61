"""LoRA on StreamVLN: a few adapter weights in language model and projector learn to go to the red side.

    pip install "streamvln-gym[train]"
    python examples/lora.py                                     # made-up pictures, the small network, on a CPU
    python examples/lora.py --trajectories DIR --checkpoint DIR --out DIR --device cuda     # your own

The trajectories are in the published format (see `streamvln_gym.training.load_trajectories`). This is a loop to read
and change; `streamvln-gym train --method lora` (or `qlora`, of 4-bit weights) is the training with everything.
"""

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from PIL import Image

from streamvln_gym.agents import StreamVLNAgent
from streamvln_gym.training import StreamVLNCollator, StreamVLNWindows

ADAPTED = r"language_model\.layers\.\d+\.(self_attn|mlp)\.\w+_proj|projector\.linear_[12]"
INSTRUCTION = "Turn towards the red side four times, then go forward and stop."


def picture(side: int) -> Image.Image:
    """A grey picture with a red left (2) or right (3) half."""
    pixels = np.full((112, 112, 3), 128, np.uint8)
    half = slice(0, 56) if side == 2 else slice(56, 112)
    pixels[:, half] = (220, 30, 30)
    return Image.fromarray(pixels)


def write_trajectories(folder: Path, episodes: int = 8) -> Path:
    """Episodes of four turns towards the red side and four steps forward."""
    entries = []
    for number in range(episodes):
        side = 2 + number % 2
        actions = [side] * 4 + [1] * 4
        pictures = folder / f"episode{number}" / "rgb"
        pictures.mkdir(parents=True)
        for step in range(len(actions)):
            picture(side).save(pictures / f"{step:03d}.jpg")
        # actions[i] led to picture i, so a start marker comes first; the STOP at the end is understood.
        entry = {"id": number, "video": f"episode{number}", "instructions": [INSTRUCTION]}
        entries.append({**entry, "actions": [-1, *actions[:-1]]})
    (folder / "annotations.json").write_text(json.dumps(entries))
    return folder


def train(agent: StreamVLNAgent, trajectories: Path, steps: int, batch_size: int, rate: float) -> list[float]:
    """Trains adapters on the agent's network, merges them into it, and returns the losses."""
    # A head of random weights can name no token with confidence, so it has to learn too; a trained one stays as it is.
    whole = None if agent.trained else ["lm_head"]
    lora = LoraConfig(r=8, lora_alpha=16, target_modules=ADAPTED, modules_to_save=whole)
    model = get_peft_model(agent.model, lora).train()
    model.print_trainable_parameters()
    loader = torch.utils.data.DataLoader(
        StreamVLNWindows(trajectories, agent.processor),
        batch_size=batch_size,
        shuffle=True,
        collate_fn=StreamVLNCollator(),
        generator=torch.Generator().manual_seed(0),
    )
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=rate)
    losses: list[float] = []
    while len(losses) < steps:
        for batch in loader:
            batch.pop("time_ids", None)
            loss = model(**{name: tensor.to(agent.device) for name, tensor in batch.items()}).loss
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
            if len(losses) % 10 == 0 or len(losses) == 1:
                print(f"step {len(losses):3d}  loss {losses[-1]:.3f}")
            if len(losses) == steps:
                break
    agent.model = model.merge_and_unload().eval()
    return losses


def main(arguments: list[str] | None = None) -> list[float]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trajectories", type=Path, help="folder in the published format")
    parser.add_argument("--checkpoint", help="folder or hub id; default: the small network")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, help="writes the checkpoint here, adapters merged")
    options = parser.parse_args(arguments)
    torch.manual_seed(0)
    agent = StreamVLNAgent.from_pretrained(options.checkpoint, device=options.device)
    with tempfile.TemporaryDirectory() as scratch:
        made_up = options.trajectories is None
        folder = write_trajectories(Path(scratch)) if made_up else options.trajectories
        losses = train(agent, folder, options.steps, options.batch_size, options.rate)
    print(f"loss {losses[0]:.3f} -> {losses[-1]:.3f}")
    if options.out is not None:
        agent.save_pretrained(options.out)
        print(f"StreamVLNAgent.from_pretrained({str(options.out)!r}) reads what was learned")
    if made_up:
        for side, name in ((2, "left"), (3, "right")):
            learned = StreamVLNAgent(agent.model, agent.processor)
            chunk = learned.predict_chunk({"rgb": np.asarray(picture(side)), "instruction": INSTRUCTION})
            print(f"red on the {name}: {chunk}  (2 is LEFT, 3 is RIGHT)")
    return losses


if __name__ == "__main__":
    main()
