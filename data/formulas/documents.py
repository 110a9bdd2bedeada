r"""Finds the formulas of LaTeX documents, between dollars, in \[ \] and in environments, and expands their macros.

Documents are untrusted and often broken. Nothing is executed, and \input reads only files of the same folder or
archive.
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
# Maximum number of characters in a formula; otherwise an unclosed dollar would take the rest of the text.
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
# Marks the position of a definition in the text, with its number.
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
# Maximum depth of calls between macros that begin or end a formula.
_LEVELS = 3
_STRUCTURE = re.compile(r"\$|\\[\[\]()]|\\(?:begin|end)(?![a-zA-Z])")
_UNDRAWN = re.compile(r"\\(?:label|tag\*?|index|vspace\*?|intertext|shortintertext)\s*(?=\{)")
_UNNUMBERED = re.compile(r"\\(?:nonumber|notag|qedhere|displaybreak|allowdisplaybreaks)(?![a-zA-Z])(?:\[\d\])?")
_PART = re.compile(
    r"\\begin\s*\{[a-zA-Z]+\*?\}|\\end\s*\{[a-zA-Z]+\*?\}|\\\\\*?(?:\s*\[[^\]]*\])?|\\.|[{}&]", re.DOTALL
)


def roots(files: Mapping[str, str]) -> list[str]:
    r"""Returns the main files of documents: those with \documentclass, and those that no other file includes."""
    included = {name for text in files.values() for name in _included(text, files)}
    sources = [name for name in files if not name.endswith((".sty", ".cls"))]
    return [name for name in sources if "\\documentclass" in files[name] or name not in included]


def closure(files: Mapping[str, str], root: str) -> dict[str, str]:
    """Returns the files of a document: the main file `root` and everything that it includes."""
    needed, new = {root}, [root]
    while new:
        for name in _included(files[new.pop()], files):
            if name not in needed and len(needed) < MAX_INPUTS:
                needed.add(name)
                new.append(name)
    return {name: files[name] for name in files if name in needed}


def find_formulas(files: Mapping[str, str], root: str) -> Iterator[str | MacroError]:
    """Yields the formulas of a document in order, with macros expanded, or an error if a macro cannot be expanded.

    Args:
      files: texts by path.
      root: path of the document's main file.
    """
    text = _read(files, root, [])
    marked, definitions = _cut_definitions(text)
    macros: Macros = {}
    for definition in definitions:
        define(macros, definition)
    marked = _with_structure(marked, macros)
    macros = {}
    position = 0
    while opening := _OPENING.search(marked, position):
        position = opening.end()
        if opening[2]:
            define(macros, definitions[int(opening[2])])
        elif opening[0] in ("\\\\", "\\$"):
            continue
        elif inner := _enclosed(marked, opening):
            body, position = inner
            environment = opening[1] or ""
            body = _MARK.sub("", body)
            try:
                if environment.startswith("alignat"):  # its number of columns
                    body = body[argument(body, 0)[1] :]
                yield from _drawn_formulas(expand(body, macros), environment)
            except MacroError as error:
                yield error


def _included(text: str, files: Mapping[str, str]) -> Iterator[str]:
    """Yields the existing files that a text includes."""
    for match in _INPUT.finditer(text):
        for name in (match[1] or match[2] or "").split(","):
            if file := _find_included(name.strip(), files):
                yield file


def _find_included(name: str, files: Mapping[str, str]) -> str | None:
    """Returns the included file, matched by its path or else by its base name; None if it is missing."""
    path = str(PurePosixPath(name.strip('"')))
    for end in ("", ".tex", ".sty", ".ltx"):
        if path + end in files:
            return path + end
    last = PurePosixPath(path).name
    ends = {last, f"{last}.tex", f"{last}.sty"}
    return next((file for file in files if last and PurePosixPath(file).name in ends), None)


def _read(files: Mapping[str, str], name: str, read: list[str]) -> str:
    """Returns a file's text without comments and verbatim text, with included files inserted.

    Args:
      files: texts by path.
      name: path of the file.
      read: paths of the files read so far, which are not inserted again; extended by this function.
    """
    read.append(name)
    text = _VERBATIM.sub(" ", _COMMENT.sub(r"\1", files[name]))
    text = text.partition("\\end{document}")[0]
    parts: list[str] = []
    position = 0
    for match in _INPUT.finditer(text):
        for requested in (match[1] or match[2] or "").split(","):
            file = _find_included(requested.strip(), files)
            if file and file not in read and len(read) < MAX_INPUTS:
                parts += [text[position : match.start()], _read(files, file, read)]
                position = match.end()
    return "".join([*parts, text[position:]])


def _cut_definitions(text: str) -> tuple[str, list[Definition]]:
    """Replaces each macro definition by a mark; returns the text and the definitions."""
    parts: list[str] = []
    definitions: list[Definition] = []
    position = start = 0
    while match := find_definition(text, position):
        definition = read_definition(text, match)
        if definition is None:
            position = match.end()
            continue
        parts += [text[start : match.start()], f"\ue000{len(definitions)}\ue001"]
        definitions.append(definition)
        position = start = definition.end
    return "".join([*parts, text[start:]]), definitions


def _with_structure(text: str, macros: Mapping[str, Macro]) -> str:
    r"""Expands the macros that begin or end a formula, such as \be for \begin{equation}."""
    structure: dict[str, Macro] = {}
    for _ in range(_LEVELS):
        for name, macro in macros.items():
            if macro.body and (_STRUCTURE.search(macro.body) or structure.keys() & set(_WORD.findall(macro.body))):
                structure[name] = macro
    for _ in range(_LEVELS if structure else 0):
        parts: list[str] = []
        position = 0
        for call in _CALL.finditer(text):
            name = f"{call[1]} {call[2]}" if call[1] else call[0]
            if call.start() < position or name not in structure:
                continue
            end = call.end()
            try:
                for _ in range(structure[name].arity):
                    end = argument(text, end)[1]
                replaced = expand(text[call.start() : end], {name: structure[name]})
            except MacroError:
                continue
            parts += [text[position : call.start()], replaced]
            position = end
        if not parts:
            break
        text = "".join([*parts, text[position:]])
    return text


_IN_LINE = re.compile(r"\\[()\[\]]|\\.|[${}]|\n\s*\n", re.DOTALL)
_IN_DISPLAY = re.compile(r"\\.|\$\$|[{}]|\n\s*\n", re.DOTALL)
_CLOSING = {"$": "$", "$$": "$$", "\\(": "\\)", "\\[": "\\]"}


def _enclosed(text: str, opening: re.Match[str]) -> tuple[str, int] | None:
    """Returns the text between an opening mark and its closing mark, and the position after that; None if unclosed."""
    start, limit = opening.end(), opening.end() + MAX_FORMULA
    if opening[1]:
        closing = re.compile(r"\\end\s*\{" + re.escape(opening[1]) + r"\}").search(text, start, limit)
        return (text[start : closing.start()], closing.end()) if closing else None
    end, depth = _CLOSING[opening[0]], 0
    broken = None  # the result if the braces do not balance
    for part in (_IN_DISPLAY if end == "$$" else _IN_LINE).finditer(text, start, limit):
        if part[0] == end:
            broken = broken or (text[start : part.start()], part.end())
            if depth == 0:
                return text[start : part.start()], part.end()
        elif part[0].isspace() and end in ("$", "\\)"):
            break  # an inline formula cannot contain the end of a paragraph
        depth += {"{": 1, "}": -1}.get(part[0], 0)
    return broken


def _drawn_formulas(formula: str, environment: str) -> Iterator[str]:
    """Yields a formula without numbering; for several rows, each row and then the whole."""
    formula = _UNNUMBERED.sub(" ", _without_labels(formula)).strip()
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


def _without_labels(formula: str) -> str:
    """Removes labels, tags and text between rows from a formula."""
    parts: list[str] = []
    position = 0
    while command := _UNDRAWN.search(formula, position):
        parts.append(formula[position : command.start()])
        position = argument(formula, command.end())[1]
    return "".join([*parts, formula[position:]])


def _rows(formula: str) -> list[list[str]]:
    r"""Returns the cells of each row, split at the & and \\ outside groups and environments."""
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
