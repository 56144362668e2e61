"""Which simulator "auto" takes, what an explicit "habitat" says that cannot be had, and what the doctor finds."""

from __future__ import annotations

from pathlib import Path

import pytest

from streamvln_gym.env import VLNEnv
from streamvln_gym.errors import SimulatorUnavailableError
from streamvln_gym.simulators import egl_devices, habitat, habitat_doctor, habitat_install
from streamvln_gym.simulators.base import CameraConfig
from streamvln_gym.simulators.choice import make_simulator, resolve_simulator
from streamvln_gym.simulators.egl_devices import EglDevices
from streamvln_gym.simulators.habitat_install import HabitatInstallation
from tests.conftest import SMALL_CAMERA, TinyFlats

NOTHING = HabitatInstallation(sim=False, lab=False)
WORKS = HabitatInstallation(True, True, "0.3.3", "0.3.320260507")
NUMPY = HabitatInstallation(True, True, "0.3.3", "0.3.3", "ImportError: numpy.core.multiarray failed to import")
EGL = HabitatInstallation(True, True, "0.3.3", "0.3.3", "ImportError: libEGL.so.1: cannot open shared object file")
LAB_ONLY = HabitatInstallation(False, True, "", "0.3.320260507")
OLD = HabitatInstallation(True, True, "0.2.4", "0.2.4")


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch):
    """Pretends that habitat is installed in some way."""

    def pretend(found: HabitatInstallation) -> None:
        for module in (habitat_install, habitat_doctor):
            monkeypatch.setattr(module, "habitat_installation", lambda: found)

    return pretend


def test_auto_takes_habitat_for_scans_only(installed) -> None:
    installed(WORKS)
    assert resolve_simulator("auto", "r2r") == "habitat"
    assert resolve_simulator("auto", "flats-v3") == "embedded"
    assert resolve_simulator("auto", "r2r", CameraConfig(vfov=79.0)) == "embedded"  # 640x480: not square pixels
    assert resolve_simulator("embedded", "r2r") == "embedded"
    assert resolve_simulator("habitat", "flats-v3") == "habitat"


@pytest.mark.parametrize("found", [NOTHING, NUMPY, EGL, LAB_ONLY, OLD])
def test_auto_is_embedded_where_habitat_does_not_work(installed, found: HabitatInstallation) -> None:
    installed(found)
    assert resolve_simulator("auto", "r2r") == "embedded"


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (NOTHING, r"conda install habitat-sim=0\.3\.3 headless -c conda-forge -c aihabitat.*streamvln-gym\[habitat\]"),
        (HabitatInstallation(True, False, "0.3.3"), r"habitat-lab.*not installed.*streamvln-gym\[habitat\]"),
        (OLD, r"0\.2\.4.*conda install"),
        (NUMPY, r"cannot be imported: ImportError: numpy.*doctor"),
    ],
)
def test_explicit_habitat_is_an_error_with_the_remedy(
    installed, tiny_flats: TinyFlats, found: HabitatInstallation, message: str
) -> None:
    installed(found)
    with pytest.raises(SimulatorUnavailableError, match=message):
        VLNEnv(tiny_flats.episodes_path, "habitat", data_dir=tiny_flats.root)
    with pytest.raises(SimulatorUnavailableError, match=message):
        make_simulator("habitat", SMALL_CAMERA)


def test_unknown_simulators() -> None:
    with pytest.raises(SimulatorUnavailableError, match="unknown simulator 'gazebo'"):
        resolve_simulator("gazebo")
    with pytest.raises(SimulatorUnavailableError, match="unknown simulator 'gazebo'"):
        make_simulator("gazebo", SMALL_CAMERA)
    with pytest.raises(TypeError, match="a name or a Simulator, got int"):
        resolve_simulator(3)  # type: ignore[arg-type]


def test_a_camera_that_habitat_cannot_render(installed) -> None:
    installed(WORKS)
    with pytest.raises(ValueError, match=r"square pixels only.*simulator='embedded'"):
        make_simulator("habitat", CameraConfig(112, 112, vfov=63.5))
    assert habitat.has_square_pixels(CameraConfig(112, 112, vfov=79.0))
    with pytest.raises(ValueError, match="unknown sensors"):
        make_simulator("habitat", SMALL_CAMERA, ("sonar",))


