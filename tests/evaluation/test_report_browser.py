"""The report in a real browser: a headless Chromium that Playwright drives. Skipped where one of the two is missing."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from streamvln_gym.evaluation.report import ReportConfig, write_report
from tests.evaluation.made_runs import made_records, write_houses, write_run

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
if CHROMIUM is None:
    pytest.skip("no Chromium was found: apt-get install chromium, or name one with CHROMIUM", allow_module_level=True)

_PATIENCE = 300_000  # milliseconds: the machine may be busy
LAPTOP, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        # Without a sandbox, which containers often forbid; nothing but our own page is opened.
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"], timeout=_PATIENCE)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def records() -> list[dict[str, Any]]:
    return made_records(500, 20)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory, records: list[dict[str, Any]]) -> Path:
    """A page about 500 episodes."""
    root = tmp_path_factory.mktemp("report")
    write_houses(root / "scenes", 20)
    return write_report(ReportConfig(write_run(root / "run", records), scenes_dir=root / "scenes"))


@pytest.fixture
def open_page(chromium, report) -> Iterator[Any]:
    """Opens the report; whatever it complains about, or wants to have loaded, fails the test at its end."""
    contexts, complaints = [], []

    def visit(size: dict[str, int] = LAPTOP, address: str = "", **options: Any) -> Any:
        context = chromium.new_context(viewport=size, **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(_PATIENCE)
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: complaints.append(request.url) if "report.html" not in request.url else None)
        page.goto(report.as_uri() + address)
        return page

    yield visit
    for context in contexts:
        context.close()
    assert [text for text in complaints if not text.startswith("data:")] == []


def column(page: Any, name: str) -> list[float]:
    """The shown numbers of a column, from top to bottom."""
    return page.evaluate(
        "name => [...document.querySelectorAll(`.episodes tbody tr:not([hidden]) td[data-label='${name}']`)]"
        ".map(cell => parseFloat(cell.textContent))",
        name,
    )


def listed(page: Any) -> int:
    return page.locator(".episodes tbody tr:not([hidden])").count()


def focused(page: Any) -> str:
    return page.evaluate("document.activeElement.textContent.trim()")


def test_500_episodes_open_quickly(chromium, report):
    """The main thread's own seconds, which a busy machine does not lengthen, from nothing to the loaded page."""
    assert report.stat().st_size <= 30e6
    page = chromium.new_page(viewport=LAPTOP)
    protocol = page.context.new_cdp_session(page)
    protocol.send("Performance.enable", {"timeDomain": "threadTicks"})
    page.goto(report.as_uri(), timeout=_PATIENCE)
    found = {metric["name"]: metric["value"] for metric in protocol.send("Performance.getMetrics")["metrics"]}
    assert 0.0 < found["TaskDuration"] <= 3.0
    page.close()


def test_sorting(open_page, records):
    page = open_page()
    head = page.locator("th[data-sort=navigation_error]")
    head.get_by_role("button").click()
    errors = column(page, "NE (m)")
    assert len(errors) == 500 and errors == sorted(errors) and errors[0] < errors[-1]
    assert head.get_attribute("aria-sort") == "ascending"
    head.get_by_role("button").click()
    assert column(page, "NE (m)") == errors[::-1] and head.get_attribute("aria-sort") == "descending"
    assert page.locator("[aria-sort=ascending], [aria-sort=descending]").count() == 1
    page.locator("th[data-sort=order] button").click()
    assert page.locator(".episodes tbody .id a").first.text_content() == records[0]["episode_id"]


def test_filtering(open_page, records):
    page = open_page()
    wrong = [record for record in records if record["failure"] == "wrong_turn"]
    page.get_by_label("Outcome").select_option("wrong turn")
    assert listed(page) == len(wrong) and page.locator(".count").text_content() == f"{len(wrong)} of 500 episodes"
    scene = wrong[0]["scene_id"].split("/")[1]
    page.get_by_label("Scene").select_option(scene)
    assert listed(page) == sum(f"/{scene}/" in record["scene_id"] for record in wrong)
    page.get_by_role("button", name="Clear").click()
    page.wait_for_function("document.querySelector('.count').textContent === '500 episodes'")
    number = next(k for k, record in enumerate(records) if k > 10 and "kitchen" in record["instruction"])
    page.get_by_label("Search").fill(f"KITCHEN path {number}.")
    words = ("path", f"{number}.", "kitchen")
    wanted = [record for record in records if all(word in record["instruction"].lower() for word in words)]
    assert 0 < listed(page) == len(wanted) < 10
    page.get_by_label("Search").fill("no such words")
    assert listed(page) == 0 and page.get_by_text("No episode fits.").is_visible()


def test_failures_lead_to_their_episodes(open_page, records):
    page = open_page()
    page.get_by_role("link", name="Overshot").click()
    count = sum(record["failure"] == "overshot" for record in records)
    page.wait_for_function("count => document.querySelector('.count').textContent.startsWith(`${count} of`)", arg=count)
    assert page.locator(".episodes tbody tr:not([hidden]) .badge:not(.overshot)").count() == 0


