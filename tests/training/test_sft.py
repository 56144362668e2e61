"""Supervised training from end to end: it learns, resumes exactly, and writes what the agent loads."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

pytest.importorskip("accelerate")

from streamvln_gym.agents import StreamVLNAgent
from streamvln_gym.cli import main
from streamvln_gym.models import StreamVLNForConditionalGeneration
from streamvln_gym.models.conversion import convert_checkpoint
from streamvln_gym.training import AugmentationConfig, StreamVLNCollator, StreamVLNWindows, train
from streamvln_gym.training.adapters import merge_adapter
from streamvln_gym.training.config import (
    BatchConfig,
    ContextConfig,
    EstimateConfig,
    LoraSettings,
    MachineConfig,
    OptimiserConfig,
    ReportConfig,
)
from streamvln_gym.training.dry_run import dry_run
from streamvln_gym.training.sft_trainer import SupervisedTrainer, _Checkpoints
from streamvln_gym.training.trainer_arguments import make_arguments, trainer_arguments
from tests.golden_streamvln import VISION_CONFIG, write_published_checkpoint
from tests.training.demonstrations import (
    ACTIONS,
    INSTRUCTION,
    picture,
    recipe,
    thin_processor,
    weights,
    write_checkpoint,
    write_demonstrations,
)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Demonstrations and a network to start from."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("sft")
    return write_demonstrations(root / "data"), write_checkpoint(root / "thin")


def test_it_learns_and_the_agent_plays_it(files, tmp_path):
    """Loss below 0.05, and the demonstrated actions, over a window's end with its memory."""
    config = recipe(
        *files,
        tmp_path / "run",
        epochs=40,
        held_out=(str(files[0]),),
        batch=BatchConfig(batch_size=4, group_by_length=True),
        optimiser=OptimiserConfig(learning_rate=5e-3),
        report=ReportConfig(quiet=True, eval_every=20, save_every=20),
    )
    result = train(config)
    assert result.steps == 40
    assert result.eval_loss < 0.05
    assert result.model == tmp_path / "run" / "model"
    for colour, expected in ACTIONS.items():
        agent = StreamVLNAgent.from_pretrained(result.model)
        assert agent.trained
        observations = ({"rgb": picture(colour, step), "instruction": INSTRUCTION} for step in range(10))
        assert [agent.act(obs) for obs in observations] == expected
    record = json.loads((tmp_path / "run" / "training.json").read_text())
    assert record["status"] == "finished"
    assert record["data"][0]["windows"] == 4
    assert record["eval_loss"] == result.eval_loss
    assert record["config"]["optimiser.learning_rate"] == 5e-3
    assert record["versions"]["torch"] == torch.__version__
    assert sum(group["params"] for group in record["groups"]) == sum(v.numel() for v in agent.model.parameters())
    left = {path.name for path in (tmp_path / "run").iterdir()}
    assert left == {"training.json", "model", "checkpoint-20", "checkpoint-40"}
    played = StreamVLNAgent.from_pretrained(tmp_path / "run" / "checkpoint-20")
    assert played.trained, "a checkpoint can be played as well"


