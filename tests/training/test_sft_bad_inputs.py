"""What supervised training says when something is wrong, and that what was saved is kept."""

import importlib.util
import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

pytest.importorskip("accelerate")

from streamvln_gym.agents.checkpoint import load_checkpoint
from streamvln_gym.cli import main
from streamvln_gym.errors import CheckpointError, DatasetError, TrainingError
from streamvln_gym.models import StreamVLNForConditionalGeneration, StreamVLNProcessor
from streamvln_gym.training import train
from streamvln_gym.training.adapters import merge_adapter, quantisation
from streamvln_gym.training.config import (
    BatchConfig,
    LoraSettings,
    MachineConfig,
    OptimiserConfig,
    ReportConfig,
    TrainConfig,
)
from streamvln_gym.training.folder_lock import only_process
from streamvln_gym.training.sft_trainer import SupervisedTrainer, whole_checkpoints
from streamvln_gym.training.trainer_arguments import make_arguments
from tests.training.demonstrations import recipe, thin_processor, write_checkpoint, write_demonstrations
from tests.training.test_auxiliary_loss import write_targets


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("bad")
    return write_demonstrations(root / "data"), write_checkpoint(root / "thin")


@pytest.fixture
def data(tmp_path):
    """A folder to damage."""
    return write_demonstrations(tmp_path / "damaged")


def edit(folder, change):
    entries = json.loads((folder / "annotations.json").read_text())
    (folder / "annotations.json").write_text(json.dumps(change(entries)))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (shutil.rmtree, r"annotations.json cannot be read .*is this a trajectory folder"),
        (lambda d: (d / "annotations.json").unlink(), r"annotations.json cannot be read"),
        (lambda d: (d / "annotations.json").write_text('[{"id": 1, "vid'), r"annotations.json is not valid JSON"),
        (lambda d: edit(d, lambda entries: []), r"no training window in .*damaged: 0 trajectories"),
        (lambda d: (d / "episode1/rgb/003.png").unlink(), r"entry 1 .*1 is missing: 003.png"),
        (lambda d: edit(d, lambda e: [{**e[0], "actions": [-1, 1, 2, 7, 1, 1, 1, 1, 1, 1]}]), r"actions\[3\] .*got 7"),
        (lambda d: edit(d, lambda e: [{**e[0], "instructions": ["Go to <image>."]}]), r"instructions\[0\]: .*<image>"),
        (lambda d: (d / "episode0/rgb/000.png").write_bytes(b"PNG"), r"000.png \(picture of step 0, .*cannot be read"),
    ],
    ids=["no folder", "half a folder", "half a file", "empty", "picture missing", "action", "markup", "no picture"],
)
def test_damaged_folders(files, data, tmp_path, damage, message):
    damage(data)
    with pytest.raises(DatasetError, match=message):
        train(recipe(data, files[1], tmp_path / "run"))


def test_a_picture_of_another_size_is_fine(files, data, tmp_path):
    """Every picture is resized on its own: cameras may differ."""
    Image.new("RGB", (50, 70)).save(data / "episode0/rgb/000.png")
    assert train(recipe(data, files[1], tmp_path / "run", max_steps=2)).steps == 2


def other_type(folder):
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**values, "model_type": "llama"}))


def other_tokenizer(folder):
    """Of a network with more tokens than this one has embeddings for."""
    StreamVLNProcessor.tiny().save_pretrained(folder)
    values = json.loads((folder / "config.json").read_text())
    values["text_config"]["vocab_size"] = 64
    (folder / "config.json").write_text(json.dumps(values))


def split_arrows(folder):
    """A tokenizer that does not know the actions' strings."""
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**values, "action_strings": ["STOP", "↑", "←", "→→"]}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (shutil.rmtree, "there is no folder"),
        (other_type, "describes a model of type 'llama'"),
        (other_tokenizer, "they do not belong together"),
        (split_arrows, "tokenizer splits '→→'"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "has no tokenizer.json"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"cut"), "model.safetensors"),
    ],
    ids=["no folder", "architecture", "tokenizer", "actions", "no tokenizer", "half the weights"],
)
def test_networks_that_cannot_be_trained(files, tmp_path, damage, message):
    checkpoint = shutil.copytree(files[1], tmp_path / "thin")
    damage(checkpoint)
    with pytest.raises(CheckpointError, match=message):
        train(recipe(files[0], checkpoint, tmp_path / "run"))


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (TrainConfig, {"data": ()}, "data is empty"),
        (TrainConfig, {"parts": ()}, "parts must name some of vision, projector, language"),
        (TrainConfig, {"epochs": 0}, "epochs must be positive"),
        (TrainConfig, {"max_steps": 0}, "max_steps must be at least 1"),
        (TrainConfig, {"method": "qlora", "checkpoint": None}, "qlora quantises a trained network"),
        (TrainConfig, {"method": "full", "lora": LoraSettings(rank=8)}, "lora settings are for the methods 'lora'"),
        (OptimiserConfig, {"learning_rate": 0.0}, "learning_rate must be positive"),
        (OptimiserConfig, {"min_rate": 2.0}, "min_rate is a share"),
        (OptimiserConfig, {"weight_decay": float("nan")}, "weight_decay must not be negative"),
        (BatchConfig, {"accumulate": 0}, "accumulate must be at least 1"),
        (LoraSettings, {"rank": 0}, "rank must be at least 1"),
        (ReportConfig, {"keep": 0}, "keep must be at least 1"),
    ],
)
def test_settings_that_make_no_sense(tmp_path, kind, settings, message):
    needed = {"data": ("a",), "out": tmp_path} if kind is TrainConfig else {}
    with pytest.raises(ValueError, match=message):
        kind(**{**needed, **settings})


