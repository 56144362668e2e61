"""Files and folders that are there as a whole or not at all."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(path: Path, shared: bool = False) -> Iterator[Path]:
    """A file to write, which takes the place of `path` when all is written; after an error `path` is what it was.

    Args:
        path: its folder must be there.
        shared: other processes may write it at the same time; the last one wins.
    """
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial") if shared else _partial(path)
    try:
        yield partial
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_whole(path: Path, content: str | bytes, shared: bool = False) -> None:
    """Writes `content` (text as UTF-8) as a `whole_file`."""
    with whole_file(path, shared) as partial:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """A folder to make and write into, which takes the place of `target` when all is written.

    After an error `target` is what it was. After a kill, too; but in the moment between two renames it is beside its
    place, and `recover` (which this calls) brings it back.
    """
    recover(target)
    partial, replaced = _partial(target), _replaced(target)
    try:
        yield partial
        if target.exists():
            os.rename(target, replaced)
        os.rename(partial, target)
    except BaseException:
        recover(target)
        raise
    shutil.rmtree(replaced, ignore_errors=True)


def recover(target: Path) -> None:
    """Removes what a killed `whole_folder(target)` has left behind; no other process may write `target` meanwhile."""
    if not target.exists() and _replaced(target).exists():
        os.rename(_replaced(target), target)
    for leftover in (_partial(target), _replaced(target)):
        shutil.rmtree(leftover, ignore_errors=True)


def _partial(target: Path) -> Path:
    return target.with_name(f".{target.name}.partial")


def _replaced(target: Path) -> Path:
    return target.with_name(f".{target.name}.replaced")
