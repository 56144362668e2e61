"""Writes the list of all files in `docs/architecture.md`, with the first sentence of each file's docstring.

python tools/write_architecture.py
"""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "architecture.md"
BEGIN, END = "<!-- files: written by tools/write_architecture.py -->", "<!-- end of files -->"


def source_folders() -> list[Path]:
    """The package's folders, then `agents/`; not the link to it that a checkout may hold inside the package."""
    package = ROOT / "streamvln_gym"
    inner = sorted({path.parent for path in package.rglob("*.py")} - {package / "agents"})
    return [*inner, ROOT / "agents"]


def summary(path: Path) -> str:
    """The first paragraph of a file's docstring, for a table's cell.

    Raises:
        ValueError: it has none.
    """
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    if not docstring:
        raise ValueError(f"{path} has no docstring: say in its first line what it is about")
    return docstring.split("\n\n")[0].replace("\n", " ").replace("|", r"\|")


def listing() -> str:
    """The section as Markdown."""
    parts = []
    for folder in source_folders():
        files = sorted(path for path in folder.glob("*.py") if path.name != "__init__.py")
        rows = [f"| `{path.name}` | {summary(path)} |" for path in files]
        table = "\n".join(["| file | |", "| --- | --- |", *rows])
        parts.append(f"### {folder.relative_to(ROOT).as_posix()}/\n\n{summary(folder / '__init__.py')}\n\n{table}")
    return "\n\n".join(parts)


def main() -> None:
    text = PAGE.read_text(encoding="utf-8")
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    PAGE.write_text(f"{before}{BEGIN}\n\n{listing()}\n\n{END}{after}", encoding="utf-8")
    print(f"wrote the files of {len(source_folders())} folders into {PAGE}")


if __name__ == "__main__":
    main()
