"""Serves an agent to robots over WebSocket: `streamvln-gym serve`, or `PolicyServer` in a program of your own.

The protocol is described in docs/robots.md; examples/robot_client.py is a client. Needs the extra `[serve]`.
"""

from typing import Any

from streamvln_gym.lazy import lazy_exports

_LAZY = {"ServeConfig": "config", "PolicyServer": "server", "serve": "server", "ProtocolError": "protocol"}
__all__ = sorted(_LAZY)
_load = lazy_exports(__name__, _LAZY)


def __getattr__(name: str) -> Any:
    return _load(name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
