"""Tests of the lineage page in a real browser."""

from __future__ import annotations

import itertools
import json
import re
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.select import Select
from selenium.webdriver.support.wait import WebDriverWait

from pipeline.lineage.diff import differences, facts
from pipeline.lineage.graph import LineageGraph, read_store
from pipeline.lineage.page.lineage_page import write_page
from pipeline.lineage.run_summary import RunSummary, summarise
from pipeline.lineage.store import read
from pipeline.workspace import Workspace
from tests.browser import CONTRAST, Browser
from tests.pipeline.lineage.page.page_workspace import HOSTILE, HOSTILE_RUN, fill

RUNS, MANY = 8, 1000
# The ancestors of the serving model: its training data and its Pusher, without its evaluation.
WAY = {
    "ImportExampleGen", "examples", "ImportSchemaGen", "schema", "Transform", "transform_graph", "transformed_examples",
    "Trainer", "model", "Pusher", "pushed_model",
}  # fmt: skip


class Material:
    """A workspace, the graph of its store, and its page."""

    def __init__(self, home: Path, runs: int, hostile: bool = True, cached: bool = True) -> None:
        self.years = fill(home, runs, hostile, cached)
        self.file = home / "lineage.html"
        workspace = Workspace(home)
        write_page(workspace, self.file)
        graph: LineageGraph = read(workspace, read_store)
        self.graph = graph
        self.summaries: dict[str, RunSummary] = {run: summarise(graph, run, "", workspace) for run in graph.runs}
        self.serving = next(run for run in list(graph.runs)[::-1] if self.summaries[run].pushed)


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Material:
    return Material(tmp_path_factory.mktemp("small") / "workspace", RUNS)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Material:
    return Material(tmp_path_factory.mktemp("many") / "workspace", MANY, hostile=False, cached=False)


def show(browser: Browser, material: Material, where: str = "", width: int = 1280, scheme: str = "light") -> None:
    """Opens the page at a fragment of its address."""
    browser.open(material.file, width, scheme)
    ready(browser)
    if where:
        browser.run("location.hash = arguments[0]", where)
        settle(browser)


def ready(browser: Browser) -> None:
    WebDriverWait(browser.driver, 20).until(
        lambda driver: driver.execute_script("return document.documentElement.dataset.ready")
    )


def settle(browser: Browser) -> None:
    """Waits until the page has painted all pending changes."""
    browser.driver.execute_async_script(
        "const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done)))"
    )


def find(browser: Browser, selector: str) -> WebElement:
    return browser.driver.find_element(By.CSS_SELECTOR, selector)


def texts(browser: Browser, selector: str) -> list[str]:
    return browser.run("return [...document.querySelectorAll(arguments[0])].map((e) => e.textContent)", selector)


def node(browser: Browser, key: str) -> WebElement:
    return find(browser, f'.node[data-key="{key}"]')


def boxes(browser: Browser) -> dict[str, dict[str, float]]:
    """Returns the positions of the nodes that are elements, by key."""
    return browser.run(
        "return Object.fromEntries([...document.querySelectorAll('.node')]"
        ".map((e) => [e.dataset.key, e.getBoundingClientRect().toJSON()]))"
    )


def ink(browser: Browser) -> int:
    """Returns the painted points of the canvas."""
    return browser.run(
        """
        const canvas = document.querySelector(".stage canvas");
        const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
        return pixels.reduce((count, value, place) => count + (place % 4 === 3 && value > 0), 0);
        """
    )


def of_run(run: str, **more: str) -> str:
    return urlencode({"view": "graph", "run": run, **more})


def details(browser: Browser) -> str:
    return find(browser, "#about").text


def test_the_page_logs_nothing_and_makes_no_requests(browser: Browser, material: Material) -> None:
    browser.driver.get("about:blank")  # the browser's start page makes requests
    for log in ("browser", "performance"):
        browser.driver.get_log(log)
    show(browser, material, of_run("*"))
    for view in ("view=compare", of_run(HOSTILE_RUN), "view=runs"):
        browser.run("location.hash = arguments[0]", view)
        settle(browser)
    assert browser.driver.get_log("browser") == []
    messages = [json.loads(entry["message"])["message"] for entry in browser.driver.get_log("performance")]
    requested = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    assert requested[0] == material.file.as_uri()
    assert all(url.startswith("data:") for url in requested[1:])


