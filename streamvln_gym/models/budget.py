"""What frames cost the language model: tokens, bytes, attention, KV cache; with and without pooling, per strategy."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from streamvln_gym.errors import CheckpointError
from streamvln_gym.models.configuration_streamvln import MEMORY_STRATEGIES, StreamVLNConfig
from streamvln_gym.models.memory_strategies import make_strategy

BFLOAT16 = 2  # bytes per value


@dataclass(frozen=True)
class BudgetRow:
    """One set of frames.

    Attributes:
        name: what is counted.
        frames: number of frames.
        unpooled: embeddings without pooling.
        pooled: embeddings with pooling.
    """

    name: str
    frames: int
    unpooled: int
    pooled: int

    @property
    def attention_ratio(self) -> float:
        """Cost of self-attention without pooling relative to that with pooling (both quadratic)."""
        return self.unpooled**2 / self.pooled**2 if self.pooled else 1.0

    def megabytes(self, bytes_per_token: int, batch: int = 1) -> tuple[float, float]:
        """Size of the (unpooled, pooled) tokens in MB of 10^6 bytes.

        Args:
            bytes_per_token: `feature_bytes(width)` or `kv_bytes(config)`.
            batch: samples.
        """
        scale = bytes_per_token * batch / 1e6
        return self.unpooled * scale, self.pooled * scale


@dataclass(frozen=True)
class StrategyRow:
    """Frame embeddings of a window that opens with a full memory.

    Attributes:
        strategy: name of the slow-memory strategy.
        memory: embeddings of the memory, the most where the strategy prunes.
        current: embeddings of the current frame.
        window: embeddings of all current frames of a full window.
        prunes: whether `memory` is only an upper bound.
    """

    strategy: str
    memory: int
    current: int
    window: int
    prunes: bool

    @property
    def first_call(self) -> int:
        """Frame embeddings that the window's first call prefills."""
        return self.memory + self.current


def feature_bytes(width: int, bytes_per_value: int = BFLOAT16) -> int:
    """Bytes of one token's features at `width` values."""
    return width * bytes_per_value


def kv_bytes(config: StreamVLNConfig, bytes_per_value: int = BFLOAT16) -> int:
    """Bytes that one embedding takes in the language model's KV cache, all layers together."""
    text = config.text_config
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return int(2 * text.num_hidden_layers * text.num_key_value_heads * head_dim * bytes_per_value)


def token_budget(config: StreamVLNConfig) -> list[BudgetRow]:
    """Rows for one frame, the history, history + current frame, and history + a full window.

    Args:
        config: gives the grid, the pooling, the history and the window.
    """
    history = config.num_history
    frames = {
        "one frame": 1,
        "history": history,
        "history + current frame": history + 1,
        "history + window": history + calls_per_window(config),
    }
    patches, tokens = config.patches_per_side**2, config.tokens_per_frame
    return [BudgetRow(name, count, count * patches, count * tokens) for name, count in frames.items()]


def strategy_budget(config: StreamVLNConfig, strategies: Sequence[str] = MEMORY_STRATEGIES) -> list[StrategyRow]:
    """One row for each slow-memory strategy.

    Args:
        config: as in `token_budget`.
        strategies: their names.

    Raises:
        ValueError: there is no such strategy.
    """
    tokens = config.tokens_per_frame
    rows = []
    for name in strategies:
        strategy = make_strategy(name)
        memory = strategy.most_tokens(config.num_history, config.patches_per_side**2, tokens)
        rows.append(StrategyRow(name, memory, tokens, tokens * calls_per_window(config), strategy.needs_geometry))
    return rows


