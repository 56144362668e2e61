"""`train --dry-run`: what it says, what it refuses, and that it writes nothing."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from transformers.utils import is_flash_attn_2_available

pytest.importorskip("accelerate")

from streamvln_gym.cli import main
from streamvln_gym.errors import CheckpointError, DatasetError, TrainingError
from streamvln_gym.training import train
from streamvln_gym.training.config import BatchConfig, ContextConfig, EstimateConfig, MachineConfig, ReportConfig
from streamvln_gym.training.dry_run import dry_run
from tests.training.demonstrations import recipe, write_checkpoint, write_demonstrations
from tests.training.test_auxiliary_loss import write_targets

MOVES = [1, 2, 1, 3] * 20


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("dry")
    return write_demonstrations(root / "data"), write_checkpoint(root / "thin")


@pytest.fixture(scope="module")
def long_folder(tmp_path_factory):
    """A trajectory with windows of full length and a full memory."""
    folder = tmp_path_factory.mktemp("long")
    (folder / "a" / "rgb").mkdir(parents=True)
    for step in range(len(MOVES) + 1):
        Image.new("RGB", (8, 6)).save(folder / "a" / "rgb" / f"{step:03d}.jpg")
    entry = {"id": 0, "video": "a", "instructions": ["Leave the bedroom and wait by the piano."]}
    (folder / "annotations.json").write_text(json.dumps([{**entry, "actions": [-1, *MOVES]}]))
    return folder


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def settings(path, **values):
    path.write_text(json.dumps(values))
    return path


def test_it_counts_what_training_trains(files, tmp_path):
    """Weights, windows and steps as in the run itself; nothing is written."""
    config = recipe(*files, tmp_path / "run", max_steps=1)
    found = dry_run(config, EstimateConfig(gpu_memory=4))
    assert not (tmp_path / "run").exists()
    assert found.fits is True
    assert found.hints() == []
    train(config)
    record = json.loads((tmp_path / "run" / "training.json").read_text())
    assert sum(count.trained for count in found.counts.values()) == sum(group["params"] for group in record["groups"])
    assert found.windows == record["data"][0]["windows"]


def test_the_published_window(long_folder, tmp_path):
    """8 current and 8 history frames of 196 tokens, 8 answers of 5 tokens."""
    config = recipe(long_folder, "owner/StreamVLN", tmp_path / "run", batch=BatchConfig(1, 16))
    found = dry_run(config, EstimateConfig(gpu_memory=24))
    assert found.longest.frames == 16
    assert 16 * 196 < found.longest.length < 16 * 196 + 400
    assert found.longest.targets == 40
    assert found.windows_per_step == 16
    assert found.fits is False
    text = found.format()
    assert "owner/StreamVLN is not on this machine" in text
    assert "DOES NOT FIT" in text
    assert any("--method qlora" in hint for hint in found.hints())
    assert any("FSDP" not in hint and "on 2 GPUs" not in hint for hint in found.hints())


def test_hints_fit(long_folder, tmp_path):
    """What is proposed fits when it is followed."""
    config = recipe(long_folder, "owner/StreamVLN", tmp_path / "run", batch=BatchConfig(2), method="lora")
    assert any("--gradient-checkpointing True: " in hint for hint in dry_run(config, EstimateConfig(1, 60)).hints())
    followed = recipe(
        *(long_folder, "owner/StreamVLN", tmp_path / "run"),
        batch=BatchConfig(2),
        method="lora",
        machine=MachineConfig(gradient_checkpointing=True),
    )
    assert dry_run(followed, EstimateConfig(1, 60)).fits is True


def test_fsdp(long_folder, tmp_path):
    """Sharded weights, activations checkpointed by FSDP's own setting."""
    file = settings(tmp_path / "fsdp.json", version=2, activation_checkpointing=True)
    config = recipe(
        *(long_folder, "owner/StreamVLN", tmp_path / "run"),
        batch=BatchConfig(1),
        machine=MachineConfig(bf16=True, fsdp=file, weights="bfloat16"),
    )
    found = dry_run(config, EstimateConfig(gpus=2, gpu_memory=79))
    assert found.setup.checkpointing
    rows = found.estimate().rows
    assert rows["weights, trained"] * 2 == pytest.approx(8.03e9 * 4, rel=1e-3), "accelerate trains float32"
    with pytest.raises(TrainingError, match="say over how many with --gpus"):
        dry_run(config, EstimateConfig(gpus=1, gpu_memory=79))


