"""Evaluation: playing whole splits, what it leaves on disk, comparing two runs, and the page about a run.

Names are imported when they are used, so `import streamvln_gym.evaluation` needs no torch.
"""

from typing import Any

from streamvln_gym.lazy import lazy_exports

_LAZY = {
    "EvaluationConfig": "config",
    "EvaluationResult": "evaluator",
    "evaluate": "evaluator",
    "compare": "comparison",
    "read_run": "run_folder",
    "failure_kind": "failures",
}
__all__ = sorted(_LAZY)
_load = lazy_exports(__name__, _LAZY)


def __getattr__(name: str) -> Any:
    return _load(name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
