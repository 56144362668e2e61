"""How many embeddings frames take with and without pooling: why slow memory and fast window stay affordable."""

from __future__ import annotations

from dataclasses import dataclass

from streamvln_gym.models.configuration_streamvln import StreamVLNConfig


@dataclass(frozen=True)
class BudgetRow:
    """One configuration of frames.

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
        return self.unpooled**2 / self.pooled**2

    def megabytes(self, width: int, bytes_per_value: int = 2) -> tuple[float, float]:
        """Size of the (unpooled, pooled) features at `width` values a token, in MB of 10^6 bytes."""
        scale = width * bytes_per_value / 1e6
        return self.unpooled * scale, self.pooled * scale


def token_budget(config: StreamVLNConfig) -> list[BudgetRow]:
    """Rows for one frame, the history, history + current frame, and history + a full window.

    Args:
        config: gives the grid, the pooling, the history and the window.
    """
    history, window = config.num_history, -(-config.window_steps // config.chunk_size)
    frames = {
        "one frame": 1,
        "history": history,
        "history + current frame": history + 1,
        "history + window": history + window,
    }
    patches, tokens = config.patches_per_side**2, config.tokens_per_frame
    return [BudgetRow(name, count, count * patches, count * tokens) for name, count in frames.items()]


def format_budget(config: StreamVLNConfig) -> str:
    """The budget as a text table; sizes are those of bfloat16 features at the tower's and the language model's width.

    Args:
        config: as in `token_budget`.
    """
    widths = (config.vision_config.hidden_size, config.text_config.hidden_size)
    sizes = [f"MB at width {width}" for width in widths]
    lines = [f"{'':24}{'frames':>8}{'unpooled':>10}{'pooled':>8}{'attention':>11}" + "".join(f"{s:>22}" for s in sizes)]
    for row in token_budget(config):
        pairs = ("{:.1f} / {:.1f}".format(*row.megabytes(width)) for width in widths)
        line = f"{row.name:24}{row.frames:>8}{row.unpooled:>10,}{row.pooled:>8,}{row.attention_ratio:>10.1f}x"
        lines.append(line + "".join(f"{pair:>22}" for pair in pairs))
    return "\n".join(lines)
