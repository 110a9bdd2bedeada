"""The page in a real browser, on a real model."""

from __future__ import annotations

import base64
import io
import itertools
import json
import re
from pathlib import Path

import pytest
from PIL import Image
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.wait import WebDriverWait

from tests.browser import CONTRAST, Browser
from tests.im2latex.serving.conftest import Running, encoded

# Gives the page a file as a person would, by the clipboard or with the mouse.
GIVE = """
const [kind, bytes, type, name] = arguments;
const transfer = new DataTransfer();
if (bytes === null) {
  transfer.setData("text/plain", "no picture");
} else {
  const content = Uint8Array.from(atob(bytes), (letter) => letter.charCodeAt(0));
  transfer.items.add(new File([content], name, { type }));
}
const event = kind === "paste"
  ? new ClipboardEvent("paste", { clipboardData: transfer, bubbles: true, cancelable: true })
  : new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true });
document.body.dispatchEvent(event);
"""


class Page:
    """The page of a service, open in a browser."""

    def __init__(self, browser: Browser, service: Running) -> None:
        self.driver, self.run, self.address = browser.driver, browser.run, f"http://127.0.0.1:{service.port}/"
        self.open()

    def open(self, width: int = 1280, scheme: str = "light") -> None:
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        media = [{"name": "prefers-color-scheme", "value": scheme}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": media})
        self.driver.get(self.address)

    def give(self, kind: str, image: bytes | None, name: str = "formula.png", media_type: str = "image/png") -> str:
        """Gives the page a picture, and returns its final status."""
        self.run("document.getElementById('status').textContent = 'given'")
        self.run(GIVE, kind, None if image is None else base64.b64encode(image).decode(), media_type, name)
        return self.status()

    def status(self) -> str:
        return WebDriverWait(self.driver, 20).until(
            lambda _: self.text("status") if self.text("status") not in ("given", "Reading…") else False
        )

    def text(self, name: str) -> str:
        return self.run("return document.getElementById(arguments[0]).textContent", name)

    def click(self, name: str) -> None:
        self.driver.find_element(By.ID, name).click()

    def alternatives(self) -> list[tuple[str, bool]]:
        return [
            (latex, pressed == "true")
            for latex, pressed in self.run(
                "return [...document.querySelectorAll('#alternatives button')].map((button) =>"
                " [button.querySelector('code').textContent, button.ariaPressed])"
            )
        ]


@pytest.fixture
def page(browser: Browser, service: Running) -> Page:
    return Page(browser, service)


@pytest.mark.parametrize("kind", ["paste", "drop"])
def test_a_given_picture_is_read_and_its_formula_drawn(
    kind: str, page: Page, service: Running, images: list[bytes]
) -> None:
    answer = service.ask("POST", "/predict?clean=1&alternatives=5", images[0]).json
    assert re.fullmatch(r"Read in \d+\.\d\d s by version 7: .* % sure\.", page.give(kind, images[0]))
    assert page.text("latex") == answer["latex"]
    assert page.alternatives() == [(one["latex"], i == 0) for i, one in enumerate(answer["alternatives"])]
    drawn = page.run("return document.querySelector('#formula .katex-html').textContent.replace(/\\u200b/g, '')")
    assert drawn == answer["latex"]  # its tokens are letters
    assert page.run("return document.querySelector('#formula annotation').textContent") == answer["latex"]
    # The picture stays in view.
    with Image.open(io.BytesIO(images[0])) as image:
        assert page.run("return document.getElementById('preview').naturalWidth") == image.width
    assert page.text("name") == "formula.png"
    assert page.driver.find_element(By.ID, "preview").is_displayed()
    assert not page.driver.find_element(By.ID, "empty").is_displayed()


def test_a_blank_picture_is_said_to_be_blank(page: Page) -> None:
    assert page.give("paste", encoded(Image.new("L", (40, 20), 255))) == "This picture is blank."
    assert page.text("latex") == "" and page.text("formula") == "Blank."


def test_a_file_that_is_chosen_is_read(page: Page, images: list[bytes], tmp_path: Path) -> None:
    (tmp_path / "chosen.png").write_bytes(images[1])
    page.driver.find_element(By.ID, "file").send_keys(str(tmp_path / "chosen.png"))
    assert page.status().startswith("Read in ")
    assert page.text("name") == "chosen.png"


def test_an_alternative_that_is_chosen_becomes_the_formula(page: Page, images: list[bytes]) -> None:
    page.give("paste", images[0])
    third = page.driver.find_elements(By.CSS_SELECTOR, "#alternatives button")[2]
    third.send_keys(Keys.ENTER)
    shown = page.alternatives()
    assert [pressed for _, pressed in shown] == [False, False, True, False, False]
    assert page.text("latex") == shown[2][0]
    assert page.run("return document.querySelector('#formula annotation').textContent") == shown[2][0]


@pytest.mark.parametrize(("button", "frame"), [("copy", "{}"), ("copy-dollars", "${}$")])
def test_the_latex_is_copied(button: str, frame: str, page: Page, images: list[bytes]) -> None:
    permissions = {"permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"], "origin": page.address}
    page.driver.execute_cdp_cmd("Browser.grantPermissions", permissions)
    page.give("paste", images[0])
    page.click(button)
    WebDriverWait(page.driver, 10).until(lambda _: page.text("status") == "Copied.")
    copied = page.driver.execute_async_script("navigator.clipboard.readText().then(arguments[0])")
    assert copied == frame.format(page.text("latex"))


