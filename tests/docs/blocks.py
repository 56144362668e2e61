"""Code blocks of Markdown pages, and what the comments before them say."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt

EXECUTED = ("python", "bash")
OTHERS = ("text", "json", "yaml")  # output, folders, files: nothing to execute
REASONS = (
    "needs a GPU",
    "needs habitat",
    "needs a robot",
    "needs several machines",
    "needs downloaded data",
    "needs a published checkpoint",
    "installs packages",
    "opens a browser",
    "takes minutes",
)
"""Why a block may go unexecuted: `<!-- not executed: needs a GPU -->` on the line before it."""

_MARKER = re.compile(r"<!--\s*not executed:\s*(.*?)\s*-->\s*\Z")


class MarkerError(ValueError):
    """A block says nothing, or something unknown, about its language or why it is not executed."""


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        page: the file.
        line: of its opening fence, from 1.
        language: in lower case.
        source: its lines.
        reason: why it is not executed, None if it is.
    """

    page: Path
    line: int
    language: str
    source: str
    reason: str | None

    @property
    def place(self) -> str:
        """For messages: "docs/rl.md:20"."""
        return f"{self.page.parent.name}/{self.page.name}:{self.line}"


def read_blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order.

    Raises:
        MarkerError: a block without a language that is known here, or with an unknown reason; a fence inside an
            indented block, which nothing would execute.
    """
    blocks = []
    comment = ""
    for token in MarkdownIt("commonmark").enable("table").parse(page.read_text(encoding="utf-8")):
        if token.type == "fence":
            line = (token.map or [0])[0] + 1
            marker = _MARKER.search(comment)
            block = Block(page, line, token.info.strip(), token.content, marker.group(1) if marker else None)
            _check(block)
            blocks.append(block)
        elif token.type == "code_block" and "```" in token.content:
            raise MarkerError(f"{page}: the fence in line {token.map[0] + 1} is indented, so nothing would execute it")
        comment = token.content if token.type == "html_block" else ""
    return blocks


def _check(block: Block) -> None:
    if block.language not in (*EXECUTED, *OTHERS):
        raise MarkerError(
            f"{block.place}: write the block's language after the fence, one of {', '.join((*EXECUTED, *OTHERS))}; "
            f"it says {block.language!r}"
        )
    if block.reason is not None and block.reason not in REASONS:
        raise MarkerError(f"{block.place}: unknown reason {block.reason!r}; known are: {', '.join(REASONS)}")
