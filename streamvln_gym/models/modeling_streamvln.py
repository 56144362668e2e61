"""The StreamVLN network: SigLIP tower -> projector -> spatial pooling -> Qwen2, as one Hugging Face model."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModel, AutoModelForCausalLM, GenerationMixin, PreTrainedModel, Qwen2Model
from transformers.cache_utils import Cache
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.models.siglip import modeling_siglip

from streamvln_gym.devices import device_of
from streamvln_gym.models.branches import branch_mask, branch_positions
from streamvln_gym.models.configuration_streamvln import (
    IGNORE_LABEL,
    IMAGE_TOKEN_ID,
    MEMORY_TOKEN_ID,
    StreamVLNConfig,
)
from streamvln_gym.models.growing_cache import growing_cache
from streamvln_gym.models.memory_strategies import memory_tokens, strategy_of
from streamvln_gym.models.pooling import pool_patches

# Earlier releases of transformers 5 wrap the tower's layers once more (SiglipVisionModel.vision_model) and call the
# KV cache `past_key_values`. The inner class and the name in use keep weights and calls the same across releases.
VisionTower = getattr(modeling_siglip, "SiglipVisionTransformer", modeling_siglip.SiglipVisionModel)
CACHE_ARGUMENT = "cache" if "cache" in inspect.signature(Qwen2Model.forward).parameters else "past_key_values"


class StreamVLNProjector(nn.Module):
    """Linear - GELU (erf) - Linear from the tower's width to the language model's."""

    def __init__(self, config: StreamVLNConfig) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(config.vision_config.hidden_size, config.text_config.hidden_size)
        self.activation = nn.GELU()
        self.linear_2 = nn.Linear(config.text_config.hidden_size, config.text_config.hidden_size)

    def forward(self, features: Tensor) -> Tensor:
        return self.linear_2(self.activation(self.linear_1(features)))


class StreamVLNForConditionalGeneration(PreTrainedModel, GenerationMixin):
    """A video-LLM whose input is text with `<image>` (-200) and `<memory>` (-300) positions.

    Every `<image>` is replaced by the next current frame's `config.tokens_per_frame` embeddings, `<memory>` by those
    of all history frames in time order.
    """

    config: StreamVLNConfig
    config_class = StreamVLNConfig
    base_model_prefix = ""
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _no_split_modules = ["SiglipEncoderLayer", "Qwen2DecoderLayer"]  # noqa: RUF012  (read by transformers as is)
    _skip_keys_device_placement = ["past_key_values", "cache"]  # noqa: RUF012
    _tied_weights_keys = {"lm_head.weight": "language_model.embed_tokens.weight"}  # noqa: RUF012
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    def __init__(self, config: StreamVLNConfig) -> None:
        super().__init__(config)
        self.vision_tower = VisionTower(config.vision_config)
        # The feature is the raw residual stream after the last layer: SigLIP's final norm is not applied.
        self.vision_tower.post_layernorm = nn.Identity()
        self.projector = StreamVLNProjector(config)
        self.language_model = Qwen2Model(config.text_config)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        self.post_init()

    @classmethod
    def from_seed(cls, config: StreamVLNConfig, seed: int = 0) -> StreamVLNForConditionalGeneration:
        """A network with random weights from `seed`; torch's own random state is left alone.

        The same releases of torch and transformers always give the same weights. What each layer adds to the residual
        stream is scaled by (2 layers)^-1/2, as in GPT-2.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = cls(config).eval()
        tower, language = model.vision_tower.encoder.layers, model.language_model.layers
        with torch.no_grad():
            for layer in tower:
                for part in (layer.self_attn.out_proj, layer.mlp.fc2):
                    part.weight.mul_((2 * len(tower)) ** -0.5)
            for layer in language:
                for part in (layer.self_attn.o_proj, layer.mlp.down_proj):
                    part.weight.mul_((2 * len(language)) ** -0.5)
        return model

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.language_model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        self.lm_head = new_embeddings

    def new_cache(self) -> Cache:
        """An empty KV cache for `extend`."""
        return growing_cache(self.config.text_config)

    def encode_images(self, pixel_values: Tensor) -> Tensor:
        """Frames to language-model embeddings: tower, projector on every patch, then pooling.

        Args:
            pixel_values: (frames, 3, image_size, image_size) float in [-1, 1], as `StreamVLNProcessor.images` makes.

        Returns:
            (frames, tokens_per_frame, hidden).

        Raises:
            ValueError: the pictures have another size than the configuration's.
        """
        return self.pool(self.encode_patches(pixel_values))

    def encode_patches(self, pixel_values: Tensor) -> Tensor:
        """`encode_images` without the pooling; what `memory_strategies` may keep of a frame.

        Returns:
            (frames, patches_per_side ** 2, hidden), row-major.

        Raises:
            ValueError: the pictures have another size than the configuration's.
        """
        size = self.config.image_size
        if pixel_values.ndim != 4 or tuple(pixel_values.shape[1:]) != (3, size, size):
            raise ValueError(f"pixel_values must be (frames, 3, {size}, {size}), got {tuple(pixel_values.shape)}")
        return self.projector(self.vision_tower(pixel_values=pixel_values).last_hidden_state)

    def pool(self, patches: Tensor) -> Tensor:
        """Pools patch embeddings (frames, patches, hidden) to (frames, tokens_per_frame, hidden)."""
        config = self.config
        return pool_patches(patches, config.pooling_mode, config.pooling_stride, config.pooling_ceil_mode)

    def embed(
        self,
        input_ids: Tensor | Sequence[int],
        image_features: Tensor | None = None,
        memory_features: Tensor | None = None,
    ) -> Tensor:
        """One dialogue's embeddings with frames in place of the special positions.

        Args:
            input_ids: (length,) token ids with -200 for each current frame and at most one -300 for the memory.
            image_features: (images, tokens_per_frame, hidden), one row per -200 in order.
            memory_features: (memory_tokens, hidden), all history frames' tokens in time order.

        Returns:
            (1, expanded_length, hidden).

        Raises:
            ValueError: special positions and features do not match.
        """
        table = cast(nn.Embedding, self.get_input_embeddings())
        ids = torch.as_tensor(input_ids, dtype=torch.long, device=device_of(table))
        ids = expand_special_ids(ids, image_features, memory_features)
        embeddings = table(ids.clamp(min=0))
        # Out of place: with frozen embeddings and gradient checkpointing, this is a leaf that requires gradients.
        if image_features is not None:
            places = (ids == IMAGE_TOKEN_ID)[:, None]
            embeddings = embeddings.masked_scatter(places, image_features.flatten(0, 1).to(embeddings))
        if memory_features is not None:
            places = (ids == MEMORY_TOKEN_ID)[:, None]
            embeddings = embeddings.masked_scatter(places, memory_features.to(embeddings))
        return embeddings[None]

    def extend(self, inputs_embeds: Tensor, cache: Cache, branches: int = 0) -> Tensor:
        """Appends embeddings to the cache; the language model's output after the last of them.

        Args:
            inputs_embeds: (batch, length, hidden).
            cache: of `new_cache`.
            branches: so many embeddings at the end exclude each other, see `Branches`; in a batch of one only.

        Returns:
            (batch, hidden); with branches (1 + branches, hidden): after the last embedding before them, and after each.

        Raises:
            ValueError: in training mode with gradient checkpointing, with which some releases of transformers drop it.
        """
        self.check_cache()
        given: dict[str, Any] = {}
        if branches:
            sizes = int(cache.get_seq_length()), inputs_embeds.shape[1], branches
            mask = branch_mask(*sizes, inputs_embeds.dtype, inputs_embeds.device)
            given["attention_mask"] = {"full_attention": mask}
            given["position_ids"] = branch_positions(*sizes, inputs_embeds.device)
        output = self.language_model(inputs_embeds=inputs_embeds, use_cache=True, **given, **{CACHE_ARGUMENT: cache})
        return output.last_hidden_state[:, -1 - branches :].flatten(0, 1)

    def check_cache(self) -> None:
        """Raises ValueError where the language model would leave its KV cache empty."""
        if self.language_model.training and self.language_model.gradient_checkpointing:
            raise ValueError("gradient checkpointing leaves no KV cache in training mode: call model.eval() first")

    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        memory_frames: Tensor | None = None,
        memory_steps: Tensor | None = None,
        memory_points: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        cache: Cache | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """One pass over a batch of dialogues, or over embeddings that `embed` made.

        Args:
            input_ids: (batch, length), right-padded; -200 and -300 mark frames and memory.
            pixel_values: (all_frames, 3, image_size, image_size): sample after sample, each with its history frames
                first and then one frame per -200.
            memory_frames: (batch,) history frames of each sample; None means none.
            memory_steps: (all_history_frames,) environment steps of the history frames, sample after sample; only
                the memory strategy "voxel" reads them.
            memory_points: (all_history_frames, tokens_per_frame, 3) their patches in metres (see
                `voxel_pruning.patch_points`), for the same strategy.
            attention_mask: (batch, length) 1 for tokens, 0 for padding (length as `input_ids` or `inputs_embeds`, with
                a cache that of both; with pictures also of the ids alone, then all that is cached counts).
            position_ids: positions of `inputs_embeds`; by default they count on from the cache.
            past_key_values: KV cache to go on from (earlier name of `cache`).
            inputs_embeds: (batch, length, hidden) instead of `input_ids`.
            labels: (batch, length) target ids, -100 where nothing is learned. Special positions are never targets.
            use_cache: return the cache.
            logits_to_keep: compute logits for the last so many positions only (0 means all).
            cache: KV cache to go on from.
            num_items_in_batch: divisor of the summed loss (for gradient accumulation); default: number of targets.
            **kwargs: passed on to Qwen2.

        Returns:
            `logits` (batch, kept, vocab). With labels, `loss` is the mean negative log-likelihood of the targets, and
            `logits` is (targets, vocab): nothing else is computed.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("pass either input_ids or inputs_embeds")
        state = cache if cache is not None else past_key_values
        if input_ids is not None:
            past = None
            if pixel_values is not None and state is not None and (held := int(state.get_seq_length())):
                past, attention_mask = _split_mask(attention_mask, held, input_ids)
            inputs_embeds, attention_mask, labels = self._embed_batch(
                input_ids, pixel_values, (memory_frames, memory_steps, memory_points), attention_mask, labels
            )
            if past is not None and attention_mask is not None:
                attention_mask = torch.cat([past.to(attention_mask), attention_mask], 1)
        output = self.language_model(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            use_cache=use_cache,
            **{CACHE_ARGUMENT: state},
            **kwargs,
        )
        hidden = output.last_hidden_state
        loss = None
        if labels is None:
            kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
            logits = self.lm_head(hidden[:, kept])
        else:
            targets = labels[:, 1:]
            learned = targets != IGNORE_LABEL
            logits = self.lm_head(hidden[:, :-1][learned]).float()
            total = functional.cross_entropy(logits, targets[learned], reduction="sum")
            loss = total / (num_items_in_batch if num_items_in_batch is not None else learned.sum().clamp(min=1))
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            hidden_states=output.hidden_states,
            attentions=output.attentions,
            **{CACHE_ARGUMENT: output.get(CACHE_ARGUMENT)},
        )

    @torch.no_grad()
    def generate(self, inputs: Tensor | None = None, *args: Any, **kwargs: Any) -> Any:
        """transformers' `generate`; dialogues with frames are embedded first.

        Args:
            inputs: (batch, length) token ids, as `input_ids` of `forward`.
            *args: as transformers'.
            **kwargs: as transformers', and `pixel_values`, `memory_frames`, `memory_steps`, `memory_points` as in
                `forward`.

        Returns:
            What transformers gives; for dialogues with frames the new tokens alone.
        """
        pixel_values = kwargs.pop("pixel_values", None)
        if pixel_values is None:
            return super().generate(inputs, *args, **kwargs)
        history = kwargs.pop("memory_frames", None), kwargs.pop("memory_steps", None), kwargs.pop("memory_points", None)
        ids = kwargs.pop("input_ids", None) if inputs is None else inputs
        if ids is None:
            raise ValueError("pass input_ids, whose special positions say where the frames belong")
        embeddings, mask, _ = self._embed_batch(ids, pixel_values, history, kwargs.pop("attention_mask", None), None)
        assert mask is not None
        short = (mask == 0).sum(1).tolist()  # what is generated follows the last column: padding moves to the left
        given = {
            "inputs_embeds": torch.stack([row.roll(n, 0) for row, n in zip(embeddings, short, strict=True)]),
            "attention_mask": torch.stack([row.roll(n, 0) for row, n in zip(mask, short, strict=True)]),
        }
        return super().generate(None, *args, **given, **kwargs)

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        """As torch's, which casts and moves, but positions keep their precision: rounded they would be others."""
        exact = {name: buffer for name, buffer in self.named_buffers() if name.endswith("inv_freq")}
        super()._apply(fn, recurse)
        for name, before in exact.items():
            owner, _, own = name.rpartition(".")
            module = self.get_submodule(owner)
            after = getattr(module, own)
            if after.dtype != before.dtype and not before.is_meta and not after.is_meta:
                setattr(module, own, before.to(after.device))
        return self

    def _embed_batch(
        self,
        input_ids: Tensor,
        pixel_values: Tensor | None,
        history: tuple[Tensor | None, Tensor | None, Tensor | None],
        attention_mask: Tensor | None,
        labels: Tensor | None,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Embeds, expands and right-pads a batch; returns (embeddings, attention mask, labels)."""
        if pixel_values is None:
            if bool((input_ids < 0).any()):
                raise ValueError("input_ids has <image> or <memory> positions, but pixel_values is missing")
            return self.get_input_embeddings()(input_ids), attention_mask, labels
        real = _unpadded(input_ids, attention_mask)
        current = [int((row == IMAGE_TOKEN_ID).sum()) for row in real]
        images, memories = self._encode_batch(pixel_values, current, *history)
        parts = list(zip(real, images, memories, strict=True))
        rows = [self.embed(*part)[0] for part in parts]
        row_labels = []
        if labels is not None:
            targets = _unpadded(labels, attention_mask)
            row_labels = [_expand_labels(ids, t, *rest) for (ids, *rest), t in zip(parts, targets, strict=True)]
        mask = pad_sequence([torch.ones(len(row), dtype=torch.long, device=row.device) for row in rows], True)
        padded_labels = pad_sequence(row_labels, True, IGNORE_LABEL) if labels is not None else None
        return pad_sequence(rows, True), mask, padded_labels

    def _encode_batch(
        self,
        pixel_values: Tensor,
        current: list[int],
        memory_frames: Tensor | None,
        memory_steps: Tensor | None,
        memory_points: Tensor | None,
    ) -> tuple[list[Tensor], list[Tensor | None]]:
        """Per sample the embeddings of its `current` frames, and its memory (None without history frames)."""
        history = [0] * len(current) if memory_frames is None else [int(count) for count in memory_frames]
        total = sum(current) + sum(history)
        if total != len(pixel_values):
            raise ValueError(f"the batch has places for {total} frames, but pixel_values holds {len(pixel_values)}")
        strategy = strategy_of(self.config)
        if strategy.needs_geometry and any(history) and (memory_steps is None or memory_points is None):
            raise ValueError(
                f"the memory strategy {self.config.memory_strategy!r} needs memory_steps and memory_points of the "
                "history frames: record depth and camera poses, or train with memory_strategy='pooled'"
            )
        patches = self.encode_patches(pixel_values)
        pooled = self.pool(patches)
        counts = torch.tensor([history, current], device=pooled.device).T.flatten()
        past = torch.tensor([True, False], device=pooled.device).repeat(len(current)).repeat_interleave(counts)
        images = list(pooled[~past].split(current))
        kept = strategy.frame_tokens(patches, pooled)[past]
        steps = [0] * sum(history) if memory_steps is None else [int(step) for step in memory_steps]
        points = None if memory_points is None else memory_points.float().cpu().numpy()
        return images, memory_tokens(strategy, kept, history, steps, points)


def _unpadded(rows: Tensor, attention_mask: Tensor | None) -> list[Tensor]:
    """The rows (batch, length) without their padding."""
    if attention_mask is None:
        return list(rows)
    return [row[kept.bool()] for row, kept in zip(rows, attention_mask, strict=True)]


def _split_mask(attention_mask: Tensor | None, held: int, input_ids: Tensor) -> tuple[Tensor, Tensor | None]:
    """The mask of the `held` positions of a cache, and that of the new ids, from one of both or of these alone."""
    rows, length = input_ids.shape
    if attention_mask is not None and attention_mask.shape[1] == held + length:
        return attention_mask[:, :held], attention_mask[:, held:]
    if attention_mask is not None and attention_mask.shape[1] != length:
        raise ValueError(
            f"attention_mask must have the length of input_ids, {length}, or of cache and input_ids, {held + length}; "
            f"got {attention_mask.shape[1]}"
        )
    return torch.ones((rows, held), dtype=torch.long, device=input_ids.device), attention_mask


def expand_special_ids(ids: Tensor, image_features: Tensor | None, memory_features: Tensor | None) -> Tensor:
    """Repeats each special id once per embedding that takes its place; (length,) -> (expanded_length,)."""
    return ids.repeat_interleave(_expanded_lengths(ids, image_features, memory_features))


def _expand_labels(ids: Tensor, labels: Tensor, images: Tensor | None, memory: Tensor | None) -> Tensor:
    lengths = _expanded_lengths(ids, images, memory)
    return labels.masked_fill(ids < 0, IGNORE_LABEL).repeat_interleave(lengths)


def _expanded_lengths(ids: Tensor, image_features: Tensor | None, memory_features: Tensor | None) -> Tensor:
    images, memories = ids == IMAGE_TOKEN_ID, ids == MEMORY_TOKEN_ID
    given = 0 if image_features is None else len(image_features)
    if int(images.sum()) != given:
        raise ValueError(f"input_ids has {int(images.sum())} <image> positions, but {given} images were given")
    if int(memories.sum()) != (memory_features is not None):
        raise ValueError(
            f"input_ids has {int(memories.sum())} <memory> positions, but memory_features is "
            f"{'missing' if memory_features is None else 'given (one position is needed)'}"
        )
    lengths = torch.ones_like(ids)
    if image_features is not None:
        lengths[images] = image_features.shape[1]
    if memory_features is not None:
        lengths[memories] = len(memory_features)
    return lengths


AutoModel.register(StreamVLNConfig, StreamVLNForConditionalGeneration, exist_ok=True)
AutoModelForCausalLM.register(StreamVLNConfig, StreamVLNForConditionalGeneration, exist_ok=True)