@pytest.mark.parametrize(
    ("optimiser", "per_weight"),
    [("adamw_torch", 8), ("paged_adamw_32bit", 8), ("adamw_bnb_8bit", 2), ("sgd", 0), ("adafactor", 0)],
)
def test_optimisers(files, tmp_path, optimiser, per_weight):
    file = settings(tmp_path / "more.json", optim=optimiser)
    machine = MachineConfig(trainer_arguments=file)
    config = recipe(*files, tmp_path / "run", batch=BatchConfig(2, accumulate=3), machine=machine)
    found = dry_run(config, EstimateConfig(gpu_memory=4))
    trained = sum(count.trained for count in found.counts.values())
    assert found.estimate().rows["optimiser states"] == per_weight * trained
    assert found.accumulate == 3


def damage(kind, tmp_path, files):
    """A recipe with something wrong in it; the error, and what it must say."""
    data, checkpoint = files
    out = tmp_path / "run"
    if kind == "data":
        return recipe(tmp_path / "none", checkpoint, out), DatasetError, "is this a trajectory folder"
    if kind == "picture":
        folder = write_demonstrations(tmp_path / "data")
        (folder / "episode1/rgb/003.png").unlink()
        return recipe(folder, checkpoint, out), DatasetError, "is missing: 003.png"
    if kind == "checkpoint":
        return recipe(data, tmp_path / "nothing", out), CheckpointError, "there is no folder"
    if kind == "weights":
        folder = write_checkpoint(tmp_path / "thin")
        (folder / "model.safetensors").unlink()
        return recipe(data, folder, out), CheckpointError, "safetensors"
    if kind == "out":
        out.write_text("")
        return recipe(data, checkpoint, out), TrainingError, "is a file"
    if kind == "fsdp":
        machine = MachineConfig(fsdp=tmp_path / "none.json")
        return recipe(data, checkpoint, out, machine=machine), TrainingError, "none.json cannot be read"
    if kind == "deepspeed":
        machine = MachineConfig(deepspeed=settings(tmp_path / "zero.json"))
        return recipe(data, checkpoint, out, machine=machine), TrainingError, "deepspeed"
    assert kind == "optimiser"
    machine = MachineConfig(trainer_arguments=settings(tmp_path / "more.json", optim="lomo"))
    return recipe(data, checkpoint, out, machine=machine), TrainingError, "lomo"


def lacking(kind, tmp_path, files):
    """A recipe for which something is lacking that training would miss at once; the error, and what it must say."""
    data, checkpoint = files
    out = tmp_path / "run"
    if kind == "attention":
        if is_flash_attn_2_available():
            pytest.skip("flash-attn is installed here")
        machine = MachineConfig(attention="flash_attention_2")
        message = "attention flash_attention_2 cannot be had here.*sdpa or eager"
        return recipe(data, checkpoint, out, machine=machine), TrainingError, message
    if kind == "attention of random weights":
        config = recipe(data, checkpoint, out, machine=MachineConfig(attention="no such"))
        return replace(config, checkpoint=None), TrainingError, "attention no such cannot be had here.*sdpa or eager"
    if kind == "reporting":
        report = ReportConfig(report_to=("foo",))
        return recipe(data, checkpoint, out, report=report), TrainingError, "report_to foo is no integration.*wandb"
    if kind == "depth":
        context = ContextConfig(memory_strategy="voxel")
        message = r"there is no .*camera\.json \(camera poses, .*record the trajectory with depth"
        return recipe(data, checkpoint, out, context=context), DatasetError, message
    folder = write_demonstrations(tmp_path / "data")
    config = recipe(folder, checkpoint, out, auxiliary=(1.0, 1.0))
    if kind == "targets":
        return config, DatasetError, r"there are no auxiliary targets .*privileged\.npz: record with them"
    if kind == "patches":
        write_targets(folder, patches=5)
        return config, DatasetError, "record with patches=8"
    pictures = recipe(data, checkpoint, out, held_out=(str(data), str(folder)))
    (folder / "episode0/rgb/000.png").write_bytes(b"no picture")
    return pictures, DatasetError, r"episode0.rgb.000\.png \(picture of step 0, .*cannot be read"


