"""Safetensors files, read and written a block at a time: a checkpoint of any size needs little memory beside itself."""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from streamvln_gym.errors import CheckpointError

BLOCK_BYTES = 32 * 2**20
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
INDEX_NAME = "model.safetensors.index.json"
SINGLE_NAME = "model.safetensors"


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies.

    Attributes:
        file: a safetensors file.
        dtype: safetensors' name of the dtype, a key of `DTYPES`.
        shape: of the tensor.
        start: first byte in the file.
        size: number of bytes.
    """

    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    size: int

    def read(self, dtype: torch.dtype | None = None, device: torch.device | str = "cpu") -> Tensor:
        """The tensor, cast and moved block by block."""
        stored = DTYPES[self.dtype]
        result = torch.empty(self.shape, dtype=dtype or stored, device=device)
        flat, position = result.view(-1), 0
        for block in self.blocks():
            values = torch.frombuffer(block, dtype=stored)
            flat[position : position + len(values)].copy_(values)
            position += len(values)
        return result

    def blocks(self) -> Iterator[bytearray]:
        """The tensor's bytes; the buffer is reused, so a block must be used before the next is asked for."""
        buffer = bytearray(min(BLOCK_BYTES, self.size))
        with self.file.open("rb") as file:
            file.seek(self.start)
            left = self.size
            while left:
                if left < len(buffer):
                    buffer = bytearray(left)
                if file.readinto(buffer) != len(buffer):
                    raise CheckpointError(f"{self.file} ends in the middle of a tensor: copy the file again")
                left -= len(buffer)
                yield buffer


def find_tensors(folder: Path) -> dict[str, StoredTensor]:
    """All tensors of a checkpoint folder, from one file or the shards that its index names.

    Raises:
        CheckpointError: there are no safetensors files, shards are missing, or a file is malformed or truncated.
    """
    index, single = folder / INDEX_NAME, folder / SINGLE_NAME
    if not index.is_file():
        if not single.is_file():
            raise CheckpointError(
                f"the weights in {folder} cannot be read: there is neither {SINGLE_NAME} nor {INDEX_NAME}; "
                "copy the checkpoint's safetensors files there"
            )
        return read_header(single)
    try:
        places: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        if not isinstance(places, dict) or not all(isinstance(place, str) for place in places.values()):
            raise TypeError("'weight_map' must give a file name for every tensor")
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{index} is no index of safetensors shards: {error}; copy it again") from error
    shards = sorted(set(places.values()))
    missing = [name for name in shards if not (folder / name).is_file()]
    if missing:
        raise CheckpointError(
            f"the weights in {folder} lack {len(missing)} of {len(shards)} shards: {_list(missing)}; copy them there"
        )
    found: dict[str, StoredTensor] = {}
    for name in shards:
        found.update(read_header(folder / name))
    absent = sorted(set(places) - set(found))
    if absent:
        raise CheckpointError(
            f"{index} names {len(absent)} tensors that no shard holds: {_list(absent)}; copy index and shards again, "
            "from one checkpoint"
        )
    return found


def read_header(path: Path) -> dict[str, StoredTensor]:
    """The tensors of one safetensors file.

    Raises:
        CheckpointError: the file is malformed or truncated.
    """
    size = path.stat().st_size
    try:
        if size < 8:
            raise ValueError(f"it has only {size} bytes")
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > size - 8:
                raise ValueError(f"its header of {length} bytes is longer than the file")
            header: dict[str, Any] = json.loads(file.read(length))
        if not isinstance(header, dict):
            raise ValueError("its header is no JSON object")
        found = {}
        for name, entry in header.items():
            if name == "__metadata__":
                continue
            first, last = entry["data_offsets"]
            if 8 + length + last > size:
                raise ValueError(f"it is cut: {name} should end at byte {8 + length + last}, the file has {size}")
            if entry["dtype"] not in DTYPES:
                raise ValueError(f"{name} has the dtype {entry['dtype']}, which is not supported")
            shape = tuple(entry["shape"])
            needed = prod(shape) * DTYPES[entry["dtype"]].itemsize
            if first < 0 or last - first != needed:
                raise ValueError(f"{name} takes {last - first} bytes, but its shape {shape} needs {needed}")
            found[name] = StoredTensor(path, entry["dtype"], shape, 8 + length + first, needed)
    except (ValueError, KeyError, TypeError, struct.error) as error:
        raise CheckpointError(f"{path} cannot be read as a safetensors file: {error}; copy the file again") from error
    return found


def write_tensors(
    folder: Path,
    tensors: Mapping[str, StoredTensor],
    max_shard_bytes: int,
    progress: Callable[[str], None] | None = None,
) -> dict[str, str]:
    """Copies tensors under new names, byte for byte, into shards.

    Args:
        folder: an existing folder.
        tensors: new name -> where the tensor lies now.
        max_shard_bytes: a new shard is begun before it would grow beyond this (one tensor may be larger).
        progress: called with each shard's name.

    Returns:
        sha256 of each tensor's bytes by new name.
    """
    shards: list[list[str]] = [[]]
    size = 0
    for name, tensor in tensors.items():
        if shards[-1] and size + tensor.size > max_shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += tensor.size
    digests: dict[str, str] = {}
    places: dict[str, str] = {}
    for number, names in enumerate(shards, 1):
        one = len(shards) == 1
        shard = SINGLE_NAME if one else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        if progress:
            progress(shard)
        digests.update(_write_shard(folder / shard, {name: tensors[name] for name in names}))
        places.update(dict.fromkeys(names, shard))
    if len(shards) > 1:
        total = sum(tensor.size for tensor in tensors.values())
        index = {"metadata": {"total_size": total}, "weight_map": places}
        (folder / INDEX_NAME).write_text(json.dumps(index, indent=2), encoding="utf-8")
    return digests


def _write_shard(path: Path, tensors: Mapping[str, StoredTensor]) -> dict[str, str]:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, tensor in tensors.items():
        header[name] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset + tensor.size],
        }
        offset += tensor.size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    digests = {}
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, tensor in tensors.items():
            digest = hashlib.sha256()
            for block in tensor.blocks():
                digest.update(block)
                file.write(block)
            digests[name] = digest.hexdigest()
        file.flush()
        os.fsync(file.fileno())
    return digests


def _list(names: Sequence[str], most: int = 20) -> str:
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