def test_only_the_script_of_the_page_can_run(browser: Browser, material: Material) -> None:
    show(browser, material)
    browser.run(
        "const script = document.createElement('script'); script.textContent = 'window.broken = 1';"
        "document.body.append(script); fetch('https://example.org').catch(() => { window.refused = 1; });"
    )
    settle(browser)
    assert browser.run("return [window.broken, window.refused]") == [None, 1]
    assert any("Content Security Policy" in entry["message"] for entry in browser.driver.get_log("browser"))


def test_hostile_names_are_shown_as_text(browser: Browser, material: Material) -> None:
    show(browser, material)
    assert any(HOSTILE in text for text in texts(browser, "#runs-table th a"))
    show(browser, material, of_run(HOSTILE_RUN))
    examples = max(material.graph.artifacts)
    trainer = max(material.graph.executions)
    for key, shown in ((f"a{examples}", f"note\n{HOSTILE}"), (f"e{trainer}", f"{HOSTILE}\n{HOSTILE}")):
        node(browser, key).click()
        settle(browser)
        assert " ".join(shown.split()) in " ".join(details(browser).split())
    # Its address is not a link, because a browser would run it.
    node(browser, f"a{examples}").click()
    settle(browser)
    assert "javascript:document.title" in details(browser)
    assert browser.run("return document.querySelectorAll('a[href^=javascript]').length") == 0
    assert browser.run("return [document.scripts.length, document.images.length]") == [2, 0]
    assert "broken" not in browser.driver.title.split("·")[-1] and browser.driver.title.endswith("· Lineage")


def test_the_list_agrees_with_the_command(browser: Browser, material: Material) -> None:
    show(browser, material)
    rows = browser.run(
        "return [...document.querySelectorAll('#runs-table tbody tr')]"
        ".map((row) => [...row.cells].map((cell) => cell.textContent))"
    )
    assert [row[1].removesuffix("serving") for row in rows] == list(material.graph.runs)[::-1]
    for row in rows:
        summary = material.summaries[row[1].removesuffix("serving")]
        assert row[3].removeprefix("✗ ") == f"{summary.state}{f' at {summary.component}' if summary.component else ''}"
        assert row[5].split(" of ")[0] == str(summary.cached)
        assert row[6] == (f"{summary.scores['bleu']:.3f}" if summary.scores else "–")
        assert row[7] == {None: "–", True: "✓ yes", False: "✗ no"}[summary.blessed]
        assert row[8] == (summary.pushed or "–")
        assert row[1].endswith("serving") == (row[1].startswith(material.serving))
    assert find(browser, "#serving-title").text == f"Version {material.summaries[material.serving].pushed} is serving"


def test_the_list_can_be_sorted_and_filtered(browser: Browser, material: Material) -> None:
    show(browser, material)
    button = find(browser, "th[data-column=bleu] button")
    button.send_keys(Keys.ENTER)
    shown = texts(browser, "#runs-table tbody td:nth-child(7)")
    known = sorted((value for value in shown if value != "–"), reverse=True)
    assert len(set(known)) > 3 and shown == [*known, *["–"] * (len(shown) - len(known))]
    button.send_keys(Keys.ENTER)
    assert texts(browser, "#runs-table tbody td:nth-child(7)") == shown[::-1]
    assert find(browser, "th[data-column=bleu]").get_attribute("aria-sort") == "ascending"
    Select(find(browser, "#state")).select_by_value("failed")
    visible = browser.run("return [...document.querySelectorAll('#runs-table tbody tr')].filter((r) => r.offsetHeight)")
    assert len(visible) == sum(summary.state == "failed" for summary in material.summaries.values()) == 1
    assert find(browser, "#runs-table caption").text.startswith("1 run.")


