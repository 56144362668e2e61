"""Triton's interpreter, for processes that were started with TRITON_INTERPRET=1."""

from typing import Any


def mend() -> None:
    """Lets Triton 3.6 interpret loops with numpy 2.4 and later, which make no number of an array with one element."""
    import triton.runtime.interpreter as interpreter

    patch = interpreter._patch_lang_tensor

    def patch_and_mend(tensor: Any, scope: Any) -> None:
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())

    interpreter._patch_lang_tensor = patch_and_mend