def test_an_episode_by_mouse(open_page, records):
    page = open_page()
    page.locator(".episodes tbody tr").nth(2).locator(".text").click()
    dialog = page.get_by_role("dialog")
    assert dialog.get_by_role("heading", name=f"Episode {records[2]['episode_id']}").is_visible()
    assert dialog.locator(".instruction").text_content() == records[2]["instruction"]
    assert dialog.locator(".map .room").count() == 9 and dialog.locator(".map .radius").count() == 1
    assert dialog.locator(".profile rect").count() == -(-len(records[2]["actions"]) // 4)
    assert dialog.locator(".map .radius").get_attribute("r") == "300"
    page.go_back()
    dialog.wait_for(state="hidden")


def test_the_agent_moves_over_the_map(open_page, records):
    record = next(r for r in records if r["success"])
    page = open_page(address=f"#episode={record['episode_id']}")
    for step in (0, 5, len(record["actions"])):
        page.locator("#step").fill(str(step))
        x, _, z = record["trajectory"][step]
        transform = page.locator(".agent").get_attribute("transform")
        assert transform.startswith(
            f"translate({round(100 * x)} {round(100 * z)}) rotate({-round(record['headings'][step])}"
        )
    assert "STOP" in page.locator("output").text_content()


def test_by_keyboard_alone(open_page, records):
    page = open_page()
    page.keyboard.press("Tab")
    assert focused(page) == "Skip to the episodes"
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.name") == "text"
    page.locator("th[data-sort=spl] button").focus()
    page.keyboard.press("Space")
    assert page.locator("th[data-sort=spl]").get_attribute("aria-sort") == "ascending"
    page.locator("th[data-sort=order] button").focus()
    page.keyboard.press("Enter")
    page.locator(".episodes tbody .id a").first.focus()
    page.keyboard.press("Enter")
    page.get_by_role("dialog").wait_for()
    assert page.evaluate("document.activeElement.closest('dialog') !== null")
    page.keyboard.press("ArrowRight")
    page.wait_for_function(f"document.querySelector('dialog h2').textContent.includes('{records[1]['episode_id']}')")
    page.keyboard.press("Escape")
    page.get_by_role("dialog").wait_for(state="hidden")
    assert focused(page) == records[1]["episode_id"], "one goes on where one was"
    assert page.evaluate("location.hash") == "#episodes"


@pytest.mark.parametrize("size", [LAPTOP, PHONE, {"width": 320, "height": 600}], ids=["laptop", "phone", "small phone"])
def test_nothing_is_wider_than_the_screen(open_page, size):
    page = open_page(size, is_mobile=size is not LAPTOP, has_touch=size is not LAPTOP)
    assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
    page.locator(".episodes tbody .id a").first.click()
    page.get_by_role("dialog").wait_for()
    assert page.evaluate("document.querySelector('dialog').scrollWidth") <= size["width"]
    assert page.evaluate("document.querySelector('dialog .body').scrollWidth") <= size["width"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out(open_page, scheme):
    """WCAG's contrast of 4.5 for all kinds of text that the page has, in the colours that are computed for them."""
    page = open_page(color_scheme=scheme)
    weak = page.evaluate(
        """() => {
          const channel = v => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
          const light = c => [0.2126, 0.7152, 0.0722].reduce((s, w, k) => s + w * channel(c[k]), 0);
          const colour = text => text.match(/[\\d.]+/g).map(Number);
          const under = e => { for (; e; e = e.parentElement) {
            const c = colour(getComputedStyle(e).backgroundColor); if (c.length < 4 || c[3] > 0) return c; } };
          const selectors = "h1, .kicker, .chips span, .notice, .tiles span, .tiles abbr, .figures th, .figures td,"
            + ".long, .note, .lead, .failures p, .failures a, .filter label, .count, .episodes thead button, .id a,"
            + ".id span, .text p, .tag, .badge, .episodes td.num, dt, dd, footer p, summary, .legend span";
          return [...document.querySelectorAll(selectors)].slice(0, 2000).map(e => {
            const [a, b] = [light(colour(getComputedStyle(e).color)), light(under(e))];
            return [(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), e.className || e.tagName];
          }).filter(([ratio]) => ratio < 4.5);
        }"""
    )
    assert weak == []


def test_small_maps_come_when_they_are_looked_at(open_page):
    page = open_page()
    drawn = ".episodes tbody .map svg"
    page.locator(".episodes tbody tr").first.scroll_into_view_if_needed()
    page.locator(drawn).first.wait_for()
    assert page.locator(drawn).count() < 100
    page.locator(".episodes tbody tr").last.scroll_into_view_if_needed()
    page.locator(".episodes tbody tr").last.locator(".map svg").wait_for()


def test_it_prints(open_page):
    page = open_page()
    page.get_by_label("Search").fill("path 12")
    page.emulate_media(media="print")
    assert not page.locator(".filter").is_visible() and page.locator(".episodes").is_visible()
    assert page.pdf().startswith(b"%PDF")


def test_very_long_lists_come_in_parts(chromium, tmp_path, records):
    copies = [{**r, "episode_id": f"{r['episode_id']}{k}", "key": [r["scene_id"], f"{r['episode_id']}{k}", 0]}
              for k in range(3) for r in records]  # fmt: skip
    page = chromium.new_page(viewport=LAPTOP)
    page.set_default_timeout(_PATIENCE)
    page.goto(write_report(ReportConfig(write_run(tmp_path / "run", copies, timings=False))).as_uri())
    assert listed(page) == 500
    page.locator("th[data-sort=steps] button").click()
    steps = column(page, "steps")
    assert len(steps) == 500 and steps == sorted(r["steps"] for r in copies)[:500]
    page.get_by_role("button", name="Show 500 more of 1000").click()
    assert listed(page) == 1000
    page.close()