def test_a_folder_that_holds_a_run_is_not_overwritten(files, tmp_path):
    config = recipe(*files, tmp_path / "run", max_steps=1)
    train(config)
    with pytest.raises(TrainingError, match=r"run holds a run already: go on with it \(resume\), or choose another"):
        train(config)


@pytest.mark.parametrize("name", ["checkpoint-5", "model", "adapter"])
def test_what_others_wrote_is_not_touched(files, tmp_path, name):
    """Another trainer's checkpoints, perhaps the one to start from."""
    theirs = tmp_path / "run" / name / "weights"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("precious")
    for resume in (False, True):
        with pytest.raises(TrainingError, match=rf"{name} is there, but no .*training.json .*another folder"):
            train(recipe(*files, tmp_path / "run", resume=resume))
    assert theirs.read_text() == "precious"


def test_two_processes_in_a_folder(files, tmp_path):
    config = recipe(*files, tmp_path / "run", max_steps=1, resume=True)
    config.out.mkdir()
    with only_process(config.out, "training in"), pytest.raises(DatasetError, match="another process is training in"):
        train(config)
    assert train(config).steps == 1


def test_resume_with_other_files_of_settings(files, tmp_path):
    """What they say counts, not how they are called."""
    path, other = tmp_path / "further.json", tmp_path / "other.json"
    path.write_text('{"optim": "adamw_torch"}')
    config = recipe(*files, tmp_path / "run", max_steps=1, machine=MachineConfig(trainer_arguments=path))
    train(config)
    path.rename(other)
    again = replace(config, resume=True, machine=MachineConfig(trainer_arguments=other))
    assert train(again).steps == 1
    other.write_text('{"optim": "adafactor"}')
    with pytest.raises(TrainingError, match=r"trainer_arguments was .*adamw_torch.* and is now .*adafactor"):
        train(again)


def test_resume_with_another_recipe_or_other_data(files, data, tmp_path):
    config = recipe(data, files[1], tmp_path / "run", max_steps=1)
    train(config)
    other = replace(config, resume=True, seed=5, batch=BatchConfig(batch_size=3))
    with pytest.raises(TrainingError, match=r"batch.batch_size was 2 and is now 3; seed was 0 and is now 5"):
        train(other)
    edit(data, lambda entries: entries[::-1])
    with pytest.raises(TrainingError, match="damaged holds other annotations than when the run began"):
        train(replace(config, resume=True))


def test_resume_with_other_processes(files, tmp_path):
    config = recipe(*files, tmp_path / "run", max_steps=1)
    train(config)
    path = tmp_path / "run" / "training.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "processes": 8}))
    with pytest.raises(TrainingError, match="8 processes were training and now 1 are"):
        train(replace(config, resume=True))


def test_resume_without_a_run_starts_one(files, tmp_path):
    assert train(recipe(*files, tmp_path / "run", max_steps=1, resume=True)).steps == 1


def test_a_run_that_saved_nothing_may_be_started_anew(files, tmp_path, monkeypatch):
    monkeypatch.setattr(SupervisedTrainer, "training_step", poison(step=1))
    config = recipe(*files, tmp_path / "run", max_steps=3)
    with pytest.raises(TrainingError, match="No checkpoint had been saved yet"):
        train(config)
    monkeypatch.undo()
    assert train(replace(config, optimiser=OptimiserConfig(learning_rate=1e-4))).steps == 3


def test_a_damaged_record(files, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "training.json").write_text('{"status"')
    with pytest.raises(TrainingError, match=r"training.json is no record of a run"):
        train(recipe(*files, tmp_path / "run"))


