"""Where the package keeps what it builds."""

from __future__ import annotations

import os
from pathlib import Path

from platformdirs import user_cache_dir

from streamvln_gym.errors import DatasetError

CACHE_VARIABLE = "STREAMVLN_GYM_CACHE"


def cache_dir() -> Path:
    """The cache folder: the environment variable `STREAMVLN_GYM_CACHE`, else the user's cache folder."""
    chosen = os.environ.get(CACHE_VARIABLE)
    return Path(chosen).expanduser() if chosen else Path(user_cache_dir("streamvln-gym", appauthor=False))


def make_writable(folder: Path) -> Path:
    """Makes `folder` if need be and returns it.

    Raises:
        DatasetError: it cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DatasetError(_unwritable(folder, str(error))) from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise DatasetError(_unwritable(folder, "permission denied"))
    return folder


def _unwritable(folder: Path, reason: str) -> str:
    return (
        f"cannot write to {folder} ({reason}). Build in a folder that you can write to: `streamvln-gym build-flats "
        f"--out DIR`, used with dataset=DIR, or for the cache the environment variable {CACHE_VARIABLE}."
    )
