"""Supervised training of StreamVLN on trajectory folders: transformers' Trainer over windows.

Layout of a run's folder::

    training.json        recipe, data, versions, and at the end the result
    checkpoint-<step>/   to resume from; whole if it holds a file `whole`
    model/               the trained network, for `StreamVLNAgent.from_pretrained`
    adapter/             with methods "lora" and "qlora": the adapter alone (peft's format)
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments, set_seed
from transformers.utils import logging

from streamvln_gym.agents.checkpoint import LoadOptions, load_checkpoint
from streamvln_gym.errors import TrainingError
from streamvln_gym.models.modeling_streamvln import StreamVLNForConditionalGeneration
from streamvln_gym.models.processing_streamvln import StreamVLNProcessor
from streamvln_gym.training.adapters import add_adapters, merge_adapter, quantisation, write_context
from streamvln_gym.training.augmentation import Augmentation
from streamvln_gym.training.auxiliary_loss import AuxiliaryLoss
from streamvln_gym.training.config import TrainConfig
from streamvln_gym.training.dataset import StreamVLNWindows
from streamvln_gym.training.folder_lock import make_for_training
from streamvln_gym.training.mixture import EpochSampler, WindowMixture, parse_sources
from streamvln_gym.training.optimizer_groups import AUXILIARY, freeze_parts, optimizer_groups
from streamvln_gym.training.privileged import AuxiliaryConfig
from streamvln_gym.training.run_record import (
    RECORD,
    check_same_run,
    describe_folder,
    describe_windows,
    new_record,
    read_record,
    write_record,
)
from streamvln_gym.training.sft_trainer import CHECKPOINT_PREFIX, SupervisedTrainer, is_write_error, whole_checkpoints
from streamvln_gym.training.start_checks import check_packages, check_recipe, read_processor
from streamvln_gym.training.trainer_arguments import NO_SHARDS, check_disk, make_arguments
from streamvln_gym.training.windows import WindowConfig
from streamvln_gym.whole_writes import whole_folder

MODEL, ADAPTER = "model", "adapter"


@dataclass(frozen=True)
class TrainResult:
    """What a run came to.

    Attributes:
        model: folder that `StreamVLNAgent.from_pretrained` loads; None where adapters were not merged.
        adapter: folder of the adapter; None with method "full".
        steps: of the optimiser.
        loss: mean over this call's steps, in nats per learned token; None if a resumed run had been over.
        eval_loss: on the held-out folders, after the last step.
    """

    model: Path | None
    adapter: Path | None
    steps: int
    loss: float | None = None
    eval_loss: float | None = None


def train(config: TrainConfig) -> TrainResult:
    """Trains, and writes the run's folder (see the module).

    Raises:
        DatasetError: a trajectory folder is malformed, or another process trains in `config.out`.
        CheckpointError: the network to start from cannot be loaded.
        TrainingError: the settings contradict each other or an earlier run; a package is missing; the loss is no
            number; a checkpoint cannot be written.
    """
    if config.report.quiet:
        logging.disable_progress_bar()
    check_recipe(config)
    check_packages(config)
    arguments = make_arguments(config)
    with ExitStack() as stack:
        return _train(config, arguments, stack)


def _train(config: TrainConfig, arguments: TrainingArguments, stack: ExitStack) -> TrainResult:
    set_seed(config.seed)
    processor = read_processor(config.checkpoint)
    config.context.apply(processor.config)
    mixture, held_out = load_data(config, processor)
    model, processor = _load(config, arguments)
    with arguments.main_process_first(desc="start of the run"):
        if arguments.should_save:
            stack.enter_context(make_for_training(config.out))
        record = _start_run(config, mixture, arguments)
    if record["status"] == "finished":
        return _finished(config, record)
    network = _prepare(config, model, processor)
    _forget_halves(config.out, arguments)
    trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
    check_disk(config.out, trained, config.report.keep, len(whole_checkpoints(config.out)))
    group = config.batch.batch_size * arguments.world_size if config.batch.group_by_length else None
    epochs = EpochSampler(mixture, config.seed, config.epoch_windows, group)
    trainer = _make_trainer(config, network, processor, arguments, epochs, held_out)
    saved = whole_checkpoints(config.out)
    began = time.monotonic()
    outcome = trainer.train(resume_from_checkpoint=str(saved[-1]) if saved else None)
    result = TrainResult(
        model=config.out / MODEL if config.method == "full" or config.lora.merge else None,
        adapter=config.out / ADAPTER if config.method != "full" else None,
        steps=outcome.global_step,
        loss=outcome.training_loss,
        eval_loss=_last_eval_loss(trainer),
    )
    groups = _describe_groups(config, network)
    _save(config, trainer, processor)
    if arguments.should_save:
        record |= {
            "status": "finished",
            "steps": result.steps,
            "loss": result.loss,
            "eval_loss": result.eval_loss,
            "groups": groups,
            "seconds": round(time.monotonic() - began, 1),
        }
        write_record(config.out, record)
    return result


def _load(config: TrainConfig, arguments: TrainingArguments) -> tuple[Any, StreamVLNProcessor]:
    """Network and processor to start from."""
    if config.checkpoint is None:
        processor = StreamVLNProcessor.tiny()
        model = StreamVLNForConditionalGeneration.from_seed(processor.config, config.seed)
        dtype = torch.bfloat16 if config.machine.weights == "bfloat16" else torch.float32
        model.to(dtype)  # type: ignore[arg-type]  # transformers hides the signature
        if config.machine.attention:
            model.set_attn_implementation(config.machine.attention)
    else:
        kinds = {"float32": torch.float32, "bfloat16": torch.bfloat16}
        kinds["auto"] = torch.bfloat16 if config.machine.bf16 and config.method != "full" else torch.float32
        options = LoadOptions(attn_implementation=config.machine.attention)
        if config.method == "qlora":
            placed = {"": arguments.device}
            options = dataclasses.replace(
                options, quantization_config=quantisation(config.machine.bf16), device_map=placed
            )
        model, processor = load_checkpoint(config.checkpoint, kinds[config.machine.weights], "cpu", options)
    for network in (model.config, processor.config):
        config.context.apply(network)
    # What training writes answers in the training dialogue, at once.
    model.config.prompt_style = "trained"
    model.config.trained = True
    # FSDP wraps these layers one by one, and refuses names that transformers lists but this network leaves out.
    present = {type(module).__name__ for module in model.modules()}
    model._no_split_modules = [name for name in model._no_split_modules if name in present]  # type: ignore[assignment]
    return model, processor


def load_data(config: TrainConfig, processor: StreamVLNProcessor) -> tuple[WindowMixture, StreamVLNWindows | None]:
    """The windows to train on, and those held out; the first of each folder are read, see `StreamVLNWindows.check`.

    Raises:
        DatasetError: a trajectory folder is malformed, or lacks what this training needs.
    """
    cut = WindowConfig(seed=config.seed, published_label_mask=config.published_label_mask)
    augmentation = Augmentation(config.augmentation, config.seed) if config.augmentation.wanted else None
    sources = parse_sources(config.data)
    mixture = WindowMixture(
        sources,
        [
            StreamVLNWindows(source.folder, processor, cut, True, augmentation, privileged=config.auxiliary is not None)
            for source in sources
        ],
    )
    held_out = StreamVLNWindows(config.held_out, processor, cut) if config.held_out else None
    for windows in (*mixture.windows, *([held_out] if held_out else [])):
        windows.check()
    return mixture, held_out


def _prepare(config: TrainConfig, model: StreamVLNForConditionalGeneration, processor: StreamVLNProcessor) -> Any:
    """Chooses what is trained."""
    if config.method == "full":
        if config.auxiliary:
            AuxiliaryLoss(model, processor.turn_end_id, AuxiliaryConfig(*config.auxiliary))
        freeze_parts(model, config.parts)
        return model
    return add_adapters(model, config.lora, config.parts, quantised=config.method == "qlora")


def _make_trainer(
    config: TrainConfig,
    network: Any,
    processor: StreamVLNProcessor,
    arguments: TrainingArguments,
    epochs: EpochSampler,
    held_out: StreamVLNWindows | None,
) -> SupervisedTrainer:
    trainer = SupervisedTrainer(
        model=network,
        args=arguments,
        epochs=epochs,
        optimiser=config.optimiser,
        keep=config.report.keep,
        processor=processor,
        eval_dataset=held_out,
    )
    wanted = (config.machine.fsdp is not None, config.machine.deepspeed is not None)
    if any(wanted) and wanted != (trainer.is_fsdp_enabled, trainer.is_deepspeed_enabled):
        raise TrainingError(NO_SHARDS)  # on CPUs, accelerate passes over both in silence
    return trainer


def _describe_groups(config: TrainConfig, network: Any) -> list[dict[str, Any]]:
    """The optimiser's parameter groups, with numbers in place of the parameters."""
    return [
        {**group, "params": sum(parameter.numel() for parameter in group["params"])}
        for group in optimizer_groups(network, config.optimiser)
    ]


