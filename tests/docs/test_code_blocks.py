"""Every `python` and `bash` block of README and docs/ runs, page by page, or says why it does not.

The blocks of a page share a folder and, those in Python, a namespace, as for somebody who reads it from top to bottom.
Blocks that are not executed are checked as far as that goes without executing them: imports, files, options.
"""

from __future__ import annotations

import ast
import importlib
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import tyro

from streamvln_gym import cli
from tests.docs.blocks import Block, MarkerError, read_blocks

ROOT = Path(__file__).parents[2]
# Those with most code first, so that two processes end at about the same time.
PAGES = sorted(
    [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")],
    key=lambda page: (-page.read_text(encoding="utf-8").count("```"), page),
)
# Prints the commands of a script, words apart by \x1f, instead of running any.
ECHO = "PATH=/nonexistent\nsource() { :; }\ncommand_not_found_handle() { printf '%s\\x1f' \"$@\"; echo; }\n"


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.fixture
def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder as of a checkout, in which blocks run without a network."""
    for folder in ("examples", "benchmarks", "tools"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    for name in ("HF_HUB_OFFLINE", "PIP_NO_INDEX", "OMP_NUM_THREADS"):
        monkeypatch.setenv(name, "1")
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setattr(socket.socket, "connect", local_only(socket.socket.connect))
    threads, random_state = torch.get_num_threads(), torch.get_rng_state()
    torch.set_num_threads(1)
    yield tmp_path
    torch.set_num_threads(threads)
    torch.set_rng_state(random_state)


def local_only(connect: Any) -> Any:
    def connect_locally(self: socket.socket, address: Any) -> None:
        if isinstance(address, tuple) and address[0] not in ("127.0.0.1", "::1", "localhost"):
            raise OSError(f"the documentation's blocks run without a network, but one connected to {address}")
        connect(self, address)

    return connect_locally


def run_bash(block: Block) -> None:
    """Runs a block; the first command that fails ends it.

    Where every line is a command of the package and nothing else, these run in this process, with the words that bash
    makes of them: it spares them the seconds that torch takes to be imported.
    """
    lines = [line for line in block.source.replace("\\\n", " ").splitlines() if line.strip()]
    if all(re.match(r"streamvln-gym [^|;&<>`]*$", line) for line in lines):
        for words in commands_of(block):
            run_command(block, words)
        return
    command = ["bash", "-euo", "pipefail", "-c", block.source]
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300)
    print(result.stdout)
    assert result.returncode == 0, f"{block.place} failed with exit code {result.returncode}:\n{result.stdout[-4000:]}"


def run_command(block: Block, words: list[str]) -> None:
    try:
        cli.main(words[1:])
    except SystemExit as end:
        assert end.code in (None, 0), f"{block.place}: {' '.join(words)}: {end.code}"


def run_python(block: Block, namespace: dict[str, Any]) -> None:
    padded = "\n" * block.line + block.source  # so that a traceback names the page's own line
    exec(compile(padded, str(block.page), "exec"), namespace)


@pytest.mark.parametrize("document", PAGES, ids=name_of)
def test_a_page_runs_from_top_to_bottom(document: Path, reader: Path) -> None:
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for block in read_blocks(document):
        if block.reason is None and block.language == "bash":
            run_bash(block)
        elif block.reason is None and block.language == "python":
            run_python(block, namespace)


@pytest.mark.parametrize("document", PAGES, ids=name_of)
def test_unexecuted_python_imports_what_is_there(document: Path) -> None:
    for block in read_blocks(document):
        if block.language != "python" or block.reason is None:
            continue
        for node in ast.walk(ast.parse(block.source)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("streamvln_gym"):
                module = importlib.import_module(node.module)
                missing = [item.name for item in node.names if not hasattr(module, item.name)]
                assert not missing, f"{block.place}: {node.module} has no {missing}"


@pytest.mark.parametrize("document", PAGES, ids=name_of)
def test_unexecuted_commands_have_options_and_files_that_exist(document: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[Any] = []
    parse = tyro.cli

    def parse_only(*arguments: Any, **options: Any) -> None:
        parsed.append(parse(*arguments, **options))
        raise SystemExit("parsed")  # before anything is done

    monkeypatch.setattr(cli.tyro, "cli", parse_only)
    for block in read_blocks(document):
        if block.language != "bash" or block.reason is None:
            continue
        for words in commands_of(block):
            own = next((k for k, word in enumerate(words) if word in ("streamvln-gym", "streamvln_gym.cli")), None)
            if own is not None and "--help" not in words:
                before = len(parsed)
                with pytest.raises(SystemExit):
                    cli.main(words[own + 1 :])
                assert len(parsed) == before + 1, f"{block.place}: {' '.join(words[own:])} cannot be parsed"
            scripts = [word for word in words if re.match(r"(examples|benchmarks|tools|tests)/.*\.py$", word)]
            missing = [script for script in scripts if not (ROOT / script).exists()]
            assert not missing, f"{block.place} names files that do not exist: {missing}"


def commands_of(block: Block) -> list[list[str]]:
    """The words of each command of a bash block, as bash understands them; nothing is run."""
    said = subprocess.run(["bash", "-c", ECHO + block.source], capture_output=True, text=True, timeout=20, cwd="/")
    assert not said.stderr, f"{block.place}: bash says {said.stderr}"
    commands = [line.strip("\x1f").split("\x1f") for line in said.stdout.splitlines()]
    assert all(commands), f"{block.place} holds no command"
    return commands


@pytest.mark.parametrize("document", PAGES, ids=name_of)
def test_json_blocks_are_json(document: Path) -> None:
    for block in read_blocks(document):
        if block.language == "json":
            json.loads(block.source)


PAGE = "# A page\n\n{marker}\n```{language}\n{source}\n```\n"


def write_page(folder: Path, source: str, language: str = "python", marker: str = "") -> Path:
    page = folder / "page.md"
    page.write_text(PAGE.format(marker=marker, language=language, source=source))
    return page


def test_a_failing_block_fails_and_its_line_is_named(tmp_path: Path, reader: Path) -> None:
    page = write_page(tmp_path, "a = 1\nraise KeyError(a)")
    (block,) = read_blocks(page)
    with pytest.raises(KeyError) as caught:
        run_python(block, {})
    assert caught.traceback[-1].lineno + 1 == page.read_text().splitlines().index("raise KeyError(a)") + 1
    (block,) = read_blocks(write_page(tmp_path, "true\nfalse\ntrue", "bash"))
    with pytest.raises(AssertionError, match="exit code 1"):
        run_bash(block)


def test_markers(tmp_path: Path) -> None:
    (block,) = read_blocks(write_page(tmp_path, "train()", marker="<!-- not executed: needs a GPU -->"))
    assert block.reason == "needs a GPU"
    with pytest.raises(MarkerError, match="unknown reason 'too hard'"):
        read_blocks(write_page(tmp_path, "train()", marker="<!-- not executed: too hard -->"))
    with pytest.raises(MarkerError, match="language"):
        read_blocks(write_page(tmp_path, "train()", language=""))


def test_the_network_is_out_of_reach(reader: Path) -> None:
    with pytest.raises(OSError, match="without a network"):
        socket.create_connection(("192.0.2.1", 80), timeout=1)
