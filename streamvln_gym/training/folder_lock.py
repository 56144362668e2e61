"""Keeps two processes from writing into one folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from streamvln_gym.errors import DatasetError, TrainingError


@contextmanager
def only_process(folder: Path, doing: str) -> Iterator[None]:
    """Keeps a second process out of the folder, where the system can lock files; a killed one's lock is gone with it.

    Args:
        folder: that exists.
        doing: what is done there, for the message.

    Raises:
        DatasetError: another process is `doing` something there.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DatasetError(f"another process is {doing} {folder}: wait, or give another --out") from error
        yield
    finally:
        os.close(handle)


def make_for_training(folder: Path) -> AbstractContextManager[None]:
    """A training's folder, made if need be, with other processes kept out.

    Raises:
        TrainingError: it cannot be made.
        DatasetError: another process trains in it.
    """
    if folder.exists() and not folder.is_dir():
        raise TrainingError(f"{folder} is a file: choose a folder for the run")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TrainingError(f"{folder} cannot be made: {error}; give another folder with --out") from error
    return only_process(folder, "training in")
