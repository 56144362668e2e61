"""Published StreamVLN checkpoints: key names, configuration, loading shard by shard, conversion to our format."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, Qwen2Config, SiglipVisionConfig

from streamvln_gym.errors import CheckpointError
from streamvln_gym.models.configuration_streamvln import StreamVLNConfig
from streamvln_gym.models.modeling_streamvln import StreamVLNForConditionalGeneration
from streamvln_gym.models.processing_streamvln import StreamVLNProcessor, load_tokenizer
from streamvln_gym.models.tensor_files import DTYPES, StoredTensor, find_tensors, write_tensors

PUBLISHED_MODEL_TYPE = "llava_qwen"
PUBLISHED_ARCHITECTURE = "StreamVLNForCausalLM"
CHECKSUMS_NAME = "conversion.json"
SMALL_BYTES = 2 * 10**9  # of bfloat16 weights; twice as many in float32 are no burden where a network runs on a CPU

# Published key -> ours; the first rule that matches counts.
RENAMED = (
    (r"^model\.vision_tower\.vision_tower\.vision_model\.", "vision_tower."),
    (r"^model\.mm_projector\.0\.", "projector.linear_1."),
    (r"^model\.mm_projector\.2\.", "projector.linear_2."),
    (r"^lm_head\.", "lm_head."),
    (r"^model\.(?=embed_tokens\.|layers\.|norm\.)", "language_model."),
)
# In published files, but without any effect on the published network's output.
UNUSED = (
    r"\.vision_model\.post_layernorm\.(weight|bias)$",  # computed there and thrown away
    r"\.vision_model\.head\.",  # SigLIP's own pooling head
    r"\.embeddings\.position_ids$",
    r"\.rotary_emb\.inv_freq$",
    r"^model\.image_newline$",
)
# SigLIP-SO400M/14-384, which the published code names by hand: the sizes are in no config.json.
SO400M = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "image_size": 384,
    "patch_size": 14,
    "layer_norm_eps": 1e-6,
    "hidden_act": "gelu_pytorch_tanh",
}
# Qwen2's ids of the strings that the dialogue is made of.
PUBLISHED_TOKENS = {
    "<|im_start|>": 151644,
    "<|im_end|>": 151645,
    "\n": 198,
    "STOP": 50669,
    "↑": 76286,
    "←": 71858,
    "→": 51018,
}
_SIZES = (
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_hidden_layers",
    "num_key_value_heads",
    "vocab_size",
)
_TEXT_FIELDS = (
    "attention_dropout",
    "bos_token_id",
    "eos_token_id",
    "hidden_act",
    "hidden_size",
    "initializer_range",
    "intermediate_size",
    "max_position_embeddings",
    "max_window_layers",
    "num_attention_heads",
    "num_hidden_layers",
    "num_key_value_heads",
    "rms_norm_eps",
    "rope_parameters",
    "rope_scaling",
    "rope_theta",
    "sliding_window",
    "tie_word_embeddings",
    "use_cache",
    "use_sliding_window",
    "vocab_size",
)


def is_published(values: Mapping[str, Any]) -> bool:
    """Whether a config.json's values are those of the published format."""
    architectures = values.get("architectures") or []
    return values.get("model_type") == PUBLISHED_MODEL_TYPE or PUBLISHED_ARCHITECTURE in architectures


def our_key(key: str) -> str | None:
    """Our name of a published tensor, None where it has no counterpart."""
    if any(re.search(pattern, key) for pattern in UNUSED):
        return None
    for pattern, ours in RENAMED:
        if re.match(pattern, key):
            return re.sub(pattern, ours, key)
    return None