def poison(step):
    """A training step after which the weights are NaN, as an exploding gradient leaves them."""
    original = SupervisedTrainer.training_step

    def training_step(self, model, *args, **kwargs):
        loss = original(self, model, *args, **kwargs)
        if self.state.global_step + 1 == step:
            for parameter in model.parameters():
                if parameter.grad is not None:
                    parameter.grad.fill_(float("nan"))
        return loss

    return training_step


def test_a_loss_that_is_no_number(files, tmp_path, monkeypatch):
    monkeypatch.setattr(SupervisedTrainer, "training_step", poison(step=3))
    config = recipe(*files, tmp_path / "run", batch=BatchConfig(1), report=ReportConfig(quiet=True, save_every=2))
    expected = (
        r"the loss is nan at step 4, batch: .*annotations.json, entry \d \(id \d\), instruction 0, steps \d to \d"
    )
    with pytest.raises(TrainingError, match=expected) as caught:
        train(config)
    assert "checkpoint-2 is kept" in str(caught.value)
    assert [path.name for path in whole_checkpoints(tmp_path / "run")] == ["checkpoint-2"]
    monkeypatch.undo()
    assert train(replace(config, resume=True)).steps == 20


def test_weights_that_are_no_numbers_are_not_saved(files, tmp_path, monkeypatch):
    monkeypatch.setattr(SupervisedTrainer, "training_step", poison(step=2))
    config = recipe(*files, tmp_path / "run", report=ReportConfig(quiet=True, save_every=1))
    with pytest.raises(TrainingError, match=r"weights are infinite or NaN after step 2.*checkpoint-1 is kept"):
        train(config)
    assert [path.name for path in whole_checkpoints(tmp_path / "run")] == ["checkpoint-1"]


def test_a_full_disk_while_saving(files, tmp_path, monkeypatch):
    save = StreamVLNForConditionalGeneration.save_pretrained

    def full(self, folder, *args, **kwargs):
        if "checkpoint-4" in str(folder):
            raise OSError(28, "No space left on device")
        save(self, folder, *args, **kwargs)

    monkeypatch.setattr(StreamVLNForConditionalGeneration, "save_pretrained", full)
    config = recipe(*files, tmp_path / "run", report=ReportConfig(quiet=True, save_every=2))
    expected = r"checkpoint of step 4 cannot be written .*No space left on device.*checkpoint-2 is kept"
    with pytest.raises(TrainingError, match=expected):
        train(config)
    monkeypatch.undo()
    assert train(replace(config, resume=True)).steps == 10


def test_a_full_disk_while_writing_the_result(files, tmp_path, monkeypatch):
    save = StreamVLNForConditionalGeneration.save_pretrained

    def full(self, folder, *args, **kwargs):
        if ".model.partial" in str(folder):
            raise OSError(28, "No space left on device")
        save(self, folder, *args, **kwargs)

    monkeypatch.setattr(StreamVLNForConditionalGeneration, "save_pretrained", full)
    config = recipe(*files, tmp_path / "run", max_steps=2)
    with pytest.raises(TrainingError, match=r"result cannot be written .*checkpoints are kept"):
        train(config)
    assert not (tmp_path / "run" / "model").exists()
    monkeypatch.undo()
    result = train(replace(config, resume=True))
    assert (result.steps, result.model.is_dir()) == (2, True)


def test_too_little_space_is_said_at_the_start(files, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1_000_000))
    with pytest.raises(TrainingError, match=r"0.0 GB free, but 2 checkpoints and the one being written take about"):
        train(recipe(*files, tmp_path / "run"))


def test_a_resumed_run_needs_no_space_for_what_it_has(files, tmp_path, monkeypatch):
    config = recipe(*files, tmp_path / "run", report=ReportConfig(quiet=True, save_every=2))
    train(config)
    (tmp_path / "run" / "checkpoint-10" / "whole").unlink()
    trained = StreamVLNForConditionalGeneration.from_pretrained(tmp_path / "run" / "model").num_parameters()
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=30 * trained))  # 12 bytes each
    with pytest.raises(TrainingError, match=r"GB free, but 2 checkpoints"):
        train(replace(config, out=tmp_path / "new"))
    assert train(replace(config, resume=True)).steps == 10


def test_shards_in_a_single_process(files, tmp_path):
    path = tmp_path / "fsdp.json"
    path.write_text("{}")
    with pytest.raises(TrainingError, match="fsdp and deepspeed shard a network over GPUs"):
        train(recipe(*files, tmp_path / "run", machine=MachineConfig(fsdp=path)))


