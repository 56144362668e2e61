"""What a dry run found out, as numbers and as tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from streamvln_gym.models.budget import aligned
from streamvln_gym.models.configuration_streamvln import StreamVLNConfig
from streamvln_gym.training.config import Part
from streamvln_gym.training.memory_estimate import (
    GIB,
    MemoryEstimate,
    ParameterCount,
    Setup,
    WindowShape,
    estimate_memory,
    step_flops,
)


@dataclass(frozen=True)
class WindowSize:
    """One training window.

    Attributes:
        frames: pictures, history and current.
        length: embeddings in the language model, at most where the memory strategy prunes.
        targets: learned tokens.
    """

    frames: int
    length: int
    targets: int


@dataclass(frozen=True)
class DryRun:
    """What training needs.

    Attributes:
        network: sizes of the network.
        setup: how it is trained.
        counts: numbers of weights by part.
        sizes: of those windows that were looked at.
        windows: how many the data has.
        batch_size: windows per GPU and forward pass.
        accumulate: forward passes per step.
        gpu_bytes: of one card; None if unknown.
        notes: what the reader has to know about the numbers.
    """

    network: StreamVLNConfig
    setup: Setup
    counts: Mapping[Part, ParameterCount]
    sizes: tuple[WindowSize, ...]
    windows: int
    batch_size: int
    accumulate: int
    gpu_bytes: float | None
    notes: tuple[str, ...] = ()

    @property
    def longest(self) -> WindowSize:
        """The largest of each number, which windows of full length with a full memory have together."""
        return WindowSize(*(max(getattr(size, name) for size in self.sizes) for name in WindowSize.__annotations__))

    @property
    def total(self) -> float:
        """Bytes on each GPU at the peak."""
        return self.estimate().total

    @property
    def fits(self) -> bool | None:
        """Whether that is within the card; None where no card is known."""
        return None if self.gpu_bytes is None else self.total <= self.gpu_bytes

    @property
    def windows_per_step(self) -> int:
        """On all GPUs."""
        return self.batch_size * self.accumulate * self.setup.processes

    @property
    def flops_per_step(self) -> float:
        """Of all GPUs together, for windows of mean size; what is computed again does not count."""
        mean = self._mean
        shape = WindowShape(1, 1, round(mean["length"]), 1)
        one = step_flops(self.network, self.setup, replace(shape, frames=0, targets=0))
        frame = step_flops(self.network, self.setup, WindowShape(0, 1, 0, 0))
        target = step_flops(self.network, self.setup, WindowShape(0, 0, 0, 1))
        return self.windows_per_step * (one + frame * mean["frames"] + target * mean["targets"])

    def estimate(self, setup: Setup | None = None, batch_size: int | None = None) -> MemoryEstimate:
        """Memory on each GPU, also of another setup or batch size."""
        batch, longest = batch_size or self.batch_size, self.longest
        shape = WindowShape(batch, batch * longest.frames, longest.length, batch * longest.targets, padded=batch > 1)
        return estimate_memory(self.network, setup or self.setup, shape)

    def hints(self) -> list[str]:
        """Changes that make it fit, the least first; a hint that nothing does where that is so."""
        if self.fits is not False:
            return []
        found = []
        for options, setup, batch in self._changes():
            total = self.estimate(setup, batch).total
            if total <= (self.gpu_bytes or 0.0):
                found.append(f"{options}: {total / GIB:.1f} GiB")
        return found or ["none of the usual changes is enough: use a larger card, or more of them"]

    def format(self) -> str:
        """All of it as text."""
        lines = [*self._parameters(), "", *self._memory(), "", *self._step()]
        if self.fits is not None:
            verdict = "fits" if self.fits else "DOES NOT FIT"
            card = (self.gpu_bytes or 0.0) / GIB
            lines += ["", f"{verdict}: {self.total / GIB:.1f} of {card:.1f} GiB on each GPU (an estimate)"]
        if hints := self.hints():
            lines += ["What would fit:", *(f"  {hint}" for hint in hints)]
        return "\n".join([*lines, *(f"Note: {note}" for note in self.notes)])

    @property
    def _mean(self) -> dict[str, float]:
        return {
            name: sum(getattr(size, name) for size in self.sizes) / len(self.sizes)
            for name in WindowSize.__annotations__
        }

    def _changes(self) -> Iterator[tuple[str, Setup, int]]:
        """Options, setup and batch size of other ways to train."""
        setup, batch = replace(self.setup, checkpointing=True), self.batch_size
        options = [] if self.setup.checkpointing else ["--gradient-checkpointing True"]
        yield ", ".join(options), setup, batch
        if batch > 1:
            options.append("--batch-size 1 (and a larger --accumulate)")
            yield ", ".join(options), setup, 1
        if "vision" in setup.parts and len(setup.parts) > 1:
            rest = tuple(part for part in setup.parts if part != "vision")
            yield ", ".join([*options, f"--parts {' '.join(rest)}"]), replace(setup, parts=rest), 1
        if not setup.adapters:
            for gpus in (2**power for power in range(1, 7)):
                sharded = replace(setup, sharded=True, processes=gpus)
                if gpus > setup.processes and self.estimate(sharded, 1).total <= (self.gpu_bytes or 0.0):
                    yield ", ".join([*options, f"--fsdp fsdp.json on {gpus} GPUs"]), sharded, 1
                    break
        low_rank = replace(setup, trained_bytes=4, compute_bytes=2, autocast=True, state_bytes=8.0, sharded=False)
        if setup.method == "full":
            yield (
                ", ".join([*options, "--method lora --bf16 True"]),
                replace(low_rank, method="lora", frozen_bytes=2),
                1,
            )
        if setup.method != "qlora":
            yield (
                ", ".join([*options, "--method qlora --bf16 True"]),
                replace(low_rank, method="qlora", frozen_bytes=4),
                1,
            )

    def _parameters(self) -> list[str]:
        rows = [["millions of parameters", "all", "of 4 bits", "trained", "frozen"]]
        total = sum(self.counts.values(), ParameterCount())
        for name, count in [*self.counts.items(), ("together", total)]:
            inside = count.trained - count.added
            numbers = (count.total, count.quantised, count.trained, count.total - inside)
            rows.append([name, *(f"{number / 1e6:,.2f}" for number in numbers)])
        return aligned(rows)

    def _memory(self) -> list[str]:
        """One column without and one with checkpointing; the one in use is marked."""
        columns = [self.estimate(replace(self.setup, checkpointing=choice)) for choice in (False, True)]
        heads = ["all kept", "checkpointing"]
        heads[self.setup.checkpointing] += " *"
        rows: list[Sequence[str]] = [["GiB on each GPU", *heads]]
        for name in columns[0].rows:
            values = [column.rows[name] for column in columns]
            if any(values):
                rows.append([name, *(f"{value / GIB:.2f}" for value in values)])
        rows.append(["together", *(f"{column.total / GIB:.2f}" for column in columns)])
        setup = self.setup
        spread = "" if setup.processes == 1 else f", {'FSDP2' if setup.sharded else 'DDP'} on {setup.processes} GPUs"
        attention = "eager" if setup.eager else "SDPA"
        title = f"method {setup.method}{spread}, {attention} attention, batch size {self.batch_size} (* as set):"
        return [title, *aligned(rows)]

    def _step(self) -> list[str]:
        mean, longest = self._mean, self.longest
        rows = [["windows", "mean", "longest", "mean per step"]]
        names = {"frames": "frames", "length": "tokens in the language model", "targets": "tokens learned"}
        for name, shown in names.items():
            value = mean[name]
            per_step = value * self.windows_per_step
            rows.append([shown, f"{value:,.1f}", f"{getattr(longest, name):,}", f"{per_step:,.0f}"])
        flops = self.flops_per_step / 1e12
        per_epoch = -(-self.windows // self.windows_per_step)
        return [
            *aligned(rows),
            f"{self.windows:,} windows ({len(self.sizes)} looked at), {self.windows_per_step} per step, {per_epoch:,} "
            "steps per epoch",
            f"{flops:,.2f} TFLOP per step; MFU = that / (seconds per step * {self.setup.processes} * a GPU's TFLOP/s)",
        ]