def describe_run(config: TrainConfig, mixture: WindowMixture, processes: int) -> dict[str, Any]:
    """The record of a new run."""
    data = [
        {**describe_folder(source.folder), **describe_windows(windows), "weight": weight}
        for source, windows, weight in zip(mixture.sources, mixture.windows, mixture.weights, strict=True)
    ]
    shown = [describe_folder(Path(folder)) for folder in config.held_out]
    return new_record(config, data, shown, processes)


def earlier_run(config: TrainConfig, record: dict[str, Any], may_exist: bool = False) -> dict[str, Any] | None:
    """The record of the run that is gone on with; None where a new one starts.

    Args:
        config: the recipe.
        record: as a new run's would be.
        may_exist: pass over a run that is there without `resume`: its folder is another process's to judge.

    Raises:
        TrainingError: the folder holds a run that is not to be resumed, or another one.
    """
    if config.out.exists() and not config.out.is_dir():
        raise TrainingError(f"{config.out} is a file: choose a folder for the run")
    before = read_record(config.out)
    networks = [config.out / name for name in (MODEL, ADAPTER) if (config.out / name).exists()]
    if before is None:
        if foreign := [*networks, *sorted(config.out.glob(f"{CHECKPOINT_PREFIX}*"))]:
            raise TrainingError(
                f"{foreign[0]} is there, but no {config.out / RECORD} that says of which run: choose another folder"
            )
        return None
    if not networks and not whole_checkpoints(config.out):  # it saved nothing: start anew, with any recipe
        return None
    if not config.resume:
        if not may_exist:
            raise TrainingError(f"{config.out} holds a run already: go on with it (resume), or choose another folder")
        return before
    check_same_run(config.out, before, record)
    return before


