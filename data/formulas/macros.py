r"""Macros of LaTeX documents: their definitions, and formulas with them expanded.

What authors write is understood: \newcommand and its like with arguments and a default, \def with plain arguments,
\let, \DeclareMathOperator, \newenvironment. It is no TeX: a macro that reads on to a delimiter, or that asks for
anything by \if, is known to be beyond it, and a formula that uses it is refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

# Of one formula: macros that call themselves end here.
MAX_EXPANSIONS = 1000
MAX_LENGTH = 20_000


class MacroError(ValueError):
    """A macro that cannot be expanded."""


class Macro(NamedTuple):
    r"""A macro.

    Attributes:
      arity: how many arguments it takes.
      default: of the first argument, if that is optional.
      body: what it stands for; None if that is beyond this module.
      is_final: the body is a command of LaTeX's own, as \let keeps it, whatever is defined later by that name.
    """

    arity: int
    default: str | None
    body: str | None
    is_final: bool = False


Macros = dict[str, Macro]

_DEFINITION = re.compile(
    r"""
    \\(?P<command>(?:re|provide)?newcommand|(?:re)?newcommand|providecommand|DeclareRobustCommand)\*?(?![a-zA-Z])
    | \\(?:long\s*\\|global\s*\\)*(?P<def>[gex]?def)(?![a-zA-Z])
    | \\(?P<let>let)(?![a-zA-Z])
    | \\(?P<operator>DeclareMathOperator)(?P<star>\*?)(?![a-zA-Z])
    | \\(?P<environment>(?:re)?newenvironment)\*?(?![a-zA-Z])
    """,
    re.VERBOSE,
)
_NAME = re.compile(r"\s*(?:\{\s*(\\[a-zA-Z@]+|\\.)\s*\}|(\\[a-zA-Z@]+|\\.))", re.DOTALL)
_PARAMETERS = re.compile(r"((?:\s*#[1-9])*)\s*(?=\{)")
_ARITY = re.compile(r"\s*\[\s*([0-9])\s*\]")
_CALL = re.compile(r"\\(?:(begin|end)\s*\{\s*([a-zA-Z@]+\*?)\s*\}|[a-zA-Z@]+|[^a-zA-Z@])", re.DOTALL)
_ENDS_IN_WORD = re.compile(r"\\[a-zA-Z@]+$")
# What makes a body more than a text to be filled in.
_PROGRAM = re.compile(
    r"\\(?:if(?!f(?![a-zA-Z]))[a-zA-Z@]*|else|fi|expandafter|csname|futurelet|@ifnextchar|@ifstar|def|let|loop)(?![a-zA-Z])"
)
_BLANK = re.compile(r"\s*")


class Definition(NamedTuple):
    """A definition in a text: what it defines, by name, and where it ends. Names are "\\x", "begin x" and "end x"."""

    macros: dict[str, Macro | str]
    end: int


def find_definition(text: str, at: int = 0) -> re.Match[str] | None:
    """The next command that defines something."""
    return _DEFINITION.search(text, at)


def read_definition(text: str, found: re.Match[str]) -> Definition | None:
    r"""What `find_definition` found; None if it is broken. The value of a \let is the name of the other macro."""
    at = found.end()
    try:
        if found["environment"]:
            return _read_environment(text, at)
        name = _NAME.match(text, at)
        if name is None:
            return None
        key, at = name[1] or name[2], name.end()
        if found["let"]:
            equals = re.compile(r"\s*=?\s*").match(text, at)
            assert equals is not None
            other = _NAME.match(text, equals.end())
            return Definition({key: other[2]}, other.end()) if other and other[2] else None
        if found["operator"]:
            body, at = argument(text, at)
            return Definition({key: Macro(0, None, f"\\operatorname{found['star']}{{{body}}}")}, at)
        if found["def"]:
            parameters = _PARAMETERS.match(text, at)
            if parameters is None:  # it reads on to a delimiter
                brace = text.index("{", at)
                return Definition({key: Macro(0, None, None)}, argument(text, brace)[1])
            body, at = argument(text, parameters.end())
            return Definition({key: _macro(parameters[1].count("#"), None, body)}, at)
        arity, default, at = _signature(text, at)
        body, at = argument(text, at)
        return Definition({key: _macro(arity, default, body)}, at)
    except (MacroError, ValueError):
        return None


def _macro(arity: int, default: str | None, body: str) -> Macro:
    return Macro(arity, default, None if _PROGRAM.search(body) else body)


def _read_environment(text: str, at: int) -> Definition:
    name, at = argument(text, at)
    arity, default, at = _signature(text, at)
    begin, at = argument(text, at)
    end, at = argument(text, at)
    name = name.strip()
    return Definition({f"begin {name}": _macro(arity, default, begin), f"end {name}": _macro(0, None, end)}, at)


def _signature(text: str, at: int) -> tuple[int, str | None, int]:
    arity, default = 0, None
    if found := _ARITY.match(text, at):
        arity, at = int(found[1]), found.end()
        default, at = optional_argument(text, at)
    return arity, default, at


def define(macros: Macros, definition: Definition) -> None:
    """Adds a definition to macros, as TeX does when it comes to it."""
    for name, macro in definition.macros.items():
        if isinstance(macro, Macro):
            macros[name] = macro
        elif macro in macros:
            macros[name] = macros[macro]
        elif macro != name:
            macros[name] = Macro(0, None, macro, is_final=True)


def group_end(text: str, at: int) -> int:
    """Where the group ends that begins at a brace: behind its closing brace.

    Raises:
      MacroError: it does not end.
    """
    depth = 0
    while at < len(text):
        character = text[at]
        if character == "\\":
            at += 1
        elif character == "{":
            depth += 1
        elif character == "}":
            depth -= 1
            if depth == 0:
                return at + 1
        at += 1
    raise MacroError("a group that does not end")


def argument(text: str, at: int) -> tuple[str, int]:
    """An argument without its braces, and where it ends.

    Raises:
      MacroError: there is none.
    """
    blank = _BLANK.match(text, at)
    at = blank.end() if blank else at
    if at >= len(text) or text[at] == "}":
        raise MacroError("an argument is missing")
    if text[at] == "{":
        end = group_end(text, at)
        return text[at + 1 : end - 1], end
    if text[at] == "\\" and (call := _CALL.match(text, at)) and not call[1]:
        return call[0], call.end()
    return text[at], at + 1


def optional_argument(text: str, at: int) -> tuple[str | None, int]:
    """An argument in brackets and where it ends; None where there is none."""
    blank = _BLANK.match(text, at)
    start = blank.end() if blank else at
    if not text.startswith("[", start):
        return None, at
    depth = 0
    place = start + 1
    while place < len(text):
        character = text[place]
        if character == "\\":
            place += 1
        elif character in "{}":
            depth += 1 if character == "{" else -1
        elif character == "]" and depth == 0:
            return text[start + 1 : place], place + 1
        place += 1
    raise MacroError("a bracket that does not end")


def expand(text: str, macros: Mapping[str, Macro]) -> str:
    """A formula with its macros expanded.

    Raises:
      MacroError: a macro that is beyond this module, lacks an argument, or does not end.
    """
    done: list[str] = []
    at = expansions = 0
    while call := _CALL.search(text, at):
        name = f"{call[1]} {call[2]}" if call[1] else call[0]
        macro = macros.get(name)
        if macro is None:
            done.append(text[at : call.end()])
            at = call.end()
            continue
        if macro.is_final:
            done.append(f"{text[at : call.start()]}{macro.body}")
            at = call.end()
            continue
        expansions += 1
        filled, end = _filled(name, macro, text, call.end())
        done.append(text[at : call.start()])
        text, at = _joined(filled, text[end:]), 0
        if expansions > MAX_EXPANSIONS or len(text) > MAX_LENGTH:
            raise MacroError("macros that do not end")
    return "".join(done) + text[at:]


def _filled(name: str, macro: Macro, text: str, at: int) -> tuple[str, int]:
    """The body of a macro with the arguments that stand at a place, and where they end."""
    if macro.body is None:
        raise MacroError(f"a macro that is a program: {name}")
    given: list[str] = []
    if macro.default is not None:
        optional, at = optional_argument(text, at)
        given.append(macro.default if optional is None else optional)
    while len(given) < macro.arity:
        value, at = argument(text, at)
        given.append(value)
    parts: list[str] = []
    place = 0
    for mark in re.finditer(r"#([1-9#])", macro.body):
        parts.append(macro.body[place : mark.start()])
        place = mark.end()
        if mark[1] == "#":
            parts.append("#")
        elif int(mark[1]) <= len(given):
            value = given[int(mark[1]) - 1]
            before = "".join(parts[-2:])
            parts.append(_joined(before, value)[len(before) :])
    body = _joined("".join(parts), macro.body[place:])
    return body, at


def _joined(before: str, after: str) -> str:
    r"""Two texts one behind the other, with a blank where \alpha and x would become \alphax."""
    return f"{before} {after}" if after[:1].isalpha() and _ENDS_IN_WORD.search(before[-60:]) else before + after