def test_a_selected_run_is_drawn_from_left_to_right(browser: Browser, material: Material) -> None:
    show(browser, material)
    first = next(iter(material.graph.runs))
    find(browser, "#runs-table tbody tr:last-child th a").send_keys(Keys.ENTER)
    settle(browser)
    executions = material.graph.of_run[first]
    places = boxes(browser)
    outputs = {f"a{artifact}" for execution in executions for artifact in execution.output_ids()}
    assert set(places) == {f"e{execution.id}" for execution in executions} | outputs and len(places) == 25
    for execution in executions:
        for artifact in execution.input_ids():
            assert places[f"a{artifact}"]["right"] <= places[f"e{execution.id}"]["left"], execution.component
    for one, other in itertools.combinations(places.values(), 2):
        apart = one["right"] <= other["left"] or other["right"] <= one["left"]
        assert apart or one["bottom"] <= other["top"] or other["bottom"] <= one["top"]
    assert ink(browser) > 1000
    # Artifacts, executions and cached executions are drawn differently.
    show(browser, material, of_run(list(material.graph.runs)[4]))
    styles = browser.run(
        "return ['.execution', '.artifact'].map((kind) => { const style = getComputedStyle("
        "document.querySelector('.node' + kind)); return [style.borderRadius, style.borderStyle]; })"
    )
    assert styles[0] != styles[1] and styles[0][1] == "dashed"
    assert len(browser.driver.find_elements(By.CSS_SELECTOR, ".node.cached")) == 11


def test_the_ancestors_of_the_serving_model_are_highlighted_at_first(browser: Browser, material: Material) -> None:
    show(browser, material, "view=graph")
    assert Select(find(browser, "#run")).first_selected_option.text == material.serving
    assert set(texts(browser, ".node.path .title")) == WAY
    assert len(texts(browser, ".node.path .title")) == len(WAY)
    assert "execution" in str(find(browser, ".node.path").get_attribute("aria-label"))
    # The list begins with the same path.
    show(browser, material)
    steps = [step.split() for step in texts(browser, ".way li")]
    assert set(texts(browser, ".way a")) == WAY and len(steps) == 4


def test_the_descendants_of_a_node_can_be_highlighted(browser: Browser, material: Material) -> None:
    first = next(iter(material.graph.runs))
    trainer = next(e for e in material.graph.of_run[first] if e.component == "Trainer")
    show(browser, material, of_run(first, at=f"e{trainer.id}"))
    Select(find(browser, "#highlight")).select_by_value("up")
    settle(browser)
    assert set(texts(browser, ".node.path .title")) == WAY - {"Pusher", "pushed_model", "model"}
    Select(find(browser, "#highlight")).select_by_value("down")
    settle(browser)
    after = {"Trainer", "model", "model_run", "Baseline", "baseline", "Evaluator", "blessing", "evaluation"}
    assert set(texts(browser, ".node.path .title")) == after | {
        "ServingCheck", "Pusher", "pushed_model", "Reporter", "report"
    }  # fmt: skip
    Select(find(browser, "#highlight")).select_by_value("")
    settle(browser)
    assert texts(browser, ".node.path .title") == []