def config_from_published(
    values: Mapping[str, Any],
    vision_config: Mapping[str, Any] | SiglipVisionConfig | None = None,
    tower_layers: int | None = None,
) -> StreamVLNConfig:
    """Our configuration of a published checkpoint.

    Args:
        values: its config.json.
        vision_config: SigLIP's sizes; default (and for what is left out): SO400M/14-384's.
        tower_layers: layers that the checkpoint's tower holds. The published network drops SigLIP's last one, so
            `vision_config` may count one more.

    Raises:
        CheckpointError: a value is missing or cannot be used.
    """
    absent = [name for name in _SIZES if values.get(name) is None]
    if all(values.get(name) is None for name in ("rope_theta", "rope_parameters")):
        absent.append("rope_theta")
    if absent:
        raise CheckpointError(f"the published config.json lacks {', '.join(absent)}: copy it from the checkpoint again")
    if vision_config is not None and not isinstance(vision_config, (Mapping, SiglipVisionConfig)):
        raise CheckpointError(
            f"vision_config must be a SiglipVisionConfig or a dict of its sizes, got {vision_config!r}"
        )
    given = vision_config.to_dict() if isinstance(vision_config, SiglipVisionConfig) else dict(vision_config or {})
    vision = {**SO400M, **{name: value for name, value in given.items() if name in SO400M}, "vision_use_head": False}
    kept = vision["num_hidden_layers"] - 1
    if vision_config is not None and tower_layers == vision["num_hidden_layers"]:
        kept = tower_layers
    vision["num_hidden_layers"] = kept
    projector = values.get("mm_projector_type", "mlp2x_gelu")
    if projector != "mlp2x_gelu":
        raise CheckpointError(f"config.json names the projector {projector!r}; only 'mlp2x_gelu' is supported")
    mode = values.get("mm_spatial_pool_mode") or "bilinear"
    try:
        text = Qwen2Config(**{name: values[name] for name in _TEXT_FIELDS if values.get(name) is not None})
        config = StreamVLNConfig(
            SiglipVisionConfig(**vision),
            text,
            pooling_mode=mode,
            pooling_stride=values.get("mm_spatial_pool_stride") or 2,
            pooling_ceil_mode=mode == "bilinear",
            num_history=8 if values.get("num_history") is None else values["num_history"],
            chunk_size=values.get("num_future_steps") or 4,
            prompt_style="published",
            memory_prompt="evaluation",
            trained=True,
        )
    except (ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"the published config.json is no usable configuration: {error}") from error
    return config


def published_config(folder: Path, vision_config: Mapping[str, Any] | SiglipVisionConfig | None) -> StreamVLNConfig:
    """Reads a published folder's configuration; see `config_from_published`."""
    values = read_json(folder / "config.json")
    layers = [re.search(r"vision_model\.encoder\.layers\.(\d+)\.", key) for key in find_tensors(folder)]
    numbers = {int(match[1]) for match in layers if match}
    return config_from_published(values, vision_config, max(numbers, default=-1) + 1)


def published_processor(config: StreamVLNConfig, folder: Path) -> StreamVLNProcessor:
    """The checkpoint's tokenizer, checked against the ids that published weights know.

    Raises:
        CheckpointError: the tokenizer is missing or another one; the strings that differ are listed.
    """
    tokenizer = load_tokenizer(folder)
    wrong = []
    for string, expected in PUBLISHED_TOKENS.items():
        ids = tokenizer.encode(string, add_special_tokens=False)
        if ids != [expected]:
            wrong.append(f"{string!r} gives {ids} instead of [{expected}]")
    if wrong:
        raise CheckpointError(
            f"the tokenizer in {folder} is not the one of published StreamVLN checkpoints (Qwen2's): "
            f"{'; '.join(wrong)}. Copy the checkpoint's own tokenizer.json and tokenizer_config.json there"
        )
    return StreamVLNProcessor(config, tokenizer)


def match_tensors(
    found: Mapping[str, StoredTensor], config: StreamVLNConfig, published: bool
) -> dict[str, StoredTensor]:
    """Our parameter names with the stored tensors that fill them.

    Raises:
        CheckpointError: keys are missing, surplus or misshaped; all are listed by their names in the files.
    """
    with torch.device("meta"):
        expected = {
            name: tuple(tensor.shape) for name, tensor in StreamVLNForConditionalGeneration(config).state_dict().items()
        }
    if config.tie_word_embeddings:
        expected.pop("lm_head.weight")
    matched: dict[str, StoredTensor] = {}
    names: dict[str, str] = {}
    surplus = []
    for key, stored in found.items():
        name = our_key(key) if published else key
        if name in expected:
            matched[name], names[name] = stored, key
        elif not (published and any(re.search(pattern, key) for pattern in UNUSED)):
            surplus.append(key)
    problems = []
    missing = [name for name in expected if name not in matched]
    if missing:
        missing = [published_key(name) if published else name for name in missing]
        problems.append(_problem("missing keys", missing))
    if surplus:
        problems.append(_problem("unexpected keys", surplus))
    misshaped = [
        f"{names[name]} is {stored.shape} instead of {expected[name]}"
        for name, stored in matched.items()
        if stored.shape != expected[name]
    ]
    if misshaped:
        problems.append(_problem("mismatched keys", misshaped))
    if problems:
        hint = ""
        if published and any("vision_tower" in problem or "mm_projector" in problem for problem in problems):
            vision = config.vision_config
            hint = (
                f". The vision tower was taken to be {vision.hidden_size} wide with {vision.num_hidden_layers} layers "
                "kept; where it is another one, pass its sizes as vision_config="
            )
        folder = next(iter(found.values())).file.parent if found else Path()
        cause = "weights and configuration must come from one checkpoint"
        if len(problems) == 1 and surplus and all(key.startswith("auxiliary.") for key in surplus):
            cause = (
                "these are the heads of auxiliary losses, which only a checkpoint to resume training from has: pass "
                "the run's model/, which is written at its end without them"
            )
        raise CheckpointError(
            f"the weights in {folder} do not fit its config.json: {'; '.join(problems)}{hint}; {cause}"
        )
    return {name: matched[name] for name in expected}


