"""Pictures from the wire: everything that can be known before decoding is checked before decoding."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from streamvln_gym.serving.protocol import Camera, Depth, Frame, Observe, ProtocolError

# A progressive JPEG of very many scans is small and takes minutes to decode; cameras write 1 to 11.
_MAX_SCANS = 16
_SCAN_MARKER = b"\xff\xda"  # cannot occur within a scan, where every 0xff is followed by 0


def read_observation(message: Observe, camera: Camera, instruction: str) -> dict[str, Any]:
    """What an agent sees, see `Agent.act`.

    Args:
        message: of the client.
        camera: whose size all pictures have.
        instruction: of the episode.

    Raises:
        ProtocolError: a picture cannot be used.
    """
    observation: dict[str, Any] = {"rgb": read_rgb(message.frame, camera), "instruction": instruction}
    if message.depth is not None:
        observation["depth"] = read_depth(message.depth, camera)
    if message.pose is not None:
        observation["camera_pose"] = np.array(message.pose, np.float32).reshape(4, 4)
    observation["intrinsics"] = np.array(camera.intrinsics)
    return observation


def read_rgb(frame: Frame, camera: Camera) -> NDArray[np.uint8]:
    """The colour picture, (height, width, 3).

    Raises:
        ProtocolError: it cannot be decoded, or has another size than the camera's.
    """
    if frame.encoding == "raw":
        return _raw("bad_frame", frame.data, np.dtype(np.uint8), (camera.height, camera.width, 3))
    picture = _decode("bad_frame", frame.data, frame.encoding.upper(), camera, ("RGB",))
    return np.asarray(picture)


def read_depth(depth: Depth, camera: Camera) -> NDArray[np.float32]:
    """Depth in metres, (height, width, 1).

    Raises:
        ProtocolError: it cannot be decoded, has another size than the camera's, or holds NaN or infinity.
    """
    shape = (camera.height, camera.width, 1)
    if depth.encoding == "raw32":
        metres = _raw("bad_depth", depth.data, np.dtype("<f4"), shape)
        if not np.isfinite(metres).all():
            raise ProtocolError("bad_depth", "depth holds NaN or infinity: write 0 where the sensor has no reading")
        if metres.min() < 0:
            raise ProtocolError("bad_depth", f"depth is negative ({metres.min():.3f} m): send metres from the camera")
        return metres.astype(np.float32, copy=False)
    if depth.encoding == "raw16":
        units = _raw("bad_depth", depth.data, np.dtype("<u2"), shape)
    else:
        units = np.asarray(_decode("bad_depth", depth.data, "PNG", camera, ("I;16", "I;16B", "I"))).reshape(shape)
    return units.astype(np.float32) * np.float32(depth.scale)


def _raw(code: str, data: bytes, dtype: np.dtype, shape: tuple[int, int, int]) -> NDArray:
    expected = int(np.prod(shape)) * dtype.itemsize
    if len(data) != expected:
        raise ProtocolError(
            code, f"{len(data)} bytes cannot be a picture of shape {shape} in {dtype.name}: {expected} are needed"
        )
    return np.frombuffer(data, dtype).reshape(shape)


def _decode(code: str, data: bytes, kind: str, camera: Camera, modes: tuple[str, ...]) -> Image.Image:
    """Reads the header, compares it with what was agreed, and only then decodes."""
    if kind == "JPEG" and data.count(_SCAN_MARKER) > _MAX_SCANS:
        raise ProtocolError(code, f"the JPEG has more than {_MAX_SCANS} scans: send baseline JPEG")
    try:
        picture = Image.open(io.BytesIO(data), formats=(kind,))
    except Exception as error:  # pillow raises many kinds for broken headers, and one of its own for huge pictures
        raise ProtocolError(code, f"the picture's header is no {kind}'s, or names a huge picture") from error
    if picture.size != (camera.width, camera.height):
        width, height = picture.size
        raise ProtocolError(
            code, f"the picture has {width}×{height} pixels, but hello said {camera.width}×{camera.height}"
        )
    if picture.mode not in modes:
        raise ProtocolError(code, f"the picture's mode is {picture.mode}, but {' or '.join(modes)} is needed")
    try:
        picture.load()
    except Exception as error:  # likewise, for broken contents
        raise ProtocolError(code, f"the {kind} cannot be decoded: it is truncated or damaged") from error
    return picture