def test_a_drawing_is_read(page: Page) -> None:
    page.click("draw")
    page.click("read")
    assert page.text("status") == "Nothing is drawn yet."
    box = page.run("const b = document.getElementById('canvas').getBoundingClientRect(); return [b.left, b.top]")
    for start, end in (((60, 60), (160, 60)), ((110, 20), (110, 110))):
        for kind, (x, y), buttons in (("mousePressed", start, 1), ("mouseMoved", end, 1), ("mouseReleased", end, 0)):
            event = {"type": kind, "x": box[0] + x, "y": box[1] + y, "button": "left", "buttons": buttons}
            page.driver.execute_cdp_cmd("Input.dispatchMouseEvent", event | {"clickCount": 1})
    page.click("undo")
    ink = "return [...document.getElementById('canvas').getContext('2d').getImageData(0, 0, 960, 320).data]" \
          ".filter((value, i) => i % 4 === 0 && value < 128).length"  # fmt: skip
    assert 500 < page.run(ink) < 3000  # one stroke of two
    page.run("document.getElementById('status').textContent = 'given'")
    page.click("read")
    assert page.status().startswith("Read in ")
    assert page.text("name") == "Drawing"
    size = "const p = document.getElementById('preview'); return [p.naturalWidth, p.naturalHeight]"
    assert page.run(size) == [240, 80]
    page.click("clear")
    assert page.run(ink) == 0


def test_what_cannot_be_read_is_said(page: Page, images: list[bytes], picture: Image.Image) -> None:
    page.give("paste", images[0])
    output = page.give("drop", b"no picture at all", "notes.txt", "text/plain")
    assert output == "Not read: the image is damaged, or of another format than PNG, JPEG, BMP, GIF, TIFF, WEBP."
    assert not page.driver.find_element(By.ID, "answer").is_displayed()
    assert page.give("paste", None) == "There is no picture in the clipboard."
    assert page.give("drop", None) == "Drop a picture file here."
    tiff = page.give("drop", encoded(picture, "TIFF"), "scan.tiff", "image/tiff")
    assert tiff.startswith("Read in ")
    WebDriverWait(page.driver, 10).until(lambda _: page.text("name") == "scan.tiff (this browser cannot show it)")
    assert not page.driver.find_element(By.ID, "preview").is_displayed()


