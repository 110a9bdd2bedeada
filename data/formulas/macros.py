r"""Reads macro definitions of LaTeX documents and expands macros in formulas.

It supports what authors commonly write: \newcommand and its variants with arguments and a default, \def with plain
arguments, \let, \DeclareMathOperator and \newenvironment. It is not TeX: macros with delimited arguments and macros
that contain \if or other programming are not supported, and formulas that use them are refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

# Limits for one formula, which stop macros that call themselves.
MAX_EXPANSIONS = 1000
MAX_LENGTH = 20_000


class MacroError(ValueError):
    """A macro that cannot be expanded."""


class Macro(NamedTuple):
    r"""A macro.

    Attributes:
      arity: number of arguments.
      default: default value of the first argument, if that is optional.
      body: replacement text; None if the macro is not supported.
      is_final: the body is not expanded again, because it is a command of LaTeX itself that was saved by \let and whose
        name may be redefined later.
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
# Commands that make a body a program instead of plain text with arguments.
_PROGRAM = re.compile(
    r"\\(?:if(?!f(?![a-zA-Z]))[a-zA-Z@]*|else|fi|expandafter|csname|futurelet|@ifnextchar|@ifstar|def|let|loop)(?![a-zA-Z])"
)
_BLANK = re.compile(r"\s*")


class Definition(NamedTuple):
    """A macro definition in a text.

    Attributes:
      macros: the defined macros by name ("\\x", "begin x" or "end x"); for \\let, the name of the other macro.
      end: position after the definition.
    """

    macros: dict[str, Macro | str]
    end: int


def find_definition(text: str, at: int = 0) -> re.Match[str] | None:
    """Returns the next command that begins a definition."""
    return _DEFINITION.search(text, at)


def read_definition(text: str, match: re.Match[str]) -> Definition | None:
    """Parses the definition that `find_definition` found; None if it is broken."""
    position = match.end()
    try:
        if match["environment"]:
            return _read_environment(text, position)
        name = _NAME.match(text, position)
        if name is None:
            return None
        key, position = name[1] or name[2], name.end()
        if match["let"]:
            equals = re.compile(r"\s*=?\s*").match(text, position)
            assert equals is not None
            other = _NAME.match(text, equals.end())
            return Definition({key: other[2]}, other.end()) if other and other[2] else None
        if match["operator"]:
            body, position = argument(text, position)
            return Definition({key: Macro(0, None, f"\\operatorname{match['star']}{{{body}}}")}, position)
        if match["def"]:
            parameters = _PARAMETERS.match(text, position)
            if parameters is None:  # its arguments are delimited
                brace = text.index("{", position)
                return Definition({key: Macro(0, None, None)}, argument(text, brace)[1])
            body, position = argument(text, parameters.end())
            return Definition({key: _macro(parameters[1].count("#"), None, body)}, position)
        arity, default, position = _signature(text, position)
        body, position = argument(text, position)
        return Definition({key: _macro(arity, default, body)}, position)
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


def _signature(text: str, position: int) -> tuple[int, str | None, int]:
    arity, default = 0, None
    if arity_match := _ARITY.match(text, position):
        arity, position = int(arity_match[1]), arity_match.end()
        default, position = optional_argument(text, position)
    return arity, default, position


def define(macros: Macros, definition: Definition) -> None:
    r"""Adds a definition to `macros`; \let copies the current meaning of the other macro."""
    for name, macro in definition.macros.items():
        if isinstance(macro, Macro):
            macros[name] = macro
        elif macro in macros:
            macros[name] = macros[macro]
        elif macro != name:
            macros[name] = Macro(0, None, macro, is_final=True)


def group_end(text: str, at: int) -> int:
    """Returns the position after the closing brace of the group that begins at position `at`.

    Raises:
      MacroError: the group is not closed.
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
    """Returns the argument at position `at` without its braces, and the position after it.

    Raises:
      MacroError: the argument is missing.
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


def optional_argument(text: str, start: int) -> tuple[str | None, int]:
    """Returns an optional argument without its brackets, None if there is none, and the position after it.

    Raises:
      MacroError: the bracket is not closed.
    """
    blank = _BLANK.match(text, start)
    opening = blank.end() if blank else start
    if not text.startswith("[", opening):
        return None, start
    depth = 0
    position = opening + 1
    while position < len(text):
        character = text[position]
        if character == "\\":
            position += 1
        elif character in "{}":
            depth += 1 if character == "{" else -1
        elif character == "]" and depth == 0:
            return text[opening + 1 : position], position + 1
        position += 1
    raise MacroError("a bracket that does not end")


def expand(text: str, macros: Mapping[str, Macro]) -> str:
    """Expands the macros of a formula.

    Raises:
      MacroError: a macro is not supported, lacks an argument, or expands without end.
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
    """Reads a macro's arguments at position `at`; returns the body filled with them, and the position after them."""
    if macro.body is None:
        raise MacroError(f"a macro that is a program: {name}")
    arguments: list[str] = []
    if macro.default is not None:
        optional, at = optional_argument(text, at)
        arguments.append(macro.default if optional is None else optional)
    while len(arguments) < macro.arity:
        value, at = argument(text, at)
        arguments.append(value)
    parts: list[str] = []
    copied = 0
    for mark in re.finditer(r"#([1-9#])", macro.body):
        parts.append(macro.body[copied : mark.start()])
        copied = mark.end()
        if mark[1] == "#":
            parts.append("#")
        elif int(mark[1]) <= len(arguments):
            value = arguments[int(mark[1]) - 1]
            before = "".join(parts[-2:])
            parts.append(_joined(before, value)[len(before) :])
    body = _joined("".join(parts), macro.body[copied:])
    return body, at


def _joined(before: str, after: str) -> str:
    r"""Concatenates two texts, with a space where otherwise \alpha and x would become \alphax."""
    return f"{before} {after}" if after[:1].isalpha() and _ENDS_IN_WORD.search(before[-60:]) else before + after
