"""The language model over packed rows: one pass for streams of different lengths, in few and large matrix products."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn import functional

from streamvln_gym.models.packed_ops import PackedOps, Places
from streamvln_gym.models.packed_plan import PackedPlan

if TYPE_CHECKING:
    from streamvln_gym.models.modeling_streamvln import StreamVLNForConditionalGeneration
    from streamvln_gym.models.stream_cache import StreamCache

Apply = Callable[[Tensor], Tensor]
# Adds a layer's output for the second to the first, in place.
Add = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class _Layer:
    """A decoder layer's weights as functions."""

    input_norm: Tensor
    qkv: Apply
    output: Add
    mlp_norm: Tensor
    gate_up: Apply
    down: Add


class PackedLanguageModel:
    """Qwen2's layers over packed rows, against a `StreamCache`.

    Weights that read the same input lie one after another: the network's own parameters become views of them, so that
    nothing is held twice and they can still be loaded, saved and changed in place. Layers that are not plain
    (quantised, with adapters) are called one by one instead.

    Args:
        model: the network, in eval mode on one device.
        ops: what is not a matrix product.
    """

    def __init__(self, model: StreamVLNForConditionalGeneration, ops: PackedOps) -> None:
        network: Any = model.language_model
        self._network = network
        self._ops = ops
        self._epsilon = float(network.config.rms_norm_eps)
        self._layers = [self._layer(layer) for layer in network.layers]
        self.place = weights_place(model)

    def __call__(self, x: Tensor, plan: PackedPlan, cache: StreamCache) -> Tensor:
        """Runs embeddings through the layers, and writes their keys and values into the cache.

        Args:
            x: (tokens, hidden); overwritten.
            plan: where they belong.
            cache: its lengths stay as they are.

        Returns:
            (kept, hidden), the language model's output at the plan's kept embeddings.
        """
        places = self._places(x, plan, cache)
        ops = self._ops
        for number, layer in enumerate(self._layers):
            qkv = layer.qkv(ops.rms_norm(x, layer.input_norm, self._epsilon))
            keys, values = cache.keys(number), cache.values(number)
            ops.rotate_and_store(qkv, keys, values, places)
            seen = ops.attend(qkv, keys, values, places)
            if number == len(self._layers) - 1:  # the rest is not looked at
                x, seen = x[plan.kept], seen[plan.kept]
            layer.output(x, seen)
            layer.down(x, ops.gated(layer.gate_up(ops.rms_norm(x, layer.mlp_norm, self._epsilon))))
        return ops.rms_norm(x, self._network.norm.weight, self._epsilon)

    def _places(self, x: Tensor, plan: PackedPlan, cache: StreamCache) -> Places:
        past, base = cache.lengths[plan.slots], plan.slots * cache.max_length
        before = past[plan.row]
        cos, sin = self._network.rotary_emb(x[None], (before + plan.position)[None])
        half = cos.shape[-1] // 2  # the other half is the same again
        target = base[plan.row] + before + plan.place
        return Places(plan, past, base, target, cos[0, :, :half].contiguous(), sin[0, :, :half].contiguous())

    def _layer(self, layer: Any) -> _Layer:
        attention, mlp = layer.self_attn, layer.mlp
        return _Layer(
            layer.input_layernorm.weight,
            side_by_side([attention.q_proj, attention.k_proj, attention.v_proj]),
            adding(attention.o_proj),
            layer.post_attention_layernorm.weight,
            side_by_side([mlp.gate_proj, mlp.up_proj]),
            adding(mlp.down_proj),
        )


def weights_place(model: StreamVLNForConditionalGeneration) -> tuple[object, ...]:
    """Where weights lie in memory; another result says that they were moved or replaced."""
    network: Any = model.language_model
    parts: list[Any] = [model.lm_head, network.embed_tokens, network.norm]
    for layer in (network.layers[0], network.layers[-1]):
        parts += [layer.self_attn.q_proj, layer.mlp.down_proj]
    parts.append(model.projector.linear_1)
    places: list[object] = [(type(part), part.weight.data_ptr()) for part in parts]
    # Adapters may come into any layer later, and be switched: recordings keep what was on.
    linears = (part for layer in network.layers for part in (*layer.self_attn.children(), *layer.mlp.children()))
    places += [(id(part), adapters_on(part)) for part in linears if is_adapted(part)]
    return tuple(places)


@torch.no_grad()
def side_by_side(linears: Sequence[nn.Module]) -> Apply:
    """Linear layers of one input as one function, whose output is theirs one after another."""
    plain = [linear for linear in linears if is_plain(linear)]
    weights, biases = [linear.weight for linear in plain], [linear.bias for linear in plain]
    uniform = len(plain) == len(linears) and len({bias is None for bias in biases}) == 1
    if not uniform:
        return lambda x: torch.cat([linear(x) for linear in linears], -1)
    weight = _joined(weights)
    bias = None if biases[0] is None else _joined(biases)
    return lambda x: functional.linear(x, weight, bias)


def adding(linear: nn.Module) -> Add:
    """A linear layer as a function that adds its output to what it is given."""
    if not is_plain(linear) or linear.bias is not None:
        return lambda x, given: x.add_(linear(given))
    weight = linear.weight
    return lambda x, given: x.addmm_(given, weight.T)


def is_plain(linear: nn.Module) -> TypeGuard[nn.Linear]:
    """Whether it does nothing but multiply by its weights (not quantised, no adapters, no hooks)."""
    if type(linear) is not nn.Linear or linear._forward_hooks or linear._forward_pre_hooks:
        return False
    # Quantised by torchao, a layer stays an nn.Linear and says that it holds floats: its weight is of another class.
    return type(linear.weight) is nn.Parameter and linear.weight.is_floating_point()


def is_adapted(part: nn.Module) -> bool:
    """Whether it is a layer of peft's around another one."""
    return "base_layer" in part._modules


def adapters_on(part: Any) -> tuple[object, ...]:
    """Which of a layer's adapters count at present."""
    return tuple(part.active_adapters), part.disable_adapters, part.merged


def all_plain(model: StreamVLNForConditionalGeneration) -> bool:
    """Whether every linear layer of the language model is plain."""
    network: Any = model.language_model
    parts = list(network.modules())
    return not any(map(is_adapted, parts)) and all(is_plain(part) for part in parts if isinstance(part, nn.Linear))


def _joined(parts: Sequence[Tensor]) -> Tensor:
    """One tensor of which the parameters become views; again the same one, where they already are."""
    begin, size = parts[0], parts[0][0].numel()
    where = begin.data_ptr()
    together = True
    for part in parts:
        together &= part.data_ptr() == where and part.untyped_storage().data_ptr() == begin.untyped_storage().data_ptr()
        where += part.nbytes
    rows = sum(len(part) for part in parts)
    if together:
        return begin.data.as_strided((rows, *begin.shape[1:]), (size, 1)[-begin.ndim :])
    with torch.inference_mode(False):
        joined = torch.cat([part.data for part in parts])
    row = 0
    for part in parts:
        part.data = joined[row : row + len(part)]
        row += len(part)
    return joined