def test_one_process_with_several_gpus(files, tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.TrainingArguments.n_gpu", property(lambda self: 4))
    with pytest.raises(TrainingError, match="one process sees 4 GPUs: start one process per GPU with 'accelerate laun"):
        make_arguments(recipe(*files, tmp_path / "run"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read"),
        ("[1]", "holds no JSON object"),
        ('{"lerning_rate": 1}', "names lerning_rate, which this release"),
        ('{"lr_scheduler_type": "no such"}', "Trainer refuses these settings"),
        (
            '{"learning_rate": 1e-7, "bf16": true}',
            r"an option of its own: learning_rate \(--learning-rate\), bf16 \(--bf16\)",
        ),
    ],
)
def test_further_arguments_that_are_none(files, tmp_path, content, message):
    path = tmp_path / "further.json"
    path.write_text(content)
    with pytest.raises(TrainingError, match=message):
        make_arguments(recipe(*files, tmp_path / "run", machine=MachineConfig(trainer_arguments=path)))


@pytest.mark.parametrize(("package", "attempt"), [("bitsandbytes", lambda: quantisation(True))])
def test_a_package_that_is_missing(monkeypatch, package, attempt):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(TrainingError, match=f"needs {package}: pip install {package}"):
        attempt()


def test_a_report_that_needs_a_package(files, tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "wandb" else find(name))
    with pytest.raises(TrainingError, match="report_to wandb needs wandb"):
        train(recipe(*files, tmp_path / "run", report=ReportConfig(report_to=("wandb",))))
    monkeypatch.setattr("transformers.integrations.integration_utils.is_neptune_available", lambda: False)
    with pytest.raises(TrainingError, match="report_to neptune needs a package"):
        train(recipe(*files, tmp_path / "run", report=ReportConfig(report_to=("neptune",))))


def test_an_adapter_of_another_network(files, tmp_path):
    pytest.importorskip("peft")
    result = train(recipe(*files, tmp_path / "run", max_steps=1, method="lora", lora=LoraSettings(merge=False)))
    assert result.model is None
    other = StreamVLNProcessor.tiny().config
    with pytest.raises(CheckpointError, match="does not fit this network"):
        merge_adapter(StreamVLNForConditionalGeneration.from_seed(other), result.adapter)
    for layers, said in ((1, "has no place for 14 matrices"), (3, "would also have 14 matrices")):
        config = thin_processor().config
        config.text_config.num_hidden_layers = layers
        config.text_config.layer_types = ["full_attention"] * layers
        with pytest.raises(CheckpointError, match=f"does not fit this network, which {said}"):
            merge_adapter(StreamVLNForConditionalGeneration.from_seed(config), result.adapter)
    with pytest.raises(CheckpointError, match="holds no adapter"):
        merge_adapter(StreamVLNForConditionalGeneration.from_seed(thin_processor().config), files[1])
    context = json.loads((result.adapter / "context.json").read_text())
    for damaged in ({"num_history": 8}, {**context, "prompt_style": "x"}, {**context, "window_steps": "32"}, []):
        (result.adapter / "context.json").write_text(json.dumps(damaged))
        with pytest.raises(CheckpointError, match=r"context.json is damaged \("):
            merge_adapter(StreamVLNForConditionalGeneration.from_seed(thin_processor().config), result.adapter)


def test_the_folder_of_a_run_is_no_checkpoint_but_has_one(files, tmp_path):
    train(recipe(*files, tmp_path / "run", max_steps=1))
    with pytest.raises(CheckpointError, match=r"run has no config.json: it is the folder of a run, .*run.model: pass"):
        load_checkpoint(tmp_path / "run")
    with pytest.raises(CheckpointError, match=r"run has no config.json: .*run.model: pass that"):
        train(recipe(files[0], tmp_path / "run", tmp_path / "other"))


def test_an_adapter_is_no_checkpoint(files, tmp_path):
    pytest.importorskip("peft")
    train(recipe(*files, tmp_path / "run", max_steps=1, method="lora", lora=LoraSettings(merge=False)))
    for folder in (tmp_path / "run", tmp_path / "run" / "adapter"):
        with pytest.raises(CheckpointError, match=r"run.adapter is an adapter, .*merge_adapter"):
            load_checkpoint(folder)


def test_a_checkpoint_to_resume_from_with_auxiliary_heads_says_so(files, data, tmp_path):
    write_targets(data)
    train(recipe(data, files[1], tmp_path / "run", max_steps=1, auxiliary=(1.0, 1.0)))
    (checkpoint,) = whole_checkpoints(tmp_path / "run")
    with pytest.raises(
        CheckpointError, match=r"unexpected keys: auxiliary.*heads of auxiliary losses.*the run's model/"
    ):
        load_checkpoint(checkpoint)


def test_the_command_says_it_in_one_line(tmp_path):
    with pytest.raises(SystemExit, match=r"^streamvln-gym: .*nowhere.*annotations.json cannot be read"):
        main(["train", "--data", str(tmp_path / "nowhere"), "--out", str(tmp_path / "run")])