def test_a_click_shows_properties_neighbours_and_files(browser: Browser, material: Material) -> None:
    first = next(iter(material.graph.runs))
    outputs = material.graph.outputs(first)
    evaluation = outputs["Evaluator", "evaluation"]
    show(browser, material, of_run(first))
    node(browser, f"a{evaluation.id}").click()
    settle(browser)
    assert find(browser, "#about h2").text == "evaluation"
    files = find(browser, "#about dd a")
    assert files.get_attribute("href") == Path(evaluation.uri).as_uri() and files.text == evaluation.uri
    assert re.search(r"tfx_version\s+1\.16\.0", details(browser))
    gone = outputs["Trainer", "model"]
    node(browser, f"a{gone.id}").click()
    settle(browser)
    assert "no longer there" in details(browser)
    # To a neighbour, and back.
    users = [material.graph.executions[user] for user in material.graph.users[gone.id] if user < 12]
    links = {f"{user.component} (execution {user.id})" for user in users}
    assert links <= set(texts(browser, "#about li a"))
    find(browser, "#about").find_element(By.PARTIAL_LINK_TEXT, "Trainer (execution").send_keys(Keys.ENTER)
    settle(browser)
    assert find(browser, "#about h2").text == "Trainer"
    assert {"Inputs", "Outputs", "Properties"} <= set(texts(browser, "#about h3"))
    assert browser.run("return document.querySelector('#about details pre').textContent").count("training.seed") == 1
    browser.driver.back()
    settle(browser)
    assert find(browser, "#about h2").text == "model"
    # The selected node is visible next to the panel.
    chosen, panel = boxes(browser)[f"a{gone.id}"], find(browser, "#details").rect
    assert chosen["right"] <= panel["x"]


def test_everything_works_with_the_keyboard(browser: Browser, material: Material) -> None:
    first = next(iter(material.graph.runs))
    show(browser, material, of_run(first))
    find(browser, ".zoom button:last-child").send_keys(Keys.TAB, Keys.TAB)

    def focused() -> WebElement:
        return browser.driver.switch_to.active_element

    assert "node" in str(focused().get_attribute("class"))
    assert browser.run("return document.querySelectorAll('.node[tabindex=\"0\"]').length") == 1
    seen: list[str] = []
    for key in [Keys.ARROW_RIGHT] * 7 + [Keys.ARROW_DOWN, Keys.ARROW_LEFT, Keys.ARROW_UP]:
        before = boxes(browser)[str(focused().get_attribute("data-key"))]
        focused().send_keys(key)
        settle(browser)
        chosen = str(focused().get_attribute("data-key"))
        after = boxes(browser)[chosen]
        moved = {
            Keys.ARROW_RIGHT: after["x"] - before["x"],
            Keys.ARROW_LEFT: before["right"] - after["right"],
            Keys.ARROW_DOWN: after["y"] - before["y"],
            Keys.ARROW_UP: before["y"] - after["y"],
        }[key]
        assert moved > 0 or key == Keys.ARROW_RIGHT and chosen == seen[-1], (key, chosen)
        assert browser.run("return getComputedStyle(arguments[0]).outline", focused()).endswith("solid 3px")
        seen.append(chosen)
    focused().send_keys(Keys.ENTER)
    settle(browser)
    assert focused().tag_name == "h2" and focused().text == texts(browser, f'.node[data-key="{seen[-1]}"] .title')[0]
    focused().send_keys(Keys.ESCAPE)
    settle(browser)
    assert focused().get_attribute("data-key") == seen[-1]
    assert not find(browser, "#details").is_displayed()
    focused().send_keys("/")
    assert focused().get_attribute("id") == "search"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Trainer ran", "Trainer"),  # a name and a state
        ("pushedmodel", "pushed_model"),  # a type
        ("a1", "examples"),  # an id
        ("pipeline_root/Transform/transform_graph", "transform_graph"),  # a path
        ("formulas0", "ImportExampleGen"),  # the value of a property
    ],
)
def test_search_finds_every_kind_of_text(browser: Browser, material: Material, text: str, expected: str) -> None:
    show(browser, material)
    box = find(browser, "#search")
    box.send_keys(text)
    WebDriverWait(browser.driver, 5).until(lambda _: box.get_attribute("aria-expanded") == "true")
    option = find(browser, "#found li[aria-selected=true]")
    assert box.get_attribute("aria-activedescendant") == option.get_attribute("id")
    assert option.text.startswith(expected)
    box.send_keys(Keys.ENTER)
    settle(browser)
    assert find(browser, "#about h2").text == expected
    assert browser.driver.switch_to.active_element.tag_name == "h2"
    assert not find(browser, ".found").is_displayed()


