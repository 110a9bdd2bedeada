r"""Formulas in LaTeX documents: what stands between dollars, in \[ \] and in environments, with macros expanded.

Documents are foreign text, often broken. Nothing is run; \input reaches files of the same folder or archive alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath

from data.formulas.macros import (
    Definition,
    Macro,
    MacroError,
    Macros,
    argument,
    define,
    expand,
    find_definition,
    read_definition,
)

MAX_INPUTS = 1000
# Characters of the longest formula; a dollar that is never closed would take the rest of the text.
MAX_FORMULA = 5000

_COMMENT = re.compile(r"(?<!\\)((?:\\\\)*)%.*(?:\n[ \t]*)?")
_VERBATIM = re.compile(
    r"\\begin\s*\{(verbatim\*?|Verbatim|lstlisting|minted|alltt|comment|filecontents\*?)\}.*?\\end\s*\{\1\}"
    r"|\\(?:verb|lstinline)(?![a-zA-Z])\*?([^\sa-zA-Z*{])(?:(?!\2).)*\2"
    r"|\\iffalse(?![a-zA-Z]).*?\\fi(?![a-zA-Z])",
    re.DOTALL,
)
_INPUT = re.compile(
    r"\\(?:input|include|subfile|import\s*\{[^{}]*\}|usepackage\s*(?:\[[^\]]*\])?|RequirePackage\s*(?:\[[^\]]*\])?)"
    r"(?:\s*\{([^{}]*)\}|\s+([^\s{}\\]+))"
)
# A definition's place in the text, by its number.
_MARK = re.compile("\ue000(\\d+)\ue001")
_ROWS = {
    **dict.fromkeys(("align", "align*", "flalign", "flalign*", "alignat", "alignat*", "split", "aligned"), "aligned"),
    **dict.fromkeys(("gather", "gather*", "multline", "multline*", "gathered"), "gathered"),
    **dict.fromkeys(("eqnarray", "eqnarray*"), "array"),
}
_DISPLAYS = (*(name for name in _ROWS if name not in ("split", "aligned", "gathered")), "equation", "equation*",
             "displaymath", "math", "dmath", "dmath*")  # fmt: skip
_OPENING = re.compile(
    r"\\\\|\\\$|\$\$|\$|\\\(|\\\[|\\begin\s*\{(" + "|".join(map(re.escape, _DISPLAYS)) + r")\}|" + _MARK.pattern
)
_WORD = re.compile(r"\\[a-zA-Z]+")
_CALL = re.compile(r"\\(?:(begin|end)\s*\{\s*([a-zA-Z]+\*?)\s*\}|[a-zA-Z]+)")
# How deep such macros call each other.
_LEVELS = 3
_STRUCTURE = re.compile(r"\$|\\[\[\]()]|\\(?:begin|end)(?![a-zA-Z])")
_UNDRAWN = re.compile(r"\\(?:label|tag\*?|index|vspace\*?|intertext|shortintertext)\s*(?=\{)")
_UNNUMBERED = re.compile(r"\\(?:nonumber|notag|qedhere|displaybreak|allowdisplaybreaks)(?![a-zA-Z])(?:\[\d\])?")
_PART = re.compile(
    r"\\begin\s*\{[a-zA-Z]+\*?\}|\\end\s*\{[a-zA-Z]+\*?\}|\\\\\*?(?:\s*\[[^\]]*\])?|\\.|[{}&]", re.DOTALL
)


def roots(files: Mapping[str, str]) -> list[str]:
    r"""The files that are documents of their own: those with \documentclass, and those that no other file asks for."""
    asked = {name for text in files.values() for name in _asked(text, files)}
    sources = [name for name in files if not name.endswith((".sty", ".cls"))]
    return [name for name in sources if "\\documentclass" in files[name] or name not in asked]


def closure(files: Mapping[str, str], root: str) -> dict[str, str]:
    """The files that a document is made of."""
    needed, new = {root}, [root]
    while new:
        for name in _asked(files[new.pop()], files):
            if name not in needed and len(needed) < MAX_INPUTS:
                needed.add(name)
                new.append(name)
    return {name: files[name] for name in files if name in needed}


def find_formulas(files: Mapping[str, str], root: str) -> Iterator[str | MacroError]:
    """The formulas of a document, in order, macros expanded; or why one cannot be.

    Args:
      files: texts by path.
      root: the document's own file.
    """
    text = _read(files, root, [])
    marked, definitions = _cut_definitions(text)
    macros: Macros = {}
    for definition in definitions:
        define(macros, definition)
    marked = _with_structure(marked, macros)
    macros = {}
    at = 0
    while found := _OPENING.search(marked, at):
        at = found.end()
        if found[2]:
            define(macros, definitions[int(found[2])])
        elif found[0] in ("\\\\", "\\$"):
            continue
        elif inside := _inside(marked, found):
            body, at = inside
            environment = found[1] or ""
            body = _MARK.sub("", body)
            try:
                if environment.startswith("alignat"):  # its number of columns
                    body = body[argument(body, 0)[1] :]
                yield from _finished(expand(body, macros), environment)
            except MacroError as error:
                yield error


def _asked(text: str, files: Mapping[str, str]) -> Iterator[str]:
    """The files that a text asks for and that are there."""
    for found in _INPUT.finditer(text):
        for name in (found[1] or found[2] or "").split(","):
            if known := _known(name.strip(), files):
                yield known


def _known(name: str, files: Mapping[str, str]) -> str | None:
    """The file that is meant: by its path, else by its last part."""
    path = str(PurePosixPath(name.strip('"')))
    for end in ("", ".tex", ".sty", ".ltx"):
        if path + end in files:
            return path + end
    last = PurePosixPath(path).name
    ends = {last, f"{last}.tex", f"{last}.sty"}
    return next((file for file in files if last and PurePosixPath(file).name in ends), None)


def _read(files: Mapping[str, str], name: str, read: list[str]) -> str:
    """A file without comments and verbatim text, with what it asks for in place, each file once in a row of inputs."""
    read.append(name)
    text = _VERBATIM.sub(" ", _COMMENT.sub(r"\1", files[name]))
    text = text.partition("\\end{document}")[0]
    parts: list[str] = []
    at = 0
    for found in _INPUT.finditer(text):
        for asked in (found[1] or found[2] or "").split(","):
            known = _known(asked.strip(), files)
            if known and known not in read and len(read) < MAX_INPUTS:
                parts += [text[at : found.start()], _read(files, known, read)]
                at = found.end()
    return "".join([*parts, text[at:]])


def _cut_definitions(text: str) -> tuple[str, list[Definition]]:
    """The text with a mark in place of each definition, and these."""
    parts: list[str] = []
    definitions: list[Definition] = []
    at = start = 0
    while found := find_definition(text, at):
        definition = read_definition(text, found)
        if definition is None:
            at = found.end()
            continue
        parts += [text[start : found.start()], f"\ue000{len(definitions)}\ue001"]
        definitions.append(definition)
        at = start = definition.end
    return "".join([*parts, text[start:]]), definitions


def _with_structure(text: str, macros: Mapping[str, Macro]) -> str:
    r"""The text with those macros expanded that begin or end a formula, such as \be for \begin{equation}."""
    structure: dict[str, Macro] = {}
    for _ in range(_LEVELS):  # a macro may call another
        for name, macro in macros.items():
            if macro.body and (_STRUCTURE.search(macro.body) or structure.keys() & set(_WORD.findall(macro.body))):
                structure[name] = macro
    for _ in range(_LEVELS if structure else 0):
        parts: list[str] = []
        at = 0
        for found in _CALL.finditer(text):
            name = f"{found[1]} {found[2]}" if found[1] else found[0]
            if found.start() < at or name not in structure:
                continue
            end = found.end()
            try:
                for _ in range(structure[name].arity):
                    end = argument(text, end)[1]
                replaced = expand(text[found.start() : end], {name: structure[name]})
            except MacroError:
                continue
            parts += [text[at : found.start()], replaced]
            at = end
        if not parts:
            break
        text = "".join([*parts, text[at:]])
    return text


_IN_LINE = re.compile(r"\\[()\[\]]|\\.|[${}]|\n\s*\n", re.DOTALL)
_IN_DISPLAY = re.compile(r"\\.|\$\$|[{}]|\n\s*\n", re.DOTALL)
_CLOSING = {"$": "$", "$$": "$$", "\\(": "\\)", "\\[": "\\]"}


def _inside(text: str, opening: re.Match[str]) -> tuple[str, int] | None:
    """What stands between an opening and its end, and where that ends; None where it does not."""
    start, limit = opening.end(), opening.end() + MAX_FORMULA
    if opening[1]:
        closing = re.compile(r"\\end\s*\{" + re.escape(opening[1]) + r"\}").search(text, start, limit)
        return (text[start : closing.start()], closing.end()) if closing else None
    end, depth = _CLOSING[opening[0]], 0
    broken = None  # where it ends if its braces do not balance
    for part in (_IN_DISPLAY if end == "$$" else _IN_LINE).finditer(text, start, limit):
        if part[0] == end:
            broken = broken or (text[start : part.start()], part.end())
            if depth == 0:
                return text[start : part.start()], part.end()
        elif part[0].isspace() and end in ("$", "\\)"):
            break  # what is set in a line does not go over a paragraph's end
        depth += {"{": 1, "}": -1}.get(part[0], 0)
    return broken


def _finished(formula: str, environment: str) -> Iterator[str]:
    """A formula as it is drawn; of several rows each, and the whole."""
    formula = _UNNUMBERED.sub(" ", _without(formula)).strip()
    outer = re.fullmatch(r"\\begin\s*\{(split|aligned|gathered)\}(.*)\\end\s*\{\1\}\s*([.,;]?)", formula, re.DOTALL)
    if outer and "\\begin{" + outer[1] + "}" not in outer[2]:
        environment, formula = outer[1], outer[2].rstrip() + outer[3]
        formula = re.sub(r"\A\s*\[[tbc]\]", "", formula)
    form = _ROWS.get(environment)
    if form is None:
        yield formula
        return
    rows = [row for row in _rows(formula) if any(cell.strip() for cell in row)]
    for row in rows:
        yield " ".join(cell.strip() for cell in row).strip()
    if len(rows) > 1:
        whole = " \\\\ ".join(" & ".join(cell.strip() for cell in row) for row in rows)
        columns = "{rcl}" if form == "array" else ""
        yield f"\\begin{{{form}}}{columns} {whole} \\end{{{form}}}"


def _without(formula: str) -> str:
    """A formula without labels, tags and text between rows."""
    parts: list[str] = []
    at = 0
    while found := _UNDRAWN.search(formula, at):
        parts.append(formula[at : found.start()])
        at = argument(formula, found.end())[1]
    return "".join([*parts, formula[at:]])


def _rows(formula: str) -> list[list[str]]:
    r"""The cells of each row, by the & and \\ that stand in no group and no environment."""
    rows: list[list[str]] = [[""]]
    at = depth = 0
    for part in _PART.finditer(formula):
        if depth == 0 and part[0] == "&":
            rows[-1][-1] += formula[at : part.start()]
            rows[-1].append("")
        elif depth == 0 and part[0].startswith("\\\\"):
            rows[-1][-1] += formula[at : part.start()]
            rows.append([""])
        else:
            rows[-1][-1] += formula[at : part.end()]
            if part[0] == "{" or part[0].startswith("\\begin"):
                depth += 1
            elif part[0] == "}" or part[0].startswith("\\end"):
                depth -= 1
        at = part.end()
    rows[-1][-1] += formula[at:]
    return rows
