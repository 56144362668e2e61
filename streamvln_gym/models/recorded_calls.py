"""Functions on a GPU that are launched once and then replayed as CUDA graphs."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Function = Callable[..., tuple[Tensor, ...]]
_WARM_UPS = 2


@dataclass(frozen=True)
class _Recording:
    graph: Any
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


class RecordedCalls:
    """Calls functions; on a GPU a call of a known key is the replay of a recording.

    A function to be recorded works on tensors alone, of shapes that its key determines: no waiting for the device, no
    decision that depends on what tensors hold. What it reads besides its inputs it must find at the same place each
    time. Its outputs lie where the next replay of the same key overwrites them.

    Args:
        record: False calls the functions as they are.
        state: tensors that the functions change besides their outputs, which recording must leave as they are.
    """

    def __init__(self, record: bool, state: Sequence[Tensor] = ()) -> None:
        self.record = record
        self._state = list(state)
        self._recordings: dict[Hashable, _Recording] = {}
        self._pool: Any = None

    def __getstate__(self) -> dict[str, Any]:
        """Without the recordings, which can neither be copied nor pickled."""
        return {**self.__dict__, "_recordings": {}, "_pool": None}

    def __len__(self) -> int:
        return len(self._recordings)

    def clear(self) -> None:
        """Forgets all recordings: something that they read has moved."""
        self._recordings.clear()
        self._pool = None

    def __call__(self, key: Hashable | None, function: Function, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The function's outputs.

        Args:
            key: names the function and the shapes; None calls it as it is.
            function: see the class.
            inputs: of the function.
        """
        if not self.record or key is None:
            return function(*inputs)
        recording = self._recordings.get(key)
        if recording is None:
            recording = self._recordings[key] = self._capture(function, inputs)
        for own, given in zip(recording.inputs, inputs, strict=True):
            own.copy_(given, non_blocking=True)
        recording.graph.replay()
        return recording.outputs

    def _capture(self, function: Function, inputs: Sequence[Tensor]) -> _Recording:
        """Runs the function a few times, so that libraries and kernels are ready, and records it."""
        held = [tensor.clone() for tensor in self._state]
        own = tuple(tensor.clone() for tensor in inputs)
        with torch.cuda.device(own[0].device):  # streams are made on the current device, whatever tensors lie on
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(_WARM_UPS):
                    self._restore(held, own, inputs)
                    function(*own)
                self._restore(held, own, inputs)
            torch.cuda.current_stream().wait_stream(stream)
            torch.cuda.synchronize()
            if self._pool is None:
                self._pool = torch.cuda.graph_pool_handle()
            graph = torch.cuda.CUDAGraph()
            # A stream of its own: the one that torch keeps for captures lies on the device that captured first.
            with torch.cuda.graph(graph, pool=self._pool, stream=stream, capture_error_mode="thread_local"):
                outputs = function(*own)
        return _Recording(graph, own, outputs)

    def _restore(self, held: Sequence[Tensor], own: Sequence[Tensor], inputs: Sequence[Tensor]) -> None:
        for tensor, value in zip((*self._state, *own), (*held, *inputs), strict=True):
            tensor.copy_(value)