def dying_run(config, at_save, when):
    """Runs `config` in a forked process that kills itself during its save number `at_save`; returns its status."""
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    try:
        saves = 0
        finish = _Checkpoints.on_save

        def on_save(self, *args, **kwargs):
            nonlocal saves
            saves += 1
            if saves == at_save and when == "before the marker":
                os.kill(os.getpid(), signal.SIGKILL)
            finish(self, *args, **kwargs)
            if saves == at_save:
                os.kill(os.getpid(), signal.SIGKILL)

        _Checkpoints.on_save = on_save
        train(config)
    finally:
        os._exit(1)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize(
    ("when", "changes"),
    [
        # Killed in the middle of the second epoch, with adapters' dropout, jitters, and windows grouped by length.
        (
            "after the save",
            {
                "method": "lora",
                "lora": LoraSettings(rank=4, dropout=0.2, train_head=True, merge=False),
                "augmentation": AugmentationConfig(brightness=0.3),
                "batch": BatchConfig(batch_size=1, accumulate=2, group_by_length=True),
                "report": ReportConfig(quiet=True, save_every=3),
            },
        ),
        # Killed at the end of the second epoch, before its checkpoint was whole: the first one's counts.
        ("before the marker", {"batch": BatchConfig(batch_size=1), "report": ReportConfig(quiet=True)}),
    ],
)
def test_a_killed_run_goes_on_as_if_nothing_had_been(files, tmp_path, when, changes):
    whole = recipe(*files, tmp_path / "whole", epochs=3, **changes)
    expected = train(whole)
    killed = replace(whole, out=tmp_path / "killed")
    at_save = 1 if when == "after the save" else 2
    assert os.WTERMSIG(dying_run(killed, at_save, when)) == signal.SIGKILL
    halves = [folder for folder in killed.out.glob("checkpoint-*") if not (folder / "whole").exists()]
    assert len(halves) == (when == "before the marker")
    result = train(replace(killed, resume=True))
    assert result.steps == expected.steps
    if expected.model:
        ours, theirs = weights(result.model), weights(expected.model)
    else:
        ours, theirs = adapter_weights(result.adapter), adapter_weights(expected.adapter)
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        assert torch.equal(ours[name], value), name
    again = train(replace(killed, resume=True))
    assert again.steps == expected.steps and again.loss is None, "a finished run is not trained again"


def adapter_weights(folder):
    from safetensors.torch import load_file

    return load_file(folder / "adapter_model.safetensors")


def test_another_seed_gives_other_weights_and_the_same_the_same(files, tmp_path):
    runs = [
        weights(train(recipe(*files, tmp_path / name, epochs=1, seed=seed)).model)
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    ]
    name = "language_model.layers.0.mlp.up_proj.weight"
    assert torch.equal(runs[0][name], runs[1][name])
    assert not torch.equal(runs[0][name], runs[2][name])


def test_workers_change_nothing(files, tmp_path):
    """Epochs reach processes that live on: conjunctions and jitters are those of training without workers."""
    settings = {"epochs": 2, "augmentation": AugmentationConfig(brightness=0.3, hue=0.1)}
    results = [
        weights(train(recipe(*files, tmp_path / str(workers), batch=BatchConfig(2, workers=workers), **settings)).model)
        for workers in (0, 2)
    ]
    assert all(torch.equal(results[1][name], value) for name, value in results[0].items())


def test_only_the_named_parts_change(files, tmp_path):
    before = weights(files[1])
    after = weights(train(recipe(*files, tmp_path / "run", epochs=1, parts=("projector",))).model)
    changed = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert changed == {f"projector.linear_{i}.{kind}" for i in (1, 2) for kind in ("weight", "bias")}


def test_accumulated_gradients_are_those_of_one_batch(files, tmp_path):
    """Also where the windows of a step have different numbers of targets."""
    results = []
    for name, batch in {"one": BatchConfig(4), "four": BatchConfig(1, accumulate=4)}.items():
        config = recipe(*files, tmp_path / name, epochs=2, batch=batch)
        results.append(weights(train(replace(config, optimiser=OptimiserConfig(learning_rate=1e-3))).model))
    for name, value in results[0].items():
        torch.testing.assert_close(results[1][name], value, rtol=0, atol=2e-4, msg=name)


def test_adapters_round_trip(files, tmp_path):
    """The merged model answers as the adapted one; the adapter can be merged later; the base is left alone."""
    peft = pytest.importorskip("peft")
    lora = LoraSettings(rank=4, dropout=0.0, train_head=True)
    config = recipe(*files, tmp_path / "run", method="lora", lora=lora)
    result = train(config)
    assert result.adapter == tmp_path / "run" / "adapter"
    base = StreamVLNForConditionalGeneration.from_pretrained(files[1])
    windows = StreamVLNWindows(files[0], thin_processor())
    batch = StreamVLNCollator()([windows[0], windows[1]])
    batch.pop("window", None)
    with torch.inference_mode():
        untouched = base(**batch).loss
        adapted = peft.PeftModel.from_pretrained(base, result.adapter)
        expected = adapted(**batch).loss
        merged = StreamVLNAgent.from_pretrained(result.model)
        assert merged.trained
        torch.testing.assert_close(merged.model(**batch).loss, expected, rtol=1e-4, atol=1e-5)
        later = merge_adapter(StreamVLNForConditionalGeneration.from_pretrained(files[1]), result.adapter)
        torch.testing.assert_close(later(**batch).loss, expected, rtol=1e-4, atol=1e-5)
    assert expected < untouched - 0.1


