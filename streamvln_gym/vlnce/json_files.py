"""JSON files that may be large: read piece by piece, kept outside the memory, written whole or not at all."""

from __future__ import annotations

import gzip
import io
import json
import mmap
import tempfile
import zlib
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from streamvln_gym.errors import DatasetError

GET_DATA = (
    "Download the VLN-CE episodes again (https://github.com/jacobkrantz/VLN-CE#data), or use dataset='flats', which "
    "needs no download."
)

_CHUNK = 1 << 20  # characters read at once
_LARGEST_VALUE = 1 << 26  # characters; a text that is no value by then is corrupt
_IN_MEMORY = 1 << 24  # bytes; a store beyond this lies in a temporary file
_decode = json.JSONDecoder().raw_decode


class Piece(NamedTuple):
    """A part of a JSON document.

    Attributes:
        key: the top-level key it belongs to; None if the document is no object: then it is the whole document.
        item: its place in the array of that key, None if it is the key's whole value.
        value: parsed.
        text: as it stands in the file.
    """

    key: str | None
    item: int | None
    value: Any
    text: str


def read_pieces(path: Path, array_key: str | None = None) -> Iterator[Piece]:
    """Goes once through a file that holds a JSON object, without ever holding all of it.

    Args:
        path: `.json`, or `.json.gz`.
        array_key: the array of this key comes item by item (an empty one as a whole), every other value as a whole.

    Raises:
        DatasetError: the file is missing or broken; the message says how, and what to do.
    """
    try:
        with open_text(path) as stream:
            yield from _Cursor(stream).pieces(array_key)
    except FileNotFoundError as error:
        raise DatasetError(f"there is no episode file {path}. {GET_DATA}") from error
    except EOFError as error:
        raise DatasetError(f"{path} is truncated: the compressed file ends too early. {GET_DATA}") from error
    except (OSError, zlib.error, ValueError, RecursionError) as error:
        problem = broken_download(path)
        if problem is not None:
            raise DatasetError(f"{path} {problem} {GET_DATA}") from error
        if isinstance(error, (OSError, zlib.error)):
            raise DatasetError(f"cannot read {path}: {error}. {GET_DATA}") from error
        raise DatasetError(f"{path} is not valid JSON: {error}. {GET_DATA}") from error


def open_text(path: Path) -> io.TextIOWrapper:
    """A file's text, unzipped if its name ends in .gz."""
    raw: Any = gzip.open(path, "rb") if path.name.endswith(".gz") else path.open("rb")  # noqa: SIM115 (the caller's)
    return io.TextIOWrapper(raw, encoding="utf-8-sig", newline="")


def broken_download(path: Path) -> str | None:
    """What a file is instead of an episode file (a web page, an archive, a pointer, ...), or None."""
    head = _head(path)
    if path.name.startswith("._"):
        return "is a side file of macOS, not data: delete it."
    if not head:
        return "is empty (0 bytes): the download did not finish."
    if head.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer, not the data itself: run `git lfs pull` where it came from."
    if head.startswith(b"PK\x03\x04"):
        return "is a zip archive: unpack it (`unzip`)."
    zipped = head.startswith(b"\x1f\x8b")
    if _is_web_page(head) or (zipped and _is_web_page(_head(path, unzip=True))):
        return "is a web page: the server answered with a message (quota, consent, log-in) instead of the file."
    if path.name.endswith(".gz") and not zipped:
        return "is not compressed although its name ends in .gz: rename it to end in .json if its content is right."
    if not path.name.endswith(".gz") and zipped:
        return "is compressed although its name does not end in .gz: rename it to end in .json.gz."
    return None


def _head(path: Path, unzip: bool = False) -> bytes:
    """The first bytes of a file, b"" if there are none to be had."""
    try:
        with gzip.open(path, "rb") if unzip else path.open("rb") as file:
            return file.read(256)
    except (OSError, EOFError, zlib.error):
        return b""


def _is_web_page(head: bytes) -> bool:
    return head.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith((b"<!doctype", b"<html", b"<?xml"))