def test_arrow_keys_select_search_results(browser: Browser, material: Material) -> None:
    show(browser, material)
    find(browser, "#search").send_keys("Pusher")
    WebDriverWait(browser.driver, 5).until(lambda _: find(browser, ".found").is_displayed())
    options = texts(browser, "#found li")
    assert re.search(r"\d+ found", find(browser, "#count").text) and len(options) > 2
    find(browser, "#search").send_keys(Keys.ARROW_DOWN, Keys.ARROW_DOWN, Keys.ARROW_UP)
    assert texts(browser, "#found li[aria-selected=true]") == options[1:2]
    find(browser, "#search").send_keys(Keys.ENTER)
    settle(browser)
    number = re.search(r"execution \d+", options[1])
    assert number and number[0].capitalize() in details(browser)
    find(browser, "#search").click()
    find(browser, "#search").send_keys(Keys.ESCAPE)
    assert not find(browser, ".found").is_displayed()


def test_search_without_results_says_so(browser: Browser, material: Material) -> None:
    show(browser, material)
    find(browser, "#search").send_keys("Trainer xyzzy", Keys.ENTER)
    assert find(browser, "#count").text == "Nothing found"
    assert find(browser, "#runs").is_displayed()


def test_the_comparison_of_two_runs_agrees_with_the_command(browser: Browser, material: Material) -> None:
    show(browser, material)
    indices = (2, 5)
    for index in indices:
        find(browser, f"#runs-table tbody tr:nth-child({len(material.graph.runs) - index}) input").click()
    find(browser, "#compare-chosen").send_keys(Keys.ENTER)
    settle(browser)
    runs = [list(material.graph.runs)[index] for index in indices]
    expected = differences(*(facts(material.graph, material.summaries[run]) for run in runs))
    rows = browser.run(
        "return [...document.querySelectorAll('#differences tbody tr')].map((row) => [row.closest('table')"
        ".caption.textContent.toLowerCase(), ...[...row.cells].map((cell) => cell.textContent)])"
    )

    def shown(value: Any) -> str:
        return "–" if value is None else value if isinstance(value, str) else json.dumps(value)

    assert rows == [[d.section, d.name, shown(d.first), shown(d.second)] for d in expected] and len(rows) >= 4
    assert find(browser, "#outcome").text.startswith(f"{len(expected)} differences")
    find(browser, "#swap").click()
    settle(browser)
    assert texts(browser, "#differences thead th")[1:3] == runs[::-1]
    find(browser, "#same").click()
    assert len(texts(browser, "#differences tbody tr")) > len(rows)


def test_the_view_zooms_and_pans_by_wheel_mouse_and_keys(browser: Browser, material: Material) -> None:
    show(browser, material, of_run(next(iter(material.graph.runs))))
    key = "e6"
    stage = find(browser, ".stage")

    def node_box() -> dict[str, float]:
        settle(browser)
        return boxes(browser)[key]

    start = node_box()
    browser.run(
        "const box = document.querySelector('[data-key=e6]').getBoundingClientRect();"
        "document.querySelector('.stage').dispatchEvent(new WheelEvent('wheel',"
        "{ deltaY: -200, clientX: box.x, clientY: box.y, bubbles: true, cancelable: true }))"
    )
    larger = node_box()
    assert larger["width"] > 1.2 * start["width"]
    # The point under the pointer stays there.
    assert larger["x"] == pytest.approx(start["x"], abs=2) and larger["y"] == pytest.approx(start["y"], abs=2)
    ActionChains(browser.driver).move_to_element_with_offset(stage, -200, 250).click_and_hold().move_by_offset(
        70, -40
    ).release().perform()
    dragged = node_box()
    assert (dragged["x"] - larger["x"], dragged["y"] - larger["y"]) == pytest.approx((70, -40), abs=2)
    # A drag that begins on a node moves the view and does not select the node.
    ActionChains(browser.driver).click_and_hold(node(browser, key)).move_by_offset(-60, 30).release().perform()
    again = node_box()
    assert again["x"] - dragged["x"] == pytest.approx(-60, abs=2)
    assert not find(browser, "#details").is_displayed()
    node(browser, key).send_keys(Keys.SHIFT, Keys.ARROW_LEFT)
    assert node_box()["x"] > again["x"] + 50
    node(browser, key).send_keys("+")
    assert node_box()["width"] == pytest.approx(1.25 * again["width"], rel=0.02)
    node(browser, key).send_keys("0")
    node_box()
    inside = stage.rect
    for one in boxes(browser).values():
        assert one["left"] >= inside["x"] and one["right"] <= inside["x"] + inside["width"] + 1
        assert one["top"] >= inside["y"] and one["bottom"] <= inside["y"] + inside["height"] + 1


