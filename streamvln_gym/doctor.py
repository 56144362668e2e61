"""Says what is installed and found, and what to do about the rest."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from streamvln_gym import __version__
from streamvln_gym.cache import CACHE_VARIABLE, cache_dir, make_writable
from streamvln_gym.errors import CheckpointError, DatasetError
from streamvln_gym.findings import Finding
from streamvln_gym.flats.dataset import SPLITS, split_seeds
from streamvln_gym.flats.files import DATASET_NAME, episode_file
from streamvln_gym.models.shipped import SHIPPED_NAME, shipped_checkpoint
from streamvln_gym.simulators.habitat_doctor import habitat_findings
from streamvln_gym.vlnce.layouts import LAYOUTS

_NEEDED = (
    "gymnasium",
    "numpy",
    "numba",
    "trimesh",
    "shapely",
    "scipy",
    "pillow",
    "imageio-ffmpeg",
    "torch",
    "transformers",
)
_OPTIONAL = {
    "stable-baselines3": "reinforcement learning: pip install 'streamvln-gym[rl]'",
    "accelerate": "training: pip install 'streamvln-gym[train]'",
    "peft": "training with LoRA: pip install 'streamvln-gym[train]'",
    "fastapi": "an agent for robots: pip install 'streamvln-gym[serve]'",
    "ray": "evaluation on a Ray cluster: pip install 'streamvln-gym[ray]'",
    "rerun-sdk": "live viewer and recordings: pip install 'streamvln-gym[viewer]'",
}


def diagnose(data_dir: Path = Path("data")) -> list[Finding]:
    """Looks at packages, GPU, simulators, data and caches; changes nothing but makes the cache folder."""
    return [
        *_packages(),
        _gpu(),
        _weights(),
        *_simulators(),
        *_downloads(data_dir),
        *_flats(),
        _prepared_scans(),
        _kernel_cache(),
    ]


def _packages() -> list[Finding]:
    findings = [
        Finding("python", "ok", f"{platform.python_version()} at {sys.executable}"),
        Finding("streamvln-gym", "ok", __version__),
    ]
    for name in _NEEDED:
        try:
            findings.append(Finding(name, "ok", version(name)))
        except PackageNotFoundError:
            findings.append(Finding(name, "problem", "not installed", f"pip install {name}"))
    for name, use in _OPTIONAL.items():
        try:
            findings.append(Finding(name, "ok", version(name)))
        except PackageNotFoundError:
            findings.append(Finding(name, "missing", "not installed (optional)", use))
    return findings


def _gpu() -> Finding:
    if importlib.util.find_spec("torch") is None:
        return Finding("GPU", "missing", "unknown without torch")
    import torch

    if torch.cuda.is_available():
        names = ", ".join(torch.cuda.get_device_name(k) for k in range(torch.cuda.device_count()))
        return Finding("GPU", "ok", f"{names} (CUDA {torch.version.cuda})")
    built = "this torch is a CPU build" if torch.version.cuda is None else "torch sees no device"
    return Finding(
        "GPU",
        "missing",
        f"none: {built}",
        "the small agent and the simulator run on the CPU; 7B checkpoints want a GPU",
    )


def _weights() -> Finding:
    try:
        folder = shipped_checkpoint()
    except CheckpointError as error:
        return Finding(SHIPPED_NAME, "problem", "the package's own checkpoint is not whole", str(error))
    return Finding(SHIPPED_NAME, "ok", f"the package's own checkpoint, {folder}")


def _simulators() -> list[Finding]:
    return [Finding("simulator 'embedded'", "ok", "built in"), *habitat_findings()]


def _downloads(data_dir: Path) -> list[Finding]:
    findings = []
    for name, layout in LAYOUTS.items():
        splits = layout.splits(data_dir)
        if splits:
            folders = [folder for folder in layout.folders if (data_dir / "datasets" / folder).is_dir()]
            detail = f"{data_dir}/datasets/{{{','.join(folders)}}}: {', '.join(splits)}"
            findings.append(
                Finding(f"dataset '{name}'", "ok", detail, f"checked by: streamvln-gym data check {data_dir}")
            )
        else:
            findings.append(
                Finding(
                    f"dataset '{name}'",
                    "missing",
                    f"nothing in {data_dir / 'datasets' / layout.folders[0]} and the other folders it may have",
                    f"get {layout.get}; dataset='auto' uses the embedded flats until then",
                )
            )
    scans = list((data_dir / "scene_datasets" / "mp3d").glob("*/*.glb"))
    findings.append(
        Finding("Matterport3D scans", "ok", f"{len(scans)} scans")
        if scans
        else Finding(
            "Matterport3D scans",
            "missing",
            f"nothing in {data_dir / 'scene_datasets' / 'mp3d'}",
            "they are licensed: https://niessner.github.io/Matterport/",
        )
    )
    return findings


def _flats() -> list[Finding]:
    root = cache_dir() / DATASET_NAME
    try:
        make_writable(root)
    except DatasetError as error:
        return [Finding("cache", "problem", str(root), str(error))]
    free = shutil.disk_usage(root).free / 1e9
    findings = [Finding("cache", "ok", f"{root} ({free:.1f} GB free; {CACHE_VARIABLE} moves it)")]
    for split in SPLITS:
        seeds = split_seeds(split)
        built = sum(episode_file(root, split, seed).exists() for seed in seeds)
        detail = f"{built} of {len(seeds)} scenes built"
        build = f"the rest is built on first use, or now by `streamvln-gym build-flats --split {split}`"
        remedy = "" if built == len(seeds) else build
        findings.append(Finding(f"flats '{split}'", "ok", detail, remedy))
    return findings


def _prepared_scans() -> Finding:
    """What the cache folder holds of large scenes."""
    from streamvln_gym.simulators.embedded.scene_cache import scans_folder

    sizes = [file.stat().st_size for file in scans_folder().glob("*.mesh")]
    return Finding(
        "prepared scans",
        "ok",
        f"{len(sizes)} in {scans_folder()}, {sum(sizes) / 1e9:.1f} GB (the folder can be deleted at any time)",
    )


def _kernel_cache() -> Finding:
    """numba writes compiled kernels beside the package, or into the user's cache folder if it may not."""
    folder = Path(__file__).parent / "simulators" / "embedded"
    if os.access(folder, os.W_OK):
        return Finding("compiled kernels", "ok", f"kept in {folder / '__pycache__'}")
    return Finding("compiled kernels", "ok", "kept in numba's cache folder (NUMBA_CACHE_DIR moves it)")
