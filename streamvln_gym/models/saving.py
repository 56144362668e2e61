"""What is written about a network may differ from what the network at hand is set to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def changed(config: Any, **values: Any) -> Iterator[None]:
    """Gives a configuration these values for a while, as when it is saved."""
    before = {name: getattr(config, name) for name in values}
    try:
        for name, value in values.items():
            setattr(config, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(config, name, value)
