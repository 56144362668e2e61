"""Which graphics devices EGL offers, and which of them CUDA knows: what habitat-sim's `gpu_device_id` chooses from.

habitat-sim ends the *process* (no exception) when `gpu_device_id` names a CUDA device that EGL does not have, so this
is asked beforehand; and in a process of its own, because a broken graphics driver can end that one too.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import json
import subprocess
import sys
from dataclasses import dataclass
from functools import lru_cache

_CUDA_DEVICE_NV = 0x323A  # EGL_NV_device_cuda
_MOST_DEVICES = 64
_TIMEOUT_SECONDS = 60.0


@dataclass(frozen=True)
class EglDevices:
    """What EGL found.

    Attributes:
        cuda_ids: for every device its CUDA number, None for one that is no CUDA device (software rendering).
        problem: why nothing could be asked, "" if it could.
    """

    cuda_ids: tuple[int | None, ...] = ()
    problem: str = ""

    @property
    def default_gpu(self) -> int:
        """habitat-sim's `gpu_device_id`: the first CUDA device, or -1 (EGL's first device) without one."""
        return min((number for number in self.cuda_ids if number is not None), default=-1)

    def __str__(self) -> str:
        if self.problem:
            return self.problem
        names = ["no CUDA device" if number is None else f"CUDA {number}" for number in self.cuda_ids]
        return f"{len(names)} EGL devices ({', '.join(names)})" if names else "no EGL device"


@lru_cache(maxsize=1)
def egl_devices() -> EglDevices:
    """Asks EGL in a process of its own; the answer is kept."""
    command = [sys.executable, "-I", __file__]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return EglDevices(problem=f"EGL could not be asked for its devices: {error}")
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        return EglDevices(problem=f"EGL cannot be used: {last}")
    return EglDevices(tuple(json.loads(done.stdout.splitlines()[-1])))


def query() -> list[int | None]:
    """The devices of this process's EGL: CUDA numbers, None for others.

    Raises:
        RuntimeError: there is no EGL, or it cannot list devices.
    """
    path = ctypes.util.find_library("EGL")
    if path is None:
        raise RuntimeError("the library libEGL is not installed")
    egl = ctypes.CDLL(path)
    egl.eglGetProcAddress.restype = ctypes.c_void_p
    egl.eglGetProcAddress.argtypes = [ctypes.c_char_p]
    list_devices, device_number = (
        egl.eglGetProcAddress(name) for name in (b"eglQueryDevicesEXT", b"eglQueryDeviceAttribEXT")
    )
    if not list_devices or not device_number:
        raise RuntimeError("this libEGL cannot list devices (it lacks EGL_EXT_device_enumeration)")
    devices = (ctypes.c_void_p * _MOST_DEVICES)()
    count = ctypes.c_int()
    get_devices = ctypes.CFUNCTYPE(ctypes.c_uint, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)(list_devices)
    if not get_devices(_MOST_DEVICES, devices, ctypes.byref(count)):
        raise RuntimeError("EGL refused to list its devices")
    get_number = ctypes.CFUNCTYPE(ctypes.c_uint, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)(device_number)
    numbers: list[int | None] = []
    for device in devices[: count.value]:
        number = ctypes.c_ssize_t()
        numbers.append(number.value if get_number(device, _CUDA_DEVICE_NV, ctypes.byref(number)) else None)
    return numbers


if __name__ == "__main__":
    try:
        print(json.dumps(query()))
    except RuntimeError as error:
        sys.exit(str(error))
