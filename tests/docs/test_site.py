"""The site builds without a warning, holds every public name that it promises, and loads nothing from elsewhere."""

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

pytest.importorskip("mkdocs", reason="building the site needs the extra [docs]: pip install -e '.[docs]'")
pytest.importorskip("mkdocstrings", reason="building the site needs the extra [docs]: pip install -e '.[docs]'")

ROOT = Path(__file__).parents[2]
ELSEWHERE = re.compile(r"(?:https?:)?//")
LOADED = {
    "script": ("src",),
    "img": ("src", "srcset"),
    "iframe": ("src",),
    "source": ("src", "srcset"),
    "video": ("src", "poster"),
    "audio": ("src",),
    "embed": ("src",),
    "object": ("data",),
}


class Assets(HTMLParser):
    """Collects what a browser loads to show a page, and what a reader can click."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.links: list[str] = []
        self.ids: set[str] = set()
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attributes}
        self.loaded += [found[name] for name in LOADED.get(tag, ()) if name in found]
        if tag == "link" and not {"canonical", "prev", "next"} & set(found.get("rel", "").split()):
            self.loaded.append(found.get("href", ""))
        self.loaded += re.findall(r"url\(([^)]*)\)", found.get("style", ""))
        if tag == "a":
            self.links.append(found.get("href", ""))
        self.ids.add(found.get("id", ""))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500, env=environment)
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


def test_every_page_of_docs_is_in_the_site(site):
    pages = {path.relative_to(ROOT / "docs").with_suffix(".html") for path in (ROOT / "docs").rglob("*.md")}
    assert len(pages) > 20
    assert pages <= {path.relative_to(site) for path in site.rglob("*.html")}


def test_nothing_is_loaded_from_elsewhere(site):
    pages = list(site.rglob("*.html"))
    loaded = {page.name: [url for url in Assets(page).loaded if ELSEWHERE.match(url)] for page in pages}
    assert not {name: urls for name, urls in loaded.items() if urls}
    for sheet in site.rglob("*.css"):
        text = sheet.read_text(encoding="utf-8")
        urls = re.findall(r"(?:url\(|@import)\s*[\"']?([^\"')]*)", text)
        assert not [url for url in urls if ELSEWHERE.match(url)], sheet


def test_links_and_anchors_inside_the_site_lead_somewhere(site):
    pages = {page: Assets(page) for page in site.rglob("*.html") if page.name != "404.html"}
    broken = []
    for page, found in pages.items():
        for link in found.links:
            target, _, anchor = link.partition("#")
            if re.match(r"[a-z]+:", link) or target.startswith("/"):
                continue
            there = (page.parent / target).resolve() if target else page
            ids = pages[there].ids if there in pages else set()
            if not there.exists() or (anchor and there in pages and anchor not in ids and anchor != "__tabbed"):
                broken.append(f"{page.relative_to(site)}: {link}")
    assert not broken


def test_docstrings_are_rendered(site):
    agents = (site / "api" / "agents.html").read_text(encoding="utf-8")
    assert 'id="streamvln_gym.agents.streamvln.StreamVLNAgent.act_batch"' in agents
    assert "per environment step" in agents and "Raises:" in agents
    pages = [page for page in (site / "api").glob("*.html") if page.stem != "index"]
    assert [page.name for page in pages if "doc-heading" not in page.read_text(encoding="utf-8")] == []