@pytest.mark.parametrize("method", ["full", "lora"])
def test_another_memory_and_window(files, tmp_path, method):
    """What it is trained with is what every agent of the result shows; the dry run sees it too."""
    context = ContextConfig("full", num_history=1, window_steps=4)
    config = recipe(*files, tmp_path / "run", max_steps=1, method=method, context=context)
    before = recipe(*files, tmp_path / "run", max_steps=1, method=method)
    assert dry_run(before, EstimateConfig(1, 4)).windows == 4
    assert dry_run(config, EstimateConfig(1, 4)).windows == 6
    assert train(config).model == tmp_path / "run" / "model"
    record = json.loads((tmp_path / "run" / "training.json").read_text())
    assert record["data"][0]["windows"] == 6
    agent = StreamVLNAgent.from_pretrained(tmp_path / "run" / "model")
    network = agent.processor.config
    assert (network.memory_strategy, network.num_history, network.window_steps) == ("full", 1, 4)
    for step in range(9):
        agent.act({"rgb": picture("red", step), "instruction": INSTRUCTION})
    call = agent.last_call
    shown = call.prefill_length - (len(call.prompt_ids) - 2)  # in place of the two marks, of the memory and the frame
    assert len(call.history_steps) == 1
    assert shown == network.patches_per_side**2 + network.tokens_per_frame
    if method == "lora":
        base = StreamVLNForConditionalGeneration.from_pretrained(files[1])
        assert (base.config.memory_strategy, base.config.window_steps) != ("full", 4)
        later = merge_adapter(base, tmp_path / "run" / "adapter").config
        assert (later.memory_strategy, later.num_history, later.window_steps) == ("full", 1, 4)
        assert later.prompt_style == "trained"


@pytest.mark.parametrize("changes", [{"num_history": -1}, {"window_steps": 0}])
def test_bad_memory_and_window(changes):
    with pytest.raises(ValueError, match="must be at least"):
        ContextConfig(**changes)


def test_small_precision_and_checkpointed_activations(files, tmp_path):
    config = recipe(*files, tmp_path / "run", epochs=1, machine=MachineConfig(bf16=True, gradient_checkpointing=True))
    result = train(config)
    said = json.loads((result.model / "config.json").read_text())["dtype"]
    assert said == "bfloat16", "which loading with device_map or quantised goes by"
    from safetensors import safe_open

    with safe_open(result.model / "model.safetensors", "pt") as file:
        assert file.get_tensor("projector.linear_1.weight").dtype == torch.bfloat16
    with safe_open(tmp_path / "run" / "checkpoint-2" / "model.safetensors", "pt") as file:
        assert file.get_tensor("projector.linear_1.weight").dtype == torch.float32, "trained in full precision"


def test_a_loss_with_checkpointed_activations_is_the_same(files, tmp_path):
    losses = [
        train(recipe(*files, tmp_path / str(flag), epochs=2, machine=MachineConfig(gradient_checkpointing=flag))).loss
        for flag in (False, True)
    ]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_the_package_s_own_network_by_command(files, tmp_path, capsys):
    """Without a checkpoint: the small network; two folders by weight; a log for TensorBoard."""
    pytest.importorskip("tensorboard")
    more = write_demonstrations(tmp_path / "more", ("red",))
    out = tmp_path / "run"
    main(
        ["train", "--data", f"{files[0]}=2", f"{more}=1", "--out", str(out), "--max-steps", "1"]
        + ["--epoch-windows", "6", "--quiet", "True", "--report-to", "tensorboard"]
    )
    printed = capsys.readouterr().out
    assert f"play it with: streamvln-gym rollout --agent streamvln --checkpoint {out}/model" in printed
    record = json.loads((out / "training.json").read_text())
    assert [entry["weight"] for entry in record["data"]] == [2.0, 1.0]
    assert list(out.rglob("events.out.tfevents.*"))
    assert StreamVLNAgent.from_pretrained(out / "model").trained


