"""One name for the agents, light imports, and a wheel that holds what it must and no more."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def run(code: str, cwd: Path = ROOT) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=cwd, timeout=120)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel, built from a copy of the sources so that the checkout stays clean."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    copy = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(copy, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("the checkout is no git repository, so its files cannot be told from build products")
    for name in listed.stdout.split("\0"):
        if name and (ROOT / name).is_file() and not name.startswith(("tests/", "docs/")):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(folder)]
    pytest.importorskip("setuptools", reason="building the wheel offline needs setuptools in the environment")
    built = subprocess.run([*command, str(source)], capture_output=True, text=True, timeout=300)
    assert built.returncode == 0, built.stderr
    (path,) = folder.glob("*.whl")
    return path


def test_import_is_light():
    code = "import sys, streamvln_gym; print([m for m in ('torch', 'numba', 'trimesh') if m in sys.modules])"
    assert run(code).stdout.strip() == "[]"


def test_agents_import_is_light():
    code = "import sys, streamvln_gym.agents as a; a.RandomAgent(seed=0); print('torch' in sys.modules)"
    assert run(code).stdout.strip() == "False"


def test_the_wheel_installs_one_package_with_the_agents_inside(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"streamvln_gym"}
    assert "streamvln_gym/agents/streamvln.py" in names
    assert "streamvln_gym/py.typed" in names
    assert "streamvln_gym/evaluation/report/assets/page.html.j2" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_the_wheel_holds_the_checkpoint_once(wheel):
    folder = "streamvln_gym/models/assets/streamvln_tiny/"
    entries = {entry.filename: entry for entry in zipfile.ZipFile(wheel).infolist()}
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        assert folder + name in entries
    assert sum(name.endswith("tokenizer.json") for name in entries) == 1
    assert sum(entry.compress_size for name, entry in entries.items() if name.startswith(folder)) <= 16_000_000
    assert wheel.stat().st_size <= 17_000_000


def test_the_wheel_gives_the_agents_their_one_name(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path / 'site')!r})\n"
        "import streamvln_gym, streamvln_gym.agents as a\n"
        "print(a.__name__, a.OracleAgent.__module__, a.__file__)\n"
    )
    name, module, file = run(code, cwd=tmp_path).stdout.split()
    assert (name, module) == ("streamvln_gym.agents", "streamvln_gym.agents.oracle")
    assert file.startswith(str(tmp_path / "site"))


def test_a_run_from_the_repository_gives_the_same_name():
    imports = "import streamvln_gym.agents as a\nprint(a.__name__, a.__file__)"
    name, file = run(f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{imports}").stdout.split()
    assert name == "streamvln_gym.agents"
    assert Path(file) == ROOT / "agents" / "__init__.py"


def test_the_bare_name_is_refused_with_the_remedy():
    result = run(f"import sys; sys.path.insert(0, {str(ROOT)!r})\nimport agents")
    assert result.returncode != 0
    assert "streamvln_gym.agents" in result.stderr


def test_readme_names_the_test_command_that_ci_runs():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    command = readme.split("<!-- test command -->")[1].split("```bash\n")[1].split("\n```")[0]
    assert "pytest" in command and "constraints.txt" in command