def _start_run(config: TrainConfig, mixture: WindowMixture, arguments: TrainingArguments) -> dict[str, Any]:
    """The record of this run: a new one, or the one that is resumed."""
    record = describe_run(config, mixture, arguments.world_size)
    before = earlier_run(config, record, may_exist=not arguments.should_save)
    if before is not None:
        return before
    if arguments.should_save:
        write_record(config.out, record)
    return record


def _finished(config: TrainConfig, record: dict[str, Any]) -> TrainResult:
    found = {name: folder if (folder := config.out / name).is_dir() else None for name in (MODEL, ADAPTER)}
    return TrainResult(found[MODEL], found[ADAPTER], record["steps"], None, record["eval_loss"])


def _forget_halves(out: Path, arguments: TrainingArguments) -> None:
    """Removes checkpoints that a kill left half-written."""
    if arguments.should_save:
        whole = set(whole_checkpoints(out))
        for folder in out.glob(f"{CHECKPOINT_PREFIX}*"):
            if folder not in whole:
                shutil.rmtree(folder)


def _last_eval_loss(trainer: SupervisedTrainer) -> float | None:
    if trainer.eval_dataset is None:
        return None
    last = [row for row in trainer.state.log_history if "eval_loss" in row and row["step"] == trainer.state.global_step]
    value = last[-1]["eval_loss"] if last else trainer.evaluate()["eval_loss"]
    return float(value)


def _save(config: TrainConfig, trainer: SupervisedTrainer, processor: StreamVLNProcessor) -> None:
    """Writes model/ and adapter/, each whole or not at all."""
    state = trainer.accelerator.get_state_dict(trainer.model_wrapped)  # every process takes part
    if not trainer.args.should_save:
        return
    network = trainer.accelerator.unwrap_model(trainer.model)
    kept = {name: value for name, value in state.items() if f"{AUXILIARY}." not in name}
    try:
        if config.method == "full":
            with whole_folder(config.out / MODEL) as folder:
                written = _cast(kept, network, config.machine.bf16)
                dtype = next(value.dtype for value in written.values() if value.is_floating_point())
                network.save_pretrained(str(folder), state_dict=written)  # which empties the dictionary
                _say_dtype(folder, dtype)
                processor.save_pretrained(folder)
            return
        with whole_folder(config.out / ADAPTER) as folder:
            network.save_pretrained(str(folder), state_dict=kept)
            write_context(network.get_base_model().config, folder)
        if config.lora.merge:
            _write_merged(config, processor)
    except Exception as error:
        if not is_write_error(error):
            raise
        raise TrainingError(
            f"the result cannot be written to {config.out}: {error}. The checkpoints are kept: free disk space, then "
            "go on with resume"
        ) from error


def _cast(state: dict[str, torch.Tensor], network: Any, bf16: bool) -> dict[str, torch.Tensor]:
    """The weights to write; a tied head is written once, as the embeddings."""
    if network.config.tie_word_embeddings:
        state = {name: value for name, value in state.items() if name != "lm_head.weight"}
    if not bf16:
        return state
    return {name: v.to(torch.bfloat16) if v.is_floating_point() else v for name, v in state.items()}


def _say_dtype(folder: Path, dtype: torch.dtype) -> None:
    """Puts the weights' dtype into config.json, where transformers writes that of the network in memory."""
    path = folder / "config.json"
    values = json.loads(path.read_text(encoding="utf-8")) | {"dtype": str(dtype).removeprefix("torch.")}
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def _write_merged(config: TrainConfig, processor: StreamVLNProcessor) -> None:
    """The network that training began with, loaded anew and unquantised, with the adapter in its weights."""
    if config.checkpoint is None:
        base = StreamVLNForConditionalGeneration.from_seed(processor.config, config.seed)
    else:
        dtype = torch.bfloat16 if config.machine.bf16 else torch.float32
        base, _ = load_checkpoint(config.checkpoint, dtype)
    merged = merge_adapter(base, config.out / ADAPTER)
    with whole_folder(config.out / MODEL) as folder:
        merged.save_pretrained(str(folder))
        processor.save_pretrained(folder)