def test_the_gpu_is_one_that_egl_has(monkeypatch: pytest.MonkeyPatch) -> None:
    def pretend(devices: EglDevices) -> None:
        monkeypatch.setattr(habitat, "egl_devices", lambda: devices)

    pretend(EglDevices((None,)))
    assert habitat.checked_gpu(None) == -1 and habitat.checked_gpu(-1) == -1
    with pytest.raises(SimulatorUnavailableError, match=r"gpu_device_id=0 is not there.*1 EGL devices"):
        habitat.checked_gpu(0)  # habitat-sim would end the process here
    pretend(EglDevices((1, 0, None)))
    assert habitat.checked_gpu(None) == 0 and habitat.checked_gpu(1) == 1
    with pytest.raises(SimulatorUnavailableError, match="CUDA 1, CUDA 0, no CUDA device"):
        habitat.checked_gpu(2)
    pretend(EglDevices(problem="EGL cannot be used: the library libEGL is not installed"))
    with pytest.raises(SimulatorUnavailableError, match=r"libEGL is not installed.*apt-get install"):
        habitat.checked_gpu(None)


def test_egl_is_asked_in_another_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    answer = egl_devices.egl_devices()
    assert answer.problem or len(answer.cuda_ids) >= 0
    crashing = tmp_path / "crash.py"
    crashing.write_text("import os, sys\nprint('driver fault', file=sys.stderr, flush=True)\nos.abort()\n")
    monkeypatch.setattr(egl_devices, "__file__", str(crashing))
    assert egl_devices.egl_devices.__wrapped__().problem == "EGL cannot be used: driver fault"


@pytest.mark.parametrize(
    ("found", "status", "words"),
    [
        (NOTHING, "missing", "conda install habitat-sim"),
        (WORKS, "ok", ""),
        (LAB_ONLY, "missing", "streamvln_gym.habitat_lab"),
        (NUMPY, "problem", "numpy==1.26.4"),
        (EGL, "problem", "libegl1"),
        (OLD, "problem", "0.2.4"),
    ],
)
def test_the_doctor_says_what_is_wrong(installed, found: HabitatInstallation, status: str, words: str) -> None:
    installed(found)
    finding = habitat_doctor.habitat_findings()[0]
    assert finding.topic == "simulator 'habitat'" and finding.status == status
    assert words in finding.remedy


def test_the_doctor_looks_at_graphics_and_numpy(installed, monkeypatch: pytest.MonkeyPatch) -> None:
    installed(WORKS)
    for devices, status, words in (
        (EglDevices((0, None)), "ok", "gpu_device_id 0 is used"),
        (EglDevices((None,)), "ok", "gpu_device_id -1 is used"),
        (EglDevices(problem="EGL cannot be used: no library"), "problem", "no library"),
    ):
        monkeypatch.setattr(habitat_doctor, "egl_devices", lambda found=devices: found)
        findings = {finding.topic: finding for finding in habitat_doctor.habitat_findings()}
        assert findings["habitat's graphics"].status == status
        assert words in findings["habitat's graphics"].detail
    monkeypatch.setattr(habitat_doctor, "version", lambda name: {"numpy": "2.4.6", "gym": "0.23.0"}[name])
    findings = {finding.topic: finding for finding in habitat_doctor.habitat_findings()}
    assert "this is 2.4.6" in findings["habitat's numpy"].detail and "1.26.4" in findings["habitat's numpy"].remedy


def test_importing_is_tried_in_another_process() -> None:
    if habitat_install.habitat_installation().sim:
        pytest.skip("habitat-sim is installed")
    assert "habitat_sim" in habitat_install._import_error()


def test_habitat_lab_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    from streamvln_gym import habitat_lab

    monkeypatch.setattr(habitat_lab.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SimulatorUnavailableError, match=r"habitat-lab is not installed.*\[habitat\]"):
        habitat_lab.register_embedded_simulator()
    monkeypatch.setattr(habitat_lab.importlib.util, "find_spec", lambda name: object())
    with pytest.raises(ValueError, match="'Sim-v0' is habitat-sim's"):
        habitat_lab.register_embedded_simulator("Sim-v0")