def test_two_fingers_zoom(browser: Browser, material: Material) -> None:
    show(browser, material, of_run(next(iter(material.graph.runs))), width=390)
    before = boxes(browser)["e1"]["width"]
    middle = find(browser, ".stage").rect
    x, y = middle["x"] + middle["width"] / 2, middle["y"] + middle["height"] / 2

    def touch(kind: str, apart: float) -> None:
        points = [{"x": x - apart, "y": y, "id": 1}, {"x": x + apart, "y": y, "id": 2}] if apart else []
        browser.driver.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    touch("touchStart", 40)
    for apart in (50, 60, 70, 80):
        touch("touchMove", apart)
    touch("touchEnd", 0)
    settle(browser)
    assert boxes(browser)["e1"]["width"] == pytest.approx(2 * before, rel=0.1)


def test_artifacts_shared_by_runs_are_drawn_once_with_their_producer(browser: Browser, material: Material) -> None:
    show(browser, material, of_run("*"))
    seen: set[str] = set()
    beside: set[int] = set()
    for _ in range(40):
        places = boxes(browser)
        assert len(places) == len(browser.driver.find_elements(By.CSS_SELECTOR, ".node"))
        if set(places) <= seen:
            break
        seen |= set(places)
        for artifact in material.graph.artifacts.values():
            output, producer = places.get(f"a{artifact.id}"), places.get(f"e{artifact.made_by}")
            if output and producer:
                assert (
                    producer["left"] < output["left"] < producer["right"]
                    and 0 < output["top"] - producer["bottom"] < 60
                )
                beside.add(artifact.id)
        browser.run("document.querySelector('.stage').dispatchEvent(new KeyboardEvent('keydown', { key: 'PageDown' }))")
        settle(browser)
    graph = material.graph
    assert len(beside) > 0.9 * len(graph.artifacts)
    expected = {f"e{i}" for i in graph.executions} | {f"a{i}" for i in graph.artifacts}
    assert seen == expected | {f"r{index}" for index in range(len(graph.runs))}


def test_colours_can_be_chosen(browser: Browser, material: Material) -> None:
    show(browser, material, "view=graph", scheme="light")
    background = "return getComputedStyle(document.body).backgroundColor"
    line = "return getComputedStyle(document.querySelector('.stage')).getPropertyValue('--thread')"
    light = browser.run(background), browser.run(line)
    assert light[0] == "rgb(255, 255, 255)" and re.fullmatch(r"rgb\(\d+, \d+, \d+\)", light[1])
    Select(find(browser, "#theme")).select_by_value("dark")
    assert browser.run(background) == "rgb(18, 21, 25)" and browser.run(line) != light[1]
    Select(find(browser, "#theme")).select_by_value("light")
    show(browser, material, scheme="dark")
    assert browser.run(background) == "rgb(18, 21, 25)"
    Select(find(browser, "#theme")).select_by_value("light")
    assert (browser.run(background), browser.run(line)) == light


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("view", ["view=runs", "run", "node", "all", "view=compare"])
def test_the_page_fits_its_window_and_can_be_read(
    browser: Browser, material: Material, view: str, width: int, scheme: str
) -> None:
    first = next(iter(material.graph.runs))
    where = {"run": of_run(first), "node": of_run(first, at="e6"), "all": of_run("*")}.get(view, view)
    show(browser, material, where, width, scheme)
    browser.run("document.querySelectorAll('#about details').forEach((one) => { one.open = true; })")
    assert browser.run("return document.documentElement.scrollWidth") <= width
    assert browser.run(CONTRAST) == []