# The first response is delayed by a second.
LATE = """
const ask = window.fetch;
let asked = 0;
window.late = new Promise((done) => {
  window.fetch = async (...request) => {
    const first = asked++ === 0;
    try {
      return await ask(...request);
    } finally {
      if (first) {
        await new Promise((wake) => setTimeout(wake, 1000));
        setTimeout(done, 100);
      }
    }
  };
});
"""


def test_a_late_answer_to_an_older_picture_is_not_shown(page: Page, service: Running, images: list[bytes]) -> None:
    page.run(LATE)
    page.run(GIVE, "paste", base64.b64encode(images[0]).decode(), "image/png", "older.png")
    assert page.give("paste", images[1]).startswith("Read in ")
    page.run("return window.late")
    expected = service.ask("POST", "/predict?clean=1&alternatives=5", images[1]).json["latex"]
    assert page.text("latex") == expected and page.text("status").startswith("Read in ")


def test_hostile_latex_is_text(page: Page) -> None:
    for latex in (r"\href{javascript:document.title=1}{x}", r"\htmlId{status}{x}", r"\includegraphics{x.png}",
                  "<img src=x onerror='document.title=1'>", r"\def\a{\a\a}\a", "\\frac {"):  # fmt: skip
        page.run("render(arguments[0], document.getElementById('formula'), true)", latex)
        unsafe = "return document.querySelectorAll('#formula a, #formula img, #formula #status').length"
        assert page.run(unsafe) == 0
    assert page.driver.title == "Picture to LaTeX"


def test_the_page_logs_nothing_and_requests_only_its_own_service(page: Page, images: list[bytes]) -> None:
    page.driver.get("about:blank")
    for log in ("browser", "performance"):
        page.driver.get_log(log)
    page.open()
    page.give("paste", images[0])
    page.run("return document.fonts.ready.then(() => 1)")
    assert page.driver.get_log("browser") == []
    messages = [json.loads(entry["message"])["message"] for entry in page.driver.get_log("performance")]
    asked = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    assert page.address + "page.js" in asked and any(url.endswith(".woff2") for url in asked)
    assert all(url.startswith((page.address, "data:", "blob:" + page.address)) for url in asked)
    failed = [m for m in messages if m["method"] == "Network.loadingFailed"]
    assert failed == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_it_fits_the_window_and_can_be_read(page: Page, images: list[bytes], width: int, scheme: str) -> None:
    page.open(width, scheme)
    page.click("draw")
    page.give("paste", images[0])
    assert page.run("return document.documentElement.scrollWidth") <= width
    background = page.run("return getComputedStyle(document.body).backgroundColor")
    dark = max(map(int, re.findall(r"\d+", background)[:3])) < 64
    assert dark == (scheme == "dark")
    assert page.run(CONTRAST) == []


def test_it_works_with_screen_readers_and_keyboards(page: Page, images: list[bytes]) -> None:
    page.give("paste", images[0])
    levels = page.run("return [...document.querySelectorAll('h1,h2,h3')].map((h) => Number(h.tagName[1]))")
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    assert page.driver.find_element(By.ID, "status").get_attribute("role") == "status"
    unnamed = "return [...document.querySelectorAll('input, canvas, [role=region], img')]" \
              ".filter((it) => !it.ariaLabel && !it.alt && it.checkVisibility()).length"  # fmt: skip
    assert page.run(unnamed) == 0
    reached: list[str] = []
    page.run("document.activeElement.blur()")
    for _ in range(12):
        page.driver.switch_to.active_element.send_keys(Keys.TAB)
        focused = page.driver.switch_to.active_element
        reached.append(focused.get_attribute("id") or focused.get_attribute("class") or focused.tag_name)
        assert page.run("return getComputedStyle(arguments[0]).outline", focused).endswith("solid 3px"), reached[-1]
    assert reached[:3] == ["skip", "choose", "draw"] and {"copy", "copy-dollars"} < set(reached)