def published_key(name: str) -> str:
    """The published name of one of our parameters."""
    for ours, theirs in (
        ("vision_tower.", "model.vision_tower.vision_tower.vision_model."),
        ("projector.linear_1.", "model.mm_projector.0."),
        ("projector.linear_2.", "model.mm_projector.2."),
        ("language_model.", "model."),
    ):
        if name.startswith(ours):
            return theirs + name[len(ours) :]
    return name


def load_weights(
    folder: Path,
    config: StreamVLNConfig,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    published: bool = False,
) -> StreamVLNForConditionalGeneration:
    """The network of a checkpoint folder, filled tensor by tensor.

    The host holds the finished parameters and one block of 32 MiB, whatever the dtypes; with a GPU as device only the
    block.

    Args:
        folder: with safetensors files.
        config: of the network.
        dtype: of the weights; None means as stored, but on a CPU, whose arithmetic in half precision is slow, float32
            for what is stored in float16, and in bfloat16 if it is small (`SMALL_BYTES`).
        device: where the weights go.
        published: whether the keys are those of the published format.

    Raises:
        CheckpointError: files are missing or malformed, or keys do not fit the configuration.
    """
    tensors = match_tensors(find_tensors(folder), config, published)
    on_cpu = torch.device(device).type == "cpu"
    chosen = dtype or _stored_dtype(tensors, on_cpu)
    config.dtype = chosen
    with torch.device("meta"):
        model = StreamVLNForConditionalGeneration(config)
    for name, stored in tensors.items():
        _assign(model, name, stored.read(chosen, device))
    if config.tie_word_embeddings:
        model.lm_head.weight = model.language_model.embed_tokens.weight
    _fill_buffers(model, device)
    path = folder / "generation_config.json"
    if path.is_file():
        model.generation_config = GenerationConfig(**generation_values(read_json(path)))
    return model.eval()


def convert_checkpoint(
    source: str | Path,
    target: str | Path,
    vision_config: Mapping[str, Any] | SiglipVisionConfig | None = None,
    tokenizer: str | Path | None = None,
    max_shard_bytes: int = 4 * 10**9,
    progress: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Writes a published checkpoint in our format: the same bytes under our names.

    `target` appears only when everything is written. It holds `conversion.json`: for every tensor its published name,
    shape, dtype and the sha256 of its bytes; and the published keys that were left out.

    Args:
        source: folder in the published format.
        target: folder to write; must not exist, or be empty.
        vision_config: see `config_from_published`.
        tokenizer: folder with the tokenizer, where `source` lacks it.
        max_shard_bytes: size at which a new weight file is begun.
        progress: called with a word on what is being written.

    Returns:
        The contents of `conversion.json`.

    Raises:
        CheckpointError: the source is not complete and consistent, or the target is not empty.
    """
    source, target = Path(source), Path(target)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise CheckpointError(f"{target} exists already: choose another folder, or remove it first")
    values = read_json(source / "config.json")
    if not is_published(values):
        raise CheckpointError(
            f"{source / 'config.json'} describes a model of type {values.get('model_type')!r}, "
            "no published StreamVLN checkpoint ('llava_qwen'): nothing to convert"
        )
    found = find_tensors(source)
    config = published_config(source, vision_config)
    processor = published_processor(config, Path(tokenizer or source))
    tensors = match_tensors(found, config, published=True)
    config.architectures = ["StreamVLNForConditionalGeneration"]
    config.dtype = _stored_dtype(tensors, on_cpu=False)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        digests = write_tensors(partial, tensors, max_shard_bytes, progress)
        config.save_pretrained(str(partial))
        generation = source / "generation_config.json"
        if generation.is_file():
            GenerationConfig(**generation_values(read_json(generation))).save_pretrained(str(partial))
        processor.save_pretrained(partial)
        report = _report(found, tensors, digests)
        (partial / CHECKSUMS_NAME).write_text(json.dumps(report, indent=1), encoding="utf-8")
        partial.chmod(0o755)
        if target.exists():
            target.rmdir()
        os.replace(partial, target)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return report


def generation_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """What greedy decoding takes from a generation_config.json: token ids and the repetition penalty.

    Raises:
        CheckpointError: the penalty is no positive number.
    """
    names = ("bos_token_id", "eos_token_id", "pad_token_id", "repetition_penalty")
    penalty = values.get("repetition_penalty")
    if penalty is not None and (isinstance(penalty, bool) or not isinstance(penalty, (int, float)) or penalty <= 0):
        raise CheckpointError(f"generation_config.json: repetition_penalty must be a positive number, got {penalty!r}")
    return {name: values[name] for name in names if values.get(name) is not None}


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file's object.

    Raises:
        CheckpointError: the file is missing or no JSON object.
    """
    if not path.is_file():
        raise CheckpointError(f"{path.parent} has no {path.name}: {_instead_of(path.parent)}")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path} is no valid JSON: {error}") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} holds no JSON object")
    return values


