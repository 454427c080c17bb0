"""The report in a real headless Chromium: no errors, no requests, usable by keyboard, on a phone, light and dark."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from evaluation.report import read_run, render
from evaluation.report_data import report_data
from tests.fakes.reports import add_training, write_evaluation

playwright = pytest.importorskip("playwright.sync_api", reason="needs the extra 'test'")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs a chromium on the PATH")

HOSTILE = "</script><img src=x onerror=\"document.title='owned'\"><b>bold</b>"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("report") / "run"
    write_evaluation(run / "evaluation")
    add_training(run)
    data = report_data([read_run(str(run))])
    for view in data["views"]:
        view["replays"][0]["prompt"] += HOSTILE
        for row in view["replays"][0]["rows"]:
            row["pieces"] = [
                HOSTILE if place == row["final"][0] else piece for place, piece in enumerate(row["pieces"])
            ]
    path = run / "report.html"
    path.write_bytes(render(json.loads(json.dumps(data))))
    return path


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    with playwright.sync_playwright() as engine:
        browser = engine.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


class Opened:
    """An open report and everything that went wrong in it."""

    def __init__(self, browser, report: Path, **options) -> None:
        self.problems: list[str] = []
        self.page = browser.new_context(**options).new_page()
        self.page.on(
            "console",
            lambda message: self.problems.append(message.text) if message.type in ("error", "warning") else None,
        )
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on(
            "request", lambda request: self.problems.append(request.url) if request.url != report.as_uri() else None
        )
        self.page.goto(report.as_uri())


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 390)])
def test_it_opens_without_errors_requests_or_sideways_scrolling(browser, report, width, scheme):
    opened = Opened(browser, report, viewport={"width": width, "height": 800}, color_scheme=scheme)
    page = opened.page
    assert page.evaluate("document.documentElement.dataset.theme") == scheme
    for task in ("sudoku", "arithmetic"):
        page.get_by_role("button", name=task, exact=True).click()
        assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
        assert page.locator("#pareto .mark").count() == 5
        assert page.locator("#samplers article").count() == 3
        assert page.locator("#curves svg").count() == 3
    page.locator("#theme").click()
    assert page.evaluate("document.documentElement.dataset.theme") != scheme
    assert opened.problems == []


def test_text_of_models_is_shown_as_text(browser, report):
    opened = Opened(browser, report)
    page = opened.page
    assert HOSTILE in page.locator("#replay-prompt").text_content()
    page.get_by_role("button", name="Last pass").click()
    assert HOSTILE in page.locator("#canvas-0").text_content()
    assert page.locator("img, #replay b").count() == 0
    assert page.title() != "owned"
    assert opened.problems == []


def test_the_replay_is_driven_by_the_keyboard(browser, report):
    opened = Opened(browser, report)
    page = opened.page
    page.locator("#replay-prompt").focus()
    assert page.locator("#canvas-0 .token.masked").count() == 48
    page.keyboard.press("ArrowRight")
    assert page.locator("#canvas-0").get_by_text("pass 1 of").count() == 1
    fresh = page.locator("#canvas-0 .token.fresh").count()
    assert fresh >= 1
    assert page.locator("#canvas-0 .token.masked").count() == 48 - fresh
    page.keyboard.press("End")
    assert page.locator("#canvas-0 .token.masked").count() == page.locator("#canvas-1 .token.masked").count() == 0
    assert page.locator("#replay .badge").count() == 2
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Home")
    assert page.locator("#canvas-0 .token.masked").count() == 48
    page.get_by_label("Speed").select_option(label="fast")
    page.locator("#replay-prompt").focus()
    page.keyboard.press("Space")
    playwright.expect(page.locator("#canvas-0 .token.masked")).to_have_count(0, timeout=60_000)
    assert opened.problems == []


def test_marks_samplers_and_columns_answer(browser, report):
    opened = Opened(browser, report)
    page = opened.page
    page.locator("#pareto svg").focus()
    page.keyboard.press("ArrowRight")
    assert "accuracy" in page.locator("#tip").text_content()
    page.keyboard.press("Escape")
    assert not page.locator("#tip").is_visible()
    page.locator("#legend button", has_text="random").click()
    assert page.locator("#pareto .mark").count() == 4
    assert page.locator("#table tbody tr").count() == 4
    page.locator("#table-all").click()
    assert page.locator("#table tbody tr").count() == 5
    assert page.locator("#table tr.winner .crown").count() == 1
    page.locator("#sort-nfe").click()
    passes = page.locator("#table tbody tr td:nth-child(4)").all_text_contents()
    assert [float(text.split()[0]) for text in passes] == sorted(float(text.split()[0]) for text in passes)
    page.get_by_label("Sampler on the right").select_option(index=0)
    assert opened.problems == []
