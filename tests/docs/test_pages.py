"""The documentation: links lead somewhere, commands exist, generated pages are up to date."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import typer

from pipeline import docs, presets
from pipeline.cli import app
from pipeline.lineage.commands import STORY, StoryFirst
from tests.docs.pages import ROOT, anchors, commands, links, pages

PAGES = pages()
COMMAND: Any = typer.main.get_command(app)
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


class Wrong(Exception):
    """The command would reject this command line."""


def check_command(words: list[str], is_whole: bool = True) -> None:
    """Reads a command line as the command does, but for the values: these may be placeholders.

    Args:
        words: the words of the line, `im2latex` first.
        is_whole: whether everything that is required has to be there.

    Raises:
        Wrong: there is no such command or option, or an argument too few or too many.
    """
    command, context = COMMAND, None
    words = list(words)
    name = words.pop(0)
    while True:
        context = command.context_class(command, parent=context, info_name=name)
        try:
            options, rest, _ = command.make_parser(context).parse_args(list(words))
        except Exception as error:  # the class has another home in each version of typer
            if type(error).__module__.partition(".")[0] not in ("typer", "click"):
                raise
            raise Wrong(str(error)) from None
        inner = getattr(command, "commands", None)
        if inner is None:
            break
        if isinstance(command, StoryFirst) and (not rest or rest[0] not in inner):
            rest = [STORY, *rest]
        if not rest:  # a group without a command
            return
        name, words = rest[0], rest[1:]
        if name not in inner:
            raise Wrong(f"no command {name!r}")
        command = inner[name]
    if rest:
        raise Wrong(f"unexpected {rest}")
    if not is_whole or "--help" in words:
        return
    for parameter in command.params:
        is_missing = not isinstance(options.get(parameter.name), str | list | tuple) or not options[parameter.name]
        if parameter.required and is_missing:
            raise Wrong(f"no {parameter.name}")


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_links_lead_to_files_and_headings_that_exist(page: Path) -> None:
    broken = []
    for link in links(page):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = unquote(link).partition("#")
        target = (ROOT / page).parent / path if path else ROOT / page
        if not target.exists() or (anchor and anchor not in anchors(target.resolve().relative_to(ROOT))):
            broken.append(link)
    assert broken == []


PATHS = re.compile(r"`((?:data|trainer_module|components|pipeline|kubeflow|tests|docs)/[\w./-]+)`")
# Where the paths of the workspace and of data sets begin with the same words.
FOLDERS_OF_RUNS = {"data/"}


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "CHANGELOG.md"], ids=str)
def test_files_that_a_page_names_exist(page: Path) -> None:
    named = set(PATHS.findall((ROOT / page).read_text(encoding="utf-8"))) - FOLDERS_OF_RUNS
    # SECURITY.md names tests by their place in tests/; NAME stands for any.
    missing = [
        path for path in named if "NAME" not in path and not any((ROOT / p / path).exists() for p in (".", "tests"))
    ]
    assert missing == []


def test_names_in_contributing_exist_in_the_files() -> None:
    """Names that a page places `in` a file exist in that file."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = re.findall(r"((?:`\w+`(?:, | and | or )?)+) in `([\w./]+\.py)`", text)
    assert len(named) >= 5
    for names, file in named:
        source = (ROOT / file).read_text(encoding="utf-8")
        for name in re.findall(r"`(\w+)`", names):
            assert re.search(rf"\b(?:class |def )?{name}\b", source), f"{name} is not in {file}"


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_commands_exist_with_these_options(page: Path) -> None:
    wrong = []
    for words, is_whole in commands(page):
        if words[0] == "make":
            asked = {word for word in words[1:] if "=" not in word and not word.startswith("-")}
            wrong += [f"make {target}" for target in sorted(asked - TARGETS)]
            continue
        try:
            check_command(words, is_whole)
        except Wrong as error:
            wrong.append(f"{' '.join(words)}: {error}")
    assert wrong == []


@pytest.mark.parametrize(
    "line",
    [
        "im2latex predit formula.png",
        "im2latex predict",
        "im2latex predict formula.png --cleanly",
        "im2latex run formula.png",
        "im2latex run --preset",
        "im2latex export --format weights",
        "im2latex data imports im2latex-100k --out formulas",
        "im2latex lineage diff RUN",
    ],
)
def test_a_wrong_command_is_found(line: str) -> None:
    with pytest.raises(Wrong):
        check_command(line.split())


def test_every_command_has_a_page_that_uses_it() -> None:
    """Every command is shown in a guide, not only in the generated reference."""
    written = [page for page in PAGES if page != Path("docs/reference/cli.md")]
    used = {tuple(words[1:3]) for page in written for words, _ in commands(page) if words[0] == "im2latex"}
    names = {words[:1] for words in used} | used
    missing = []
    for name, command in COMMAND.commands.items():
        for inner in getattr(command, "commands", {None: command}):
            path = (name,) if inner in (None, STORY) else (name, inner)
            missing += [" ".join(path)] if path not in names else []
    assert missing == []


def test_every_page_of_docs_can_be_reached_from_the_readme() -> None:
    reached, waiting = set(), [Path("README.md")]
    while waiting:
        page = waiting.pop()
        if page in reached:
            continue
        reached.add(page)
        targets = (((ROOT / page).parent / link.partition("#")[0]).resolve() for link in links(page) if ":" not in link)
        waiting += [target.relative_to(ROOT) for target in targets if target.suffix == ".md"]
    assert {page for page in PAGES if page.parts[0] == "docs"} - reached == set()


def test_the_readme_lists_every_preset() -> None:
    table = (ROOT / "README.md").read_text("utf-8").split("## Presets\n")[1].split("\n## ")[0]
    assert set(re.findall(r"^\| `([\w-]+)` \|", table, re.MULTILINE)) == set(presets.names())


def test_the_readme_is_short_and_has_the_two_commands() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(readme.splitlines()) <= 150
    assert readme.count("```\nmake run\n```") == 1
    assert readme.count("```\nmake test\n```") == 1


@pytest.mark.parametrize("file", docs.pages(), ids=lambda file: file.name)
def test_generated_pages_are_up_to_date(file: Path) -> None:
    assert file.read_text(encoding="utf-8") == docs.pages()[file], "run `make docs` and commit it"


def test_a_stale_page_fails_the_check_and_is_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(docs, "REPOSITORY", tmp_path)
    monkeypatch.setattr(docs, "REFERENCE", tmp_path / "docs")
    assert docs.main(["--check"]) == 1
    assert "docs/cli.md is out of date" in capsys.readouterr().err
    assert not (tmp_path / "docs").exists()
    assert docs.main([]) == 0
    assert docs.main(["--check"]) == 0
    (tmp_path / "docs" / "cli.md").write_text("# Commands\n", encoding="utf-8")
    assert docs.main(["--check"]) == 1