def calls_per_window(config: StreamVLNConfig) -> int:
    """Model calls of a window, and so its current frames."""
    return -(-config.window_steps // config.chunk_size)


def format_budget(
    config: StreamVLNConfig, batch: int = 1, strategies: Sequence[str] = MEMORY_STRATEGIES, bytes_per_value: int = 2
) -> str:
    """The budget as text: the table of frames, what pooling saves, and the table of strategies.

    Args:
        config: as in `token_budget`.
        batch: samples at once; scales the bytes.
        strategies: slow-memory strategies to list.
        bytes_per_value: 2 for bfloat16.

    Raises:
        ValueError: the batch is not positive, or a strategy is unknown.
    """
    if batch < 1:
        raise ValueError(f"the batch must be at least 1, got {batch}")
    grid = f"{config.patches_per_side}x{config.patches_per_side} patches, {config.pooling_mode} pooling to "
    grid += f"{config.tokens_per_side}x{config.tokens_per_side} tokens"
    title = f"Frames of {grid}; batch {batch}, {bytes_per_value} bytes a value. Each pair: unpooled / pooled."
    parts = [title, "", *_frame_table(config, batch, bytes_per_value), "", _savings(config, batch, bytes_per_value)]
    parts += ["", "Frame embeddings of a window with full memory, per slow-memory strategy (voxel: at most):", ""]
    parts += _strategy_table(config, batch, strategies, bytes_per_value)
    return "\n".join(parts)


def read_budget_config(path: Path | None) -> StreamVLNConfig:
    """The configuration whose budget is asked for.

    Args:
        path: a checkpoint folder or a config.json, ours or a published one; None means the published sizes.

    Raises:
        CheckpointError: the file is missing, or no configuration.
    """
    if path is None:
        return StreamVLNConfig.full_size()
    file = path / "config.json" if path.is_dir() else path
    if not file.is_file():
        raise CheckpointError(f"there is no {file}: pass a checkpoint folder or its config.json")
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{file} is no valid JSON: {error}") from error
    kind = values.get("model_type") if isinstance(values, dict) else None
    if kind == StreamVLNConfig.model_type:
        try:
            return StreamVLNConfig.from_dict(values)
        except (TypeError, ValueError) as error:
            raise CheckpointError(f"{file} is no usable configuration: {error}") from error
    from streamvln_gym.models.conversion import config_from_published, is_published

    if isinstance(values, dict) and is_published(values):
        return config_from_published(values)
    raise CheckpointError(f"{file} describes a model of type {kind!r}, not {StreamVLNConfig.model_type!r}")


def _widths(config: StreamVLNConfig) -> tuple[int, int]:
    return int(config.vision_config.hidden_size), int(config.text_config.hidden_size)


def _frame_table(config: StreamVLNConfig, batch: int, bytes_per_value: int) -> list[str]:
    sizes = {f"MB at width {width}": feature_bytes(width, bytes_per_value) for width in _widths(config)}
    sizes["MB of KV cache"] = kv_bytes(config, bytes_per_value)
    rows = [["", "frames", "tokens", "attention", *sizes]]
    for row in token_budget(config):
        pairs = ["{:,.1f} / {:,.1f}".format(*row.megabytes(size, batch)) for size in sizes.values()]
        tokens = f"{row.unpooled:,} / {row.pooled:,}"
        rows.append([row.name, str(row.frames), tokens, f"{row.attention_ratio:.1f}x", *pairs])
    return aligned(rows)


def _savings(config: StreamVLNConfig, batch: int, bytes_per_value: int) -> str:
    row = next(row for row in token_budget(config) if row.name == "history + current frame")
    saved = []
    for width in _widths(config):
        unpooled, pooled = row.megabytes(feature_bytes(width, bytes_per_value), batch)
        less = unpooled - pooled
        size = f"{less / 1e3:,.2f} GB" if less >= 1e3 else f"{less:,.1f} MB"
        saved.append(f"{size} at width {width}")
    return f"Pooling history + current frame saves {', '.join(saved)}."


def _strategy_table(config: StreamVLNConfig, batch: int, strategies: Sequence[str], bytes_per_value: int) -> list[str]:
    width = config.text_config.hidden_size
    feature, cached = feature_bytes(width, bytes_per_value), kv_bytes(config, bytes_per_value)
    pooled = strategy_budget(config, ["pooled"])[0].first_call
    rows = [["", "memory + current", "first call", "attention", f"MB at width {width}", "window", "MB of KV cache"]]
    for row in strategy_budget(config, strategies):
        total = row.memory + row.window
        rows.append(
            [
                row.strategy,
                f"{row.memory:,} + {row.current:,}",
                f"{row.first_call:,}",
                f"{row.first_call**2 / pooled**2:.2f}x",
                f"{row.first_call * feature * batch / 1e6:,.1f}",
                f"{total:,}",
                f"{total * cached * batch / 1e6:,.1f}",
            ]
        )
    return aligned(rows)


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns as wide as they need to be; the first left-aligned, the others right-aligned."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = []
    for first, *others in rows:
        cells = [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))]
        lines.append("  ".join(cells))
    return lines