def test_a_published_checkpoint_goes_on_in_the_training_dialogue(files, tmp_path):
    """Its weights are trained further, its head is its own, and it then answers at once as it was trained to."""
    published = write_published_checkpoint(tmp_path / "published")
    convert_checkpoint(published, tmp_path / "converted", VISION_CONFIG)
    before = StreamVLNAgent.from_pretrained(tmp_path / "converted").model
    assert before.config.prompt_style == "published"
    result = train(recipe(files[0], tmp_path / "converted", tmp_path / "run", max_steps=2, published_label_mask=True))
    agent = StreamVLNAgent.from_pretrained(result.model)
    assert agent.model.config.prompt_style == "trained"
    assert not torch.equal(agent.model.lm_head.weight.float(), before.lm_head.weight.float())
    assert agent.act({"rgb": picture("red", 0), "instruction": INSTRUCTION}) in range(4)


def test_arguments_reach_the_trainer(files, tmp_path):
    fsdp, deepspeed, further = (tmp_path / name for name in ("fsdp.json", "deepspeed.json", "further.json"))
    fsdp.write_text('{"fsdp_reshard_after_forward": false}')
    deepspeed.write_text('{"zero_optimization": {"stage": 3}}')
    further.write_text('{"optim": "adafactor", "torch_empty_cache_steps": 7}')
    base = recipe(*files, tmp_path / "run", optimiser=OptimiserConfig(min_rate=0.2, warmup=5, adam_beta2=0.95))
    values = trainer_arguments(replace(base, machine=MachineConfig(fsdp=fsdp)))
    assert values["fsdp"] in (True, "full_shard auto_wrap")
    assert values["fsdp_config"] == {"version": 2, "reshard_after_forward": False}
    arguments = make_arguments(replace(base, machine=MachineConfig(trainer_arguments=further)))
    assert arguments.torch_empty_cache_steps == 7
    assert arguments.optim == "adafactor"
    assert (arguments.lr_scheduler_type, arguments.lr_scheduler_kwargs) == ("cosine_with_min_lr", {"min_lr_rate": 0.2})
    assert (arguments.warmup_steps, arguments.adam_beta2, arguments.max_grad_norm) == (5, 0.95, 1.0)
    assert arguments.use_cpu
    assert not arguments.remove_unused_columns


def test_deepspeed_s_file_reaches_the_trainer(files, tmp_path, monkeypatch):
    path = tmp_path / "deepspeed.json"
    path.write_text('{"zero_optimization": {"stage": 3}}')
    monkeypatch.setattr("streamvln_gym.training.trainer_arguments.require", lambda *names: None)
    values = trainer_arguments(recipe(*files, tmp_path / "run", machine=MachineConfig(deepspeed=path)))
    assert values["deepspeed"] == {"zero_optimization": {"stage": 3}}


def test_the_schedule_ends_at_its_minimum(files, tmp_path):
    config = recipe(*files, tmp_path / "run", optimiser=OptimiserConfig(learning_rate=1e-3, min_rate=0.25, warmup=2))
    rates = []
    log = SupervisedTrainer.log
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            SupervisedTrainer, "log", lambda self, logs, *rest: (rates.append(logs), log(self, logs, *rest))[1]
        )
        train(replace(config, report=ReportConfig(quiet=True, log_every=1)))
    rates = [row["learning_rate"] for row in rates if "learning_rate" in row]
    assert max(rates) == pytest.approx(1e-3)
    assert rates[:3] == pytest.approx([0.0, 5e-4, 1e-3], abs=1e-6)
    assert rates[-1] == pytest.approx(2.5e-4, rel=0.15)