class _Cursor:
    """A place in a JSON text that is read on as it is needed."""

    def __init__(self, stream: io.TextIOWrapper) -> None:
        self._stream = stream
        self._buffer = ""
        self._at = 0
        self._dropped = 0  # characters before the buffer
        self._ended = False

    def pieces(self, array_key: str | None) -> Iterator[Piece]:
        """The document's pieces, see `read_pieces`."""
        if self._next() != "{":
            yield Piece(None, None, *self._value())
        else:
            self._at += 1
            more = not self._took("}")
            while more:
                key = self._value()[0]
                if not isinstance(key, str):
                    raise self._error("a key must be a string")
                self._take(":")
                if key == array_key and self._took("["):
                    yield from self._items(key)
                else:
                    yield Piece(key, None, *self._value())
                more = self._goes_on("}")
        if self._next():
            raise self._error("there is more after the document's end")

    def _items(self, key: str) -> Iterator[Piece]:
        more = not self._took("]")
        if not more:
            yield Piece(key, None, [], "[]")
        index = 0
        while more:
            yield Piece(key, index, *self._value())
            index += 1
            more = self._goes_on("]")

    def _value(self) -> tuple[Any, str]:
        """The value that begins here, and its text."""
        self._next()
        while True:
            try:
                value, end = _decode(self._buffer, self._at)
            except json.JSONDecodeError as error:
                if self._ended or len(self._buffer) - self._at > _LARGEST_VALUE:
                    raise self._error(error.msg, error.pos) from None
            else:
                if end + 2 < len(self._buffer) or self._ended:  # else the border may cut "1.5e-3" to "1.5e-"
                    text = self._buffer[self._at : end]
                    self._at = end
                    return value, text
            self._read()

    def _goes_on(self, end: str) -> bool:
        """Steps over a comma (True) or the end of what it separates (False)."""
        if self._took(end):
            return False
        self._take(",")
        return True

    def _take(self, character: str) -> None:
        if not self._took(character):
            raise self._error(f"expected {character!r}")

    def _took(self, character: str) -> bool:
        """Whether `character` comes next; steps over it."""
        found = self._next() == character
        self._at += found
        return found

    def _next(self) -> str:
        """The next character that is no white space, "" at the end."""
        while True:
            while self._at < len(self._buffer):
                if self._buffer[self._at] not in " \t\r\n":
                    return self._buffer[self._at]
                self._at += 1
            if self._ended:
                return ""
            self._read()

    def _read(self) -> None:
        """Reads on: as much again as waits, so that a large value is not parsed many times."""
        self._dropped += self._at
        rest = self._buffer[self._at :]
        read = self._stream.read(max(_CHUNK, len(rest)))
        self._buffer, self._at, self._ended = rest + read, 0, not read

    def _error(self, message: str, at: int | None = None) -> ValueError:
        return ValueError(f"{message} at character {self._dropped + (self._at if at is None else at)}")


class BlobStore:
    """Pieces of data kept in one row, beyond 16 MB in a temporary file that is mapped.

    `append` them all, then `seal`, then read by number. It may be copied to other processes.
    """

    def __init__(self) -> None:
        self._file: Any = tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY)  # noqa: SIM115 (closed by seal)
        self._ends = array("Q")
        self._blob: bytes | mmap.mmap = b""

    def append(self, piece: bytes) -> int:
        """Keeps a piece and returns its number."""
        self._file.write(piece)
        self._ends.append((self._ends[-1] if self._ends else 0) + len(piece))
        return len(self._ends) - 1

    def seal(self) -> None:
        """Ends the writing."""
        size = self._ends[-1] if self._ends else 0
        with self._file as file:
            if size <= _IN_MEMORY:
                file.seek(0)
                self._blob = file.read()
            else:
                file.flush()
                self._blob = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._file = None

    def __getitem__(self, number: int) -> bytes:
        return self._blob[self._ends[number - 1] if number else 0 : self._ends[number]]

    def __len__(self) -> int:
        return len(self._ends)

    def __getstate__(self) -> dict[str, Any]:
        return {"_file": None, "_ends": self._ends, "_blob": bytes(self._blob)}


def pack_json(text: str) -> bytes:
    """A JSON text, compressed."""
    return zlib.compress(text.encode("utf-8", "surrogatepass"), 1)


def unpack_json(packed: bytes) -> Any:
    """The value of a text that `pack_json` compressed."""
    return json.loads(zlib.decompress(packed).decode("utf-8", "surrogatepass"))