@pytest.mark.parametrize(
    "kind", ["attention", "attention of random weights", "reporting", "depth", "targets", "patches", "pictures"]
)
def test_what_training_would_miss_is_refused_by_both_before_the_network_is_loaded(files, tmp_path, monkeypatch, kind):
    config, error, message = lacking(kind, tmp_path, files)
    with pytest.raises(error, match=message) as dry:
        dry_run(config, EstimateConfig(gpu_memory=4))
    monkeypatch.setattr("streamvln_gym.training.sft._load", None)
    with pytest.raises(error, match=message) as real:
        train(config)
    assert str(real.value) == str(dry.value)
    assert not config.out.exists()


KINDS = ["data", "picture", "checkpoint", "weights", "out", "fsdp", "deepspeed", "optimiser"]


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_wrong_is_said_at_once(files, tmp_path, kind):
    config, error, message = damage(kind, tmp_path, files)
    with pytest.raises(error, match=message):
        dry_run(config, EstimateConfig(gpus=1, gpu_memory=4))


def test_a_run_that_is_there(files, tmp_path):
    """Refused as training refuses it."""
    train(recipe(*files, tmp_path / "run", max_steps=1))
    with pytest.raises(TrainingError, match="holds a run already"):
        dry_run(recipe(*files, tmp_path / "run", max_steps=1), EstimateConfig(gpu_memory=4))
    with pytest.raises(TrainingError, match=r"max_steps was 1 and is now 2"):
        dry_run(recipe(*files, tmp_path / "run", max_steps=2, resume=True), EstimateConfig(gpu_memory=4))


def test_a_full_disk_is_a_note(long_folder, tmp_path, monkeypatch):
    """The run may be meant for another machine."""
    usage = SimpleNamespace(free=10)
    monkeypatch.setattr("shutil.disk_usage", lambda folder: usage)
    found = dry_run(recipe(long_folder, "owner/StreamVLN", tmp_path / "run"), EstimateConfig(gpu_memory=1000))
    assert "training would not start here" in found.format()


@pytest.mark.parametrize("values", [{"gpus": 0}, {"gpu_memory": 0.0}, {"gpu_memory": float("nan")}])
def test_bad_estimate_settings(values):
    with pytest.raises(ValueError, match=f"{next(iter(values))} must be"):
        EstimateConfig(**values)


def test_the_command(files, tmp_path, capsys):
    """With and without a value for the flag; its exit says whether the run fits."""
    arguments = ["train", "--data", str(files[0]), "--checkpoint", str(files[1]), "--out", str(tmp_path / "run")]
    main([*arguments, "--dry-run", "--gpu-memory", "4"])
    assert "fits: " in capsys.readouterr().out
    with pytest.raises(SystemExit, match="would not fit"):
        main([*arguments, "--dry-run", "True", "--gpu-memory", "0.5"])
    with pytest.raises(SystemExit):
        main([*arguments, "--dry-run", "maybe"])
    assert list(tmp_path.iterdir()) == []
    main([*arguments, "--dry-run", "False", "--max-steps", "1", "--quiet", "True"])
    assert json.loads((tmp_path / "run" / "training.json").read_text())["config"].keys().isdisjoint({"dry_run"})