def _instead_of(folder: Path) -> str:
    """What to pass in place of a folder that is no checkpoint: a run's folder or an adapter is easily taken for one."""
    for network in (folder / "model", folder / "checkpoint"):
        if (network / "config.json").is_file():
            return f"it is the folder of a run, whose network is {network}: pass that"
    for adapter in (folder, folder / "adapter"):
        if (adapter / "adapter_config.json").is_file():
            return (
                f"{adapter} is an adapter, which is of use only with the network it was trained on: pass the run's "
                "model/, or where there is none (--lora.merge False) merge it with training.adapters.merge_adapter"
            )
    return "pass a complete checkpoint folder"


def _report(
    found: Mapping[str, StoredTensor], tensors: Mapping[str, StoredTensor], digests: Mapping[str, str]
) -> dict[str, Any]:
    keys = {id(stored): key for key, stored in found.items()}
    entries = {
        name: {
            "published": keys[id(stored)],
            "shape": list(stored.shape),
            "dtype": stored.dtype,
            "sha256": digests[name],
        }
        for name, stored in tensors.items()
    }
    used = {entry["published"] for entry in entries.values()}
    return {
        "tensors": entries,
        "left_out": sorted(set(found) - used),
        "bytes": sum(stored.size for stored in tensors.values()),
    }


def _assign(model: torch.nn.Module, name: str, value: torch.Tensor) -> None:
    path, _, leaf = name.rpartition(".")
    module = model.get_submodule(path)
    module._parameters[leaf] = torch.nn.Parameter(value, requires_grad=value.is_floating_point())


def _fill_buffers(model: StreamVLNForConditionalGeneration, device: torch.device | str) -> None:
    """Makes the few computed buffers (positions, rotary frequencies), which no checkpoint stores."""
    for path, module in model.named_modules():
        for name, buffer in list(module._buffers.items()):
            if buffer is None or not buffer.is_meta:
                continue
            if name == "position_ids":
                module._buffers[name] = torch.arange(buffer.shape[-1], device=device).expand(buffer.shape)
            elif name.endswith("inv_freq"):
                fresh = type(module)(module.config)  # type: ignore[operator]
                module._buffers[name] = fresh._buffers[name].to(device)
            else:
                raise CheckpointError(f"no rule fills the buffer {path}.{name} of this release of transformers")


def _stored_dtype(tensors: Mapping[str, StoredTensor], on_cpu: bool) -> torch.dtype:
    sizes: dict[torch.dtype, int] = {}
    for stored in tensors.values():
        kind = DTYPES[stored.dtype]
        sizes[kind] = sizes.get(kind, 0) + stored.size
    most = max(sizes, key=lambda kind: sizes[kind])
    if not most.is_floating_point:
        raise CheckpointError(f"the weights are stored as {most}, not in floating point: take the original checkpoint")
    slow = most == torch.float16 or (most == torch.bfloat16 and sum(sizes.values()) < SMALL_BYTES)
    return torch.float32 if on_cpu and slow else most


def _problem(kind: str, names: list[str], most: int = 40) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{len(names)} {kind}: {', '.join(names[:most])}{more}"