def test_screen_readers_find_names_for_everything(browser: Browser, material: Material) -> None:
    show(browser, material, of_run(next(iter(material.graph.runs)), at="e6"))
    for tag in ("header", "main", "footer"):
        assert len(browser.driver.find_elements(By.CSS_SELECTOR, f"body > {tag}")) == 1, tag
    count = browser.run(
        """
        const ids = [...document.querySelectorAll("[id]")].map((element) => element.id);
        const named = (e) => e.ariaLabel || e.textContent.trim() || e.labels?.length;
        const all = (selector) => [...document.querySelectorAll(selector)];
        return {
          controls: all("button, select, input, a").filter((element) => !named(element)).length,
          captions: all("table").filter((table) => !table.caption).length,
          headers: all("th:not([scope])").length,
          pictures: all("svg:not([aria-label]), canvas:not([aria-hidden])").length,
          regions: all("aside, nav, .scroll, .stage").filter((element) => !element.ariaLabel).length,
          twice: ids.length - new Set(ids).size,
        };
        """
    )
    assert count == dict.fromkeys(count, 0)
    assert str(node(browser, "e6").get_attribute("aria-label")).startswith("Trainer, execution 6, ran")
    assert node(browser, "e6").get_attribute("aria-pressed") == "true"
    assert find(browser, "nav [aria-current=page]").text == "Graph"


def test_a_thousand_runs_are_loaded_fast(browser: Browser, many: Material) -> None:
    assert len(many.graph.executions) > 0.98 * 11 * MANY and len(many.graph.artifacts) > 0.97 * 14 * MANY
    assert many.file.stat().st_size < 10_000_000
    for where in ("", of_run("*"), of_run(many.serving)):
        browser.driver.get("about:blank")
        started = time.monotonic()
        browser.driver.get(f"{many.file.as_uri()}{'#' * bool(where)}{where}")
        ready(browser)
        assert time.monotonic() - started < 30, where  # one second on an idle machine
    assert len(texts(browser, "#runs-table tbody tr")) == MANY


def test_panning_over_a_thousand_runs_is_smooth(browser: Browser, many: Material) -> None:
    show(browser, many, of_run("*"))

    def pan() -> float:
        """Returns the median time between frames, milliseconds, while the view moves with every frame."""
        return browser.driver.execute_async_script(
            """
            const done = arguments[0], times = [], stage = document.querySelector(".stage");
            const key = (name) => stage.dispatchEvent(new KeyboardEvent("keydown", { key: name, shiftKey: true }));
            function frame(time) {
              times.push(time);
              key("ArrowDown");
              if (times.length < 40) return requestAnimationFrame(frame);
              const gaps = times.slice(1).map((one, place) => one - times[place]).sort((a, b) => a - b);
              done(gaps[gaps.length >> 1]);
            }
            requestAnimationFrame(frame);
            """
        )

    assert pan() < 500  # 20 on an idle machine
    assert find(browser, ".stage").get_attribute("data-drawn") == "elements"
    assert 10 < len(boxes(browser)) < 200  # only nodes in view
    smaller = find(browser, "[data-zoom=out]")
    for _ in range(12):
        smaller.click()
    settle(browser)
    assert find(browser, ".stage").get_attribute("data-drawn") == "boxes"
    assert len(boxes(browser)) <= 1 and ink(browser) > 5000
    assert pan() < 500


def test_the_strip_moves_the_view_to_any_run(browser: Browser, many: Material) -> None:
    show(browser, many, of_run("*"))
    strip = find(browser, ".strip")
    assert f"r{MANY - 1}" in boxes(browser)  # the newest
    ActionChains(browser.driver).move_to_element_with_offset(strip, 0, strip.rect["height"] // 2 - 1).click().perform()
    settle(browser)
    assert {"r0", "r1", "r2"} & set(boxes(browser))  # the oldest: a point of the strip is more than one run
