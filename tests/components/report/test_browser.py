"""Tests of the report in a real browser."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.wait import WebDriverWait

from tests.browser import CONTRAST, Browser


@pytest.fixture(scope="module")
def file(page: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(page, "utf-8")
    return path


def test_the_page_logs_nothing_and_makes_no_requests(browser: Browser, file: Path) -> None:
    browser.driver.get("about:blank")  # the browser's start page makes requests
    for log in ("browser", "performance"):
        browser.driver.get_log(log)
    browser.open(file)
    assert browser.driver.get_log("browser") == []
    messages = [json.loads(entry["message"])["message"] for entry in browser.driver.get_log("performance")]
    requested = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    assert requested[0] == file.as_uri()
    assert all(url.startswith("data:") for url in requested[1:])
    assert file.stat().st_size < 5_000_000


def test_hostile_names_and_formulas_are_text(browser: Browser, file: Path) -> None:
    browser.open(file)
    assert browser.driver.title.startswith("Not blessed")  # an attack would change the title
    assert browser.run("return [...document.images].filter((image) => !image.src.startsWith('data:')).length") == 0
    assert browser.run("return document.scripts.length") == 1
    shown = browser.run("return [...document.querySelectorAll('h4')].map((title) => title.textContent)")
    assert any("</script><img" in title for title in shown)


def test_only_the_script_of_the_page_can_run(browser: Browser, file: Path) -> None:
    browser.open(file)
    browser.run(
        "const script = document.createElement('script'); script.textContent = 'window.broken = 1';"
        "document.body.append(script);"
    )
    assert browser.run("return window.broken") is None
    assert any("Content Security Policy" in entry["message"] for entry in browser.driver.get_log("browser"))


def step(browser: Browser, article) -> dict[str, Any]:
    """Returns the state of an example: the marked token, the announced text, and the pixels of the map."""
    return browser.run(
        """
        const article = arguments[0], canvas = article.querySelector("canvas");
        const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
        let sum = 0;
        for (let i = 3; i < pixels.length; i += 4) sum = (sum * 31 + pixels[i]) % 1000000007;
        return {
          now: [...article.querySelectorAll(".now")].map((token) => token.textContent),
          announced: article.querySelector("output").textContent,
          value: article.querySelector("input").value,
          drawn: sum,
          ink: pixels.some((value, i) => i % 4 === 3 && value > 0),
        };
        """,
        article,
    )


def test_the_slider_moves_token_and_map_with_the_keyboard(browser: Browser, file: Path) -> None:
    browser.open(file)
    article = browser.driver.find_element(By.CSS_SELECTOR, "article:has(.attention)")
    tokens = [token.text for token in article.find_elements(By.CSS_SELECTOR, "[data-step]")]
    slider = article.find_element(By.CSS_SELECTOR, "input[type=range]")
    first = step(browser, article)
    assert first["now"] == tokens[:1] and first["ink"]
    browser.run("arguments[0].focus()", slider)
    slider.send_keys(Keys.ARROW_RIGHT)
    second = step(browser, article)
    assert second["now"] == tokens[1:2] and second["announced"].startswith(f"2 of {len(tokens) + 1}: {tokens[1]}")
    assert second["drawn"] != first["drawn"]
    assert slider.get_attribute("aria-valuetext") == f"2 of {len(tokens) + 1}"
    # Announced to screen readers, but only after the first use.
    live = browser.run("return [...document.querySelectorAll('output')].map((output) => output.ariaLive)")
    assert live == ["polite"] + ["off"] * (len(live) - 1)
    slider.send_keys(Keys.END)
    last = step(browser, article)
    assert last["now"] == [] and "the end" in last["announced"]  # the end has no token
    slider.send_keys(Keys.HOME)
    assert step(browser, article) == first


def test_the_drawn_map_is_the_film_of_its_step(browser: Browser, file: Path) -> None:
    """The strongest pixel on the canvas is at the position that the page states."""
    browser.open(file)
    article = browser.driver.find_element(By.CSS_SELECTOR, "article:has(.attention)")
    steps = json.loads(article.find_element(By.CSS_SELECTOR, ".attention").get_attribute("data-steps"))
    slider = article.find_element(By.CSS_SELECTOR, "input[type=range]")
    for number, (_, _, left, top) in enumerate(steps):
        browser.run("arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input'))", slider, number)
        opaque = browser.run(
            """
            const canvas = arguments[0].querySelector("canvas");
            const x = Math.min(Math.floor(arguments[1] / 100 * canvas.width), canvas.width - 1);
            const y = Math.min(Math.floor(arguments[2] / 100 * canvas.height), canvas.height - 1);
            return canvas.getContext("2d").getImageData(x, y, 1, 1).data[3];
            """,
            article, left, top,
        )  # fmt: skip
        assert opaque >= 0.85 * 255 - 1, number


def test_play_shows_all_steps_and_stops(browser: Browser, file: Path) -> None:
    browser.open(file)
    articles = browser.driver.find_elements(By.CSS_SELECTOR, "article:has(.attention)")
    article = min(articles, key=lambda one: len(one.find_elements(By.CSS_SELECTOR, "[data-step]")))
    button = article.find_element(By.TAG_NAME, "button")
    count = len(article.find_elements(By.CSS_SELECTOR, "[data-step]")) + 1
    button.send_keys(Keys.ENTER)
    assert button.text == "Pause"
    WebDriverWait(browser.driver, 30).until(lambda _: step(browser, article)["value"] == str(count - 1))
    assert button.text == "Play"
    button.send_keys(Keys.ENTER)
    assert step(browser, article)["value"] == "0"
    button.send_keys(Keys.ENTER)
    assert button.text == "Play"


def test_a_click_on_a_token_goes_to_its_step(browser: Browser, file: Path) -> None:
    browser.open(file)
    article = browser.driver.find_element(By.CSS_SELECTOR, "article:has(.attention)")
    tokens = article.find_elements(By.CSS_SELECTOR, "[data-step]")
    browser.run("arguments[0].click()", tokens[2])
    assert step(browser, article)["value"] == "2"
    assert "now" in str(tokens[2].get_attribute("class"))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_the_page_fits_its_window_and_can_be_read(browser: Browser, file: Path, width: int, scheme: str) -> None:
    browser.open(file, width, scheme)
    browser.run("document.querySelectorAll('details').forEach((details) => { details.open = true; })")
    assert browser.run("return document.documentElement.scrollWidth") <= width
    page = browser.run("return getComputedStyle(document.body).backgroundColor")
    assert max(map(int, re.findall(r"\d+", page)[:3])) < 64 if scheme == "dark" else page == "rgb(255, 255, 255)"
    assert browser.run(CONTRAST) == []


def test_headings_landmarks_and_tables_work_with_screen_readers(browser: Browser, file: Path) -> None:
    browser.open(file)
    levels = browser.run("return [...document.querySelectorAll('h1,h2,h3,h4,h5')].map((h) => Number(h.tagName[1]))")
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    for tag in ("header", "nav", "main", "footer"):
        assert len(browser.driver.find_elements(By.CSS_SELECTOR, f"body > {tag}")) == 1, tag
    count = browser.run(
        """
        const ids = [...document.querySelectorAll("[id]")].map((element) => element.id);
        return {
          images: [...document.images].filter((image) => !image.hidden && !image.alt).length,
          drawings: document.querySelectorAll("svg:not([aria-label])").length,
          captions: [...document.querySelectorAll("table")].filter((table) => !table.caption).length,
          headers: document.querySelectorAll("th:not([scope])").length,
          unnamed: document.querySelectorAll("input:not([aria-label]), .scroll:not([aria-label])").length,
          live: document.querySelectorAll("output:not([aria-live])").length,
          targets: [...document.querySelectorAll("a[href^='#']")].filter((a) => !document.querySelector(a.hash)).length,
          twice: ids.length - new Set(ids).size,
        };
        """
    )
    assert count == dict.fromkeys(count, 0)
    assert browser.run("return document.querySelectorAll('table').length") >= 8


def test_every_control_is_reachable_and_shows_its_focus(browser: Browser, file: Path) -> None:
    browser.open(file)
    body = browser.driver.find_element(By.TAG_NAME, "body")
    reached: list[str] = []
    for _ in range(12):
        body.send_keys(Keys.TAB) if not reached else browser.driver.switch_to.active_element.send_keys(Keys.TAB)
        focused = browser.driver.switch_to.active_element
        reached.append(focused.get_attribute("href") or focused.get_attribute("aria-label") or focused.text)
        assert browser.run("return getComputedStyle(arguments[0]).outline", focused).endswith("solid 3px"), reached[-1]
    assert reached[0].endswith("#main") and any("Rules of the gate" in name for name in reached)
