"""Corrections over HTTP, and on the page in a real browser."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

from im2latex.corrections import Corrections
from tests.browser import CONTRAST, Browser
from tests.im2latex.serving.clients import form
from tests.im2latex.serving.conftest import Answer, Running, running
from tests.im2latex.serving.test_browser import Page


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("collected")


@pytest.fixture(scope="module")
def collecting(model: Path, folder: Path) -> Iterator[Running]:
    with running(lambda: [model], corrections=Corrections(folder, 10**7)) as service:
        yield service


def correction(image: bytes, **fields: str) -> tuple[bytes, dict[str, str]]:
    """The body and the headers of a form with an image and fields."""
    parts = "".join(
        f'--edge\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n' for name, value in fields.items()
    )
    body, content_type = form(image)
    return parts.encode() + body, {"Content-Type": content_type}


def save(service: Running, image: bytes, headers: dict[str, str] | None = None, **fields: str) -> Answer:
    body, of_form = correction(image, **fields)
    return service.ask("POST", "/corrections", body, **of_form, **(headers or {}))


def test_a_correction_becomes_a_picture_and_its_latex(collecting: Running, folder: Path, images: list[bytes]) -> None:
    answer = save(collecting, images[0], latex=r"\frac12", name="Ada")
    assert answer.status == 200 and answer.json["status"] == "saved"
    name = answer.json["name"]
    assert "-Ada-" in name
    (file,) = folder.glob(f"*/{name}.tex")
    assert file.read_text() == "\\frac { 1 } { 2 }\n" and file.with_suffix(".png").is_file()
    assert save(collecting, images[0], latex=r"\frac{1}{2}").json == {"status": "known", "name": name}


def test_a_correction_that_cannot_be_saved_is_one_sentence(
    collecting: Running, folder: Path, images: list[bytes]
) -> None:
    before = sorted(folder.rglob("*"))

    def refused(answer: Answer, status: int, what: str) -> None:
        assert (answer.status, answer.headers["content-type"]) == (status, "application/json")
        assert what in answer.json["error"]

    refused(save(collecting, images[0], latex=r"\frac {"), 400, "the LaTeX cannot be used")
    refused(save(collecting, images[0]), 400, "the LaTeX is empty")
    refused(save(collecting, b"nothing", latex="x"), 400, "the image is damaged")
    refused(save(collecting, images[0], latex="x" * 5000), 400, "the form is damaged")
    refused(collecting.ask("POST", "/corrections", images[0]), 400, "the body is not a form")
    refused(collecting.ask("GET", "/corrections"), 405, "/corrections takes POST, not GET")
    for headers in ({"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
        refused(save(collecting, images[0], headers, latex="x"), 403, "requests from pages of other sites")
    assert sorted(folder.rglob("*")) == before


def test_a_full_folder_is_reported(model: Path, images: list[bytes], tmp_path: Path) -> None:
    with running(lambda: [model], corrections=Corrections(tmp_path, 10)) as service:
        answer = save(service, images[0], latex="x")
        assert answer.status == 507 and "--max-collected" in answer.json["error"]
        assert service.is_alive(images[0])
    assert list(tmp_path.rglob("*.*")) == []


def test_without_permission_nothing_is_saved(service: Running, images: list[bytes]) -> None:
    answer = save(service, images[0], latex="x")
    assert answer.status == 404 and "--collect DIR" in answer.json["error"]
    assert b"data-collects" not in service.ask("GET", "/").body


# --- The page --------------------------------------------------------------------------------------------------------


@pytest.fixture
def page(browser: Browser, collecting: Running) -> Page:
    return Page(browser, collecting)


def type_latex(page: Page, latex: str) -> None:
    corrected = page.driver.find_element(By.ID, "corrected")
    corrected.clear()
    corrected.send_keys(latex)


@pytest.mark.parametrize(
    ("latex", "tokens", "expected"),
    [
        ("x", [["x", 0.9]], []),
        ("ab", [["a", 0.79], ["b", 0.81]], [["a", 0.79]]),
        # Braces and spaces are left out.
        ("x_i", [["x", 0.7], ["_", 0.9], ["{", 0.1], ["i", 0.6], ["}", 0.1]], [["x", 0.7], ["i", 0.6]]),
        (r"\frac{a}b", [["\\frac", 0.9], ["{", 0.5], ["a", 0.9], ["}", 0.9], ["{", 0.2], ["b", 0.4], ["}", 0.2]],
         [["{", 0.5], ["b", 0.4]]),
        # A part with another spelling has the lowest probability of its tokens.
        (r"\sin x", [["\\operatorname", 0.9], ["{", 0.9], ["s", 0.3], ["i", 0.6], ["n", 0.9], ["}", 0.9], ["x", 0.7]],
         [["\\sin", 0.3], ["x", 0.7]]),
        ("f'(x)", [["f", 0.9], ["^", 0.6], ["{", 0.9], ["\\prime", 0.9], ["}", 0.9], ["(", 0.9], ["x", 0.4], [")", 1]],
         [["'", 0.6], ["x", 0.4]]),
        (r"\left(a\right)", [["\\left(", 0.7], ["a", 0.9], ["\\right)", 0.4]], [["\\left(", 0.7], ["\\right)", 0.4]]),
        (r"\begin{array}{c}a\end{array}",
         [["\\begin{array}", 0.3], ["{", 0.9], ["c", 0.9], ["}", 0.9], ["a", 0.2], ["\\end{array}", 0.9]],
         [["\\begin{array}", 0.3], ["a", 0.2]]),
        ("", [], []),
        ("x", [], []),
    ],
)  # fmt: skip
def test_the_doubted_symbols_are_found_in_the_latex_that_is_shown(
    page: Page, latex: str, tokens: list[list[Any]], expected: list[list[Any]]
) -> None:
    doubts = page.run("return doubts(...arguments)", latex, tokens)
    assert [[latex[doubt["start"] : doubt["end"]], doubt["probability"]] for doubt in doubts] == expected


def test_doubted_symbols_are_underlined_and_listed(page: Page, collecting: Running, images: list[bytes]) -> None:
    tokens = collecting.ask("POST", "/predict?clean=1&alternatives=5", images[0]).json["tokens"]
    page.give("paste", images[0])
    page.run("showDoubts('ab+c', [['a', 0.3], ['b', 0.7], ['+', 0.95], ['c', 0.123]])")
    marks = page.driver.find_elements(By.CSS_SELECTOR, "#latex mark")
    assert [(mark.text, mark.get_attribute("title")) for mark in marks] == [
        ("a", "30 % sure"), ("b", "70 % sure"), ("c", "12 % sure")
    ]  # fmt: skip
    lines = [page.run("return getComputedStyle(arguments[0]).textDecorationStyle", mark) for mark in marks]
    assert lines == ["double", "solid", "double"]  # distinguishable without colours
    assert page.text("latex") == "ab+c"
    assert page.text("doubts").endswith("twice: a (30 %), b (70 %), c (12 %).")
    # The page shows those of the answer, and none if the model is sure.
    page.give("paste", images[0])
    doubted = sum(probability < 0.8 for _, probability in tokens)
    assert len(page.driver.find_elements(By.CSS_SELECTOR, "#latex mark")) == doubted
    page.run("showDoubts('ab', [['a', 0.9], ['b', 0.8]])")
    assert not page.driver.find_element(By.ID, "doubts").is_displayed()


def test_a_formula_is_corrected_drawn_and_saved(
    page: Page, collecting: Running, folder: Path, images: list[bytes]
) -> None:
    page.run("localStorage.clear()")
    page.give("paste", images[1])
    page.click("correct")
    assert page.driver.switch_to.active_element.get_attribute("id") == "corrected"
    assert page.driver.find_element(By.ID, "corrected").get_attribute("value") == page.text("latex")
    type_latex(page, r"\sqrt{7")
    assert page.text("formula") == "This LaTeX cannot be drawn here."
    page.click("save")
    WebDriverWait(page.driver, 10).until(lambda _: page.text("status").startswith("Not saved: the LaTeX cannot be"))
    type_latex(page, r"\sqrt{7}")
    assert page.run("return document.querySelector('#formula annotation').textContent") == r"\sqrt{7}"
    assert page.text("latex") == r"\sqrt{7}"
    page.driver.find_element(By.ID, "who").send_keys("Ada")
    page.click("save")
    WebDriverWait(page.driver, 10).until(lambda _: page.text("status") == "The correction is saved. Thank you.")
    assert [path.read_text() for path in folder.glob("*/*-Ada-*.tex")].count("\\sqrt { 7 }\n") == 1
    page.click("save")
    WebDriverWait(page.driver, 10).until(lambda _: page.text("status") == "This correction was saved before.")
    # The browser remembers the name; a new picture resets the rest.
    page.open()
    assert page.driver.find_element(By.ID, "who").get_attribute("value") == "Ada"
    page.give("paste", images[1])
    expected = collecting.ask("POST", "/predict?clean=1&alternatives=5", images[1]).json["latex"]
    assert page.driver.find_element(By.ID, "corrected").get_attribute("value") == expected == page.text("latex")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_the_editor_fits_the_window_and_can_be_read(page: Page, images: list[bytes], width: int, scheme: str) -> None:
    page.driver.get_log("browser")  # of earlier tests
    page.open(width, scheme)
    page.give("paste", images[0])
    page.click("correct")
    page.run("showDoubts('ab', [['a', 0.1], ['b', 0.7]])")
    assert page.run("return document.documentElement.scrollWidth") <= width
    assert page.run(CONTRAST) == []
    assert page.driver.get_log("browser") == []


def test_without_permission_the_page_has_no_button_to_save(
    browser: Browser, service: Running, images: list[bytes]
) -> None:
    page = Page(browser, service)
    page.give("paste", images[0])
    page.click("correct")
    type_latex(page, "x^2")
    assert page.text("latex") == "x^2"
    assert not page.driver.find_element(By.ID, "save").is_displayed()