def test_every_epoch_has_its_own_order(files, tmp_path, monkeypatch):
    """Each window once an epoch; other conjunctions, and another order, in the next."""
    seen = []
    loss = SupervisedTrainer.compute_loss

    def compute_loss(self, model, inputs, *args, **kwargs):
        seen.append((int(inputs["window"]), tuple(inputs["input_ids"][0].tolist())))
        return loss(self, model, inputs, *args, **kwargs)

    monkeypatch.setattr(SupervisedTrainer, "compute_loss", compute_loss)
    train(recipe(*files, tmp_path / "run", epochs=6, batch=BatchConfig(1)))
    epochs = [[window for window, _ in seen[start : start + 4]] for start in range(0, 24, 4)]
    assert all(sorted(epoch) == [0, 1, 2, 3] for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 3
    assert len({ids for window, ids in seen if window == 0}) > 1


def test_four_bit_weights_with_adapters(files, tmp_path):
    pytest.importorskip("peft")
    pytest.importorskip("bitsandbytes")
    machine = MachineConfig(bf16=True, gradient_checkpointing=True)
    config = recipe(*files, tmp_path / "run", method="qlora", lora=LoraSettings(rank=4), machine=machine)
    result = train(config)
    model = StreamVLNAgent.from_pretrained(result.model, dtype="bfloat16").model
    before, after = weights(files[1]), model.state_dict()
    name = "language_model.layers.1.mlp.up_proj.weight"
    moved = (after[name].float() - before[name]).abs().max()
    assert 1e-4 < moved < 0.1, "the unquantised weights, with the adapter in them"


SEVERAL_PROCESSES = """
import os
import sys
from pathlib import Path

import torch
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType

from streamvln_gym.training import sft_trainer, train
from streamvln_gym.training.config import BatchConfig, MachineConfig, ReportConfig
from tests.training.demonstrations import recipe

finish = sft_trainer._Checkpoints.on_save
start = AcceleratorState.__init__


def die_after_saving(self, *args, **kwargs):
    finish(self, *args, **kwargs)
    torch.distributed.barrier()
    os._exit(9)


def start_with_shards(self, *args, **kwargs):
    start(self, *args, **kwargs)
    if kwargs.get("fsdp_plugin") is not None:
        self.fsdp_plugin = kwargs["fsdp_plugin"]
        self.distributed_type = PartialState._shared_state["distributed_type"] = DistributedType.FSDP


if __name__ == "__main__":
    torch.set_num_threads(1)
    AcceleratorState.__init__ = start_with_shards  # accelerate offers FSDP on accelerators only; gloo can do it too
    data, thin, out = map(Path, sys.argv[1:4])
    if "dies" in sys.argv:
        sft_trainer._Checkpoints.on_save = die_after_saving
    settings = {"epochs": 3, "batch": BatchConfig(1), "report": ReportConfig(quiet=True, save_every=3)}
    shards = [argument for argument in sys.argv if argument.endswith(".json")]
    machine = MachineConfig(fsdp=Path(shards[0]) if shards else None)
    train(recipe(data, thin, out, machine=machine, resume="resume" in sys.argv, **settings))
"""


@pytest.mark.long
@pytest.mark.parametrize("shards", [None, "FULL_STATE_DICT", "SHARDED_STATE_DICT"])
def test_two_processes_learn_what_one_does(files, tmp_path, shards):
    """Over gloo, data-parallel or with shards (FSDP2): one process's weights but for rounding; resumed, the same."""
    one = train(recipe(*files, tmp_path / "one", epochs=3, batch=BatchConfig(2)))
    script, settings = tmp_path / "several.py", tmp_path / "fsdp.json"
    script.write_text(SEVERAL_PROCESSES)
    settings.write_text(json.dumps({"version": 2, "state_dict_type": shards}))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *sys.path[1:]])}
    environment |= {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}

    def run(name, *flags):
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        further = [*flags, str(settings)] if shards else [*flags]
        command = [sys.executable, *launcher, str(script), *map(str, files), str(tmp_path / name), *further]
        return subprocess.run(command, env=environment, timeout=300).returncode

    assert run("two") == 0
    assert json.loads((tmp_path / "two" / "training.json").read_text())["processes"] == 2
    expected, found = weights(one.model), weights(tmp_path / "two" / "model")
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=5e-4, msg=name)
    assert run("cut", "dies") != 0
    assert (tmp_path / "cut" / "checkpoint-3" / "whole").exists()
    assert not (tmp_path / "cut" / "model").exists()
    assert run("cut", "resume") == 0
    resumed = weights(tmp_path / "cut" / "model")
    assert all(torch.equal(resumed[name], value) for name, value in found.items())
