"""The exported page in a real browser; tests/im2latex/serving tests what it shares with the page of the service."""

from __future__ import annotations

import base64
import re
import shutil
from pathlib import Path

import pytest
from PIL import Image
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

import im2latex
from data.pictures.synthetic import draw_png
from data.repository import REPOSITORY
from tests.browser import CONTRAST, Browser
from tests.im2latex.serving.test_browser import GIVE
from tests.pipeline.web.conftest import Page, hosted
from tests.pipeline.web.test_reading import saved

FORMULA = REPOSITORY / "docs" / "formula.png"


def give(page: Page, picture: bytes, name: str = "formula.png", kind: str = "paste") -> str:
    """Gives the page a picture, and returns its final status."""
    page.run("document.getElementById('status').textContent = 'given'")
    page.run(GIVE, kind, base64.b64encode(picture).decode(), "", name)
    page.wait(lambda: page.text("status") not in ("given", "Reading…"))
    return page.text("status")


@pytest.mark.parametrize("kind", ["paste", "drop"])
def test_a_picture_is_read_and_its_confidence_shown(page: Page, kind: str) -> None:
    sure = 100 * im2latex.predict(FORMULA, alternatives=5).probability
    assert re.fullmatch(rf"Read in \d+\.\d\d s: {sure:.0f} % sure\.", give(page, FORMULA.read_bytes(), kind=kind))
    assert page.text("latex") == r"\int_{-\infty}^\infty e^{-x^2}dx=\sqrt{\pi}"
    assert page.text("where") == "Read in this browser: no picture leaves this device."


@pytest.mark.parametrize(
    ("button", "expected"),
    [
        ("copy", r"\int_{-\infty}^\infty e^{-x^2}dx=\sqrt{\pi}"),
        ("copy-dollars", r"$\int_{-\infty}^\infty e^{-x^2}dx=\sqrt{\pi}$"),
        ("copy-typst", "integral_(-infinity)^infinity e^(-x^2) d x = sqrt(pi)"),
        ("copy-mathml", None),
    ],
)
def test_the_formula_is_copied_as_latex_mathml_and_typst(page: Page, button: str, expected: str | None) -> None:
    page.driver.execute_cdp_cmd(
        "Browser.grantPermissions",
        {"permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"], "origin": page.address},
    )
    give(page, FORMULA.read_bytes())
    page.driver.find_element(By.ID, button).click()
    page.wait(lambda: page.text("status") == "Copied.")
    copied = page.call("return navigator.clipboard.readText()")
    if expected:
        assert copied == expected
        return
    shown = """
        const math = new DOMParser().parseFromString(given[0], "application/xml").documentElement;
        const root = math.querySelector("msqrt").textContent;
        return [math.tagName, math.namespaceURI, root, math.querySelectorAll("msup").length];
    """
    assert page.call(shown, copied) == ["math", "http://www.w3.org/1998/Math/MathML", "π", 2]


def test_a_drawing_is_read(page: Page) -> None:
    page.driver.find_element(By.ID, "draw").click()
    box = page.run("const b = document.getElementById('canvas').getBoundingClientRect(); return [b.left, b.top]")
    for start, end in (((60, 40), (60, 120)), ((20, 80), (100, 80))):
        for kind, (x, y), buttons in (("mousePressed", start, 1), ("mouseMoved", end, 1), ("mouseReleased", end, 0)):
            event = {"type": kind, "x": box[0] + x, "y": box[1] + y, "button": "left", "buttons": buttons}
            page.driver.execute_cdp_cmd("Input.dispatchMouseEvent", event | {"clickCount": 1})
    page.run("document.getElementById('status').textContent = 'given'")
    page.driver.find_element(By.ID, "read").click()
    page.wait(lambda: page.text("status").startswith("Read in "))
    assert page.text("latex") and page.text("name") == "Drawing"
    page.driver.find_element(By.ID, "draw").click()


def test_what_cannot_be_read_is_said(page: Page) -> None:
    white = Image.new("L", (40, 20), 255)
    assert give(page, saved(white, "PNG")) == "This picture is blank."
    unknown = "Not read: the image is damaged, or of a format that this browser does not know."
    assert give(page, b"no picture at all") == unknown
    assert give(page, saved(Image.new("L", (2, 2)), "PNG")).startswith("Not read: the image has 2 x 2 pixels, too few")
    assert give(page, saved(Image.new("1", (16_001, 10)), "PNG")).startswith(
        "Not read: the image has 16001 x 10 pixels"
    )
    assert give(page, saved(white, "TIFF"), "scan.tiff") == unknown
    assert give(page, draw_png("x + y", em=17)).startswith("Read in ")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_it_fits_the_window_and_can_be_read(page: Page, width: int, scheme: str) -> None:
    give(page, FORMULA.read_bytes())
    page.show(width, scheme)
    assert page.run("return document.documentElement.scrollWidth") <= width
    assert page.run(CONTRAST) == []


def test_missing_files_on_a_host_are_reported(browser: Browser, folder: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(folder, tmp_path / "broken", ignore=shutil.ignore_patterns("model.onnx"))
    with hosted(broken) as server:
        browser.driver.get(f"http://127.0.0.1:{server.server_port}/")
        status = "return document.getElementById('status').textContent"
        output = (
            "Nothing can be read: the model could not be loaded (model.onnx is missing on this site (status 404)). Load"
        )
        WebDriverWait(browser.driver, 60).until(lambda _: str(browser.run(status)).startswith(output))
    browser.driver.get_log("browser")  # a later test expects this to be empty
