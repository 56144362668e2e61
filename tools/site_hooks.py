"""What mkdocs.yml cannot say: where `agents/` is installed, and what lies outside `docs/`."""

from __future__ import annotations

import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

from mkdocs.plugins import event_priority

ROOT = Path(__file__).parents[1]


@event_priority(100)  # before mkdocstrings reads its options
def on_config(config: Any) -> Any:
    """Lets mkdocstrings read a folder in which `streamvln_gym` holds `agents`, as the installed package does."""
    scratch = tempfile.TemporaryDirectory(prefix="streamvln_gym_docs_")
    package = Path(scratch.name) / "streamvln_gym"
    # Copies: links would be followed back to the checkout, where the package has no `agents`.
    skipped = shutil.ignore_patterns("agents", "assets", "__pycache__")
    shutil.copytree(ROOT / "streamvln_gym", package, ignore=skipped)
    shutil.copytree(ROOT / "agents", package / "agents", ignore=skipped)
    handlers = config.plugins["mkdocstrings"].config.handlers
    handlers.setdefault("python", {})["paths"] = [scratch.name]
    config["scratch"] = scratch  # goes when the build ends
    return config


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links from a page to the repository's other files (`../examples/x.py`), which the site lacks, become text."""
    if "/" in page.file.src_uri:
        return markdown

    def text_of(link: re.Match[str]) -> str:
        return link[1] if (ROOT / link[2]).exists() else link[0]

    return re.sub(r"\[([^\]]*)\]\(\.\./([^)#]+)\)", text_of, markdown)
