"""The Markdown pages of the repository, as its tests read them."""

from __future__ import annotations

import functools
import os
import re
import shlex
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).resolve().parents[2]
# Folders at the top without pages of this project.
NOT_OURS = {"build", "dist", "workspace", "shared"}
# The programs whose commands are checked.
OURS = ("im2latex", "make")
_MARKDOWN = MarkdownIt().enable("table")


def pages() -> list[Path]:
    """Every page, by its path below the root."""
    paths = [path.relative_to(ROOT) for path in ROOT.glob("*.md")]
    for folder in ROOT.iterdir():
        if folder.is_dir() and not folder.name.startswith(".") and folder.name not in NOT_OURS:
            for parent, _, files in os.walk(folder):
                paths += [Path(parent, name).relative_to(ROOT) for name in files if name.endswith(".md")]
    return sorted(paths)


@functools.cache
def tokens(page: Path) -> list[Token]:
    """The parsed tokens of a page."""
    return _MARKDOWN.parse((ROOT / page).read_text(encoding="utf-8"))


def links(page: Path) -> list[str]:
    """The targets of all links and pictures."""
    inline = [child for token in tokens(page) for child in token.children or ()]
    targets = [child.attrGet("href") if child.type == "link_open" else child.attrGet("src") for child in inline]
    return [str(target) for target in targets if target]


def anchors(page: Path) -> set[str]:
    """The anchors of a page: headings, as GitHub names them."""
    parsed = tokens(page)
    seen: Counter[str] = Counter()
    slugs = set()
    for heading, content in zip(parsed, parsed[1:], strict=False):
        if heading.type == "heading_open":
            text = "".join(child.content for child in content.children or ())
            name = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
            slugs.add(f"{name}-{seen[name]}" if seen[name] else name)
            seen[name] += 1
    return slugs


def commands(page: Path) -> Iterator[tuple[list[str], bool]]:
    """The words of each command in the code of a page, and whether it is whole: in a block, not in a sentence.

    Output is left out: in a block with lines that begin with `$ `, only these are commands. So are settings of
    variables before a command, and optional words in brackets.
    """
    for token in tokens(page):
        if token.type in ("fence", "code_block"):
            lines = token.content.replace("\\\n", " ").splitlines()
            typed = [line[2:] for line in lines if line.startswith("$ ")]
            for line in typed or lines:
                yield from ((words, True) for words in _parts(line))
        for child in token.children or ():
            if child.type == "code_inline":
                yield from ((words, False) for words in _parts(child.content))


def _parts(line: str) -> Iterator[list[str]]:
    """The commands of a line that starts with one of our programs."""
    if not re.match(rf"(\w+=\S+ )*({'|'.join(OURS)}) ", line):
        return
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>")
    lexer.whitespace_split = True
    words: list[str] = []
    for word in [*lexer, ";"]:
        if set(word) <= set("|&;<>"):
            if words and words[0] in OURS:
                yield words
            words = []
        elif (words or not re.fullmatch(r"\w+=.*", word)) and not word.startswith("["):
            words.append(word.removesuffix("..."))
