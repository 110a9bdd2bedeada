/* Splits LaTeX into tokens. JavaScript port of im2latex/tokenizer.py, method by method. */

import {
  FORMULA_ENVIRONMENTS,
  FRACTIONS,
  FUNCTIONS,
  ONE_ARGUMENT,
  OPTION_AND_ARGUMENT,
  RENAMED,
  SCRIPT_MARKS,
  TEXT_ARGUMENT,
  TEXT_AS_MATHRM,
  TWO_ARGUMENTS,
  WITHOUT_INK,
  WITHOUT_INK_ARGUMENT,
} from "./commands.js";

const LEXEME = new RegExp(
  [
    "%[^\\n]*\\n?",
    "\\\\(?<side>left|right|middle)(?![a-zA-Z])\\s*(?<delimiter>\\\\[a-zA-Z]+|\\\\.|[^\\s{}]|)",
    "\\\\(?<edge>begin|end)\\s*\\{\\s*(?<environment>[a-zA-Z]+\\*?)\\s*\\}",
    "\\\\(?:operatorname|hspace|vspace|tag)\\*",
    "\\\\[a-zA-Z]+|\\\\[^\\s]|\\\\\\s?|\\S",
  ].join("|"),
  "gu",
);
const LENGTH = /^\[-?[\d.]+(pt|mm|cm|ex|em|in)\]/;
const SIDE = /^\\(?:left|right|middle)(?=[^a-zA-Z])/;
const WRAPPED = /^\s*(?:\$\$(.*)\$\$|\$(.*)\$|\\\[(.*)\\\]|\\\((.*)\\\))\s*$/s;
const LETTERS_AND_DIGITS = /^[\p{L}\p{N}]+$/u;

/* A formula that TeX cannot parse. */
export class FormulaError extends Error {}

/* Returns the tokens of a formula in the normalised style. */
export function tokenize(latex) {
  const wrapped = WRAPPED.exec(latex);
  const reader = new Reader(wrapped ? wrapped.slice(1).find((group) => group !== undefined) : latex);
  try {
    return reader.sequence();
  } catch (error) {
    throw error instanceof RangeError ? new FormulaError("nested too deeply") : error;
  }
}

function lex(latex) {
  const lexemes = [];
  for (const match of latex.matchAll(LEXEME)) {
    let text = match[0];
    const { side, delimiter, edge, environment } = match.groups;
    if (text.startsWith("%")) {
      continue;
    }
    if (side !== undefined) {
      if (!delimiter) {
        throw new FormulaError(`\\${side} without a delimiter`);
      }
      text = `\\${side}${delimiter}`;
    } else if (edge !== undefined) {
      text = `\\${edge}{${environment}}`;
    } else if (/^\\\s$/.test(text)) {
      text = "\\"; // a control space
    }
    lexemes.push({ text: SCRIPT_MARKS.get(text) ?? text, start: match.index, end: match.index + match[0].length });
  }
  return lexemes;
}

function sideOf(token) {
  return SIDE.exec(token)?.[0];
}

function isEnd(token) {
  return token.startsWith("\\end{");
}

function isInkless(token) {
  return WITHOUT_INK.has(token) || WITHOUT_INK_ARGUMENT.has(token);
}

/* Recursive-descent parser over the lexemes; every method returns tokens. */
class Reader {
  constructor(latex) {
    this.lexemes = lex(latex);
    this.at = 0;
    this.noMarkBefore = 0; // up to this index nothing is drawn, and no script follows
  }

  peek() {
    return this.lexemes[this.at]?.text ?? "";
  }

  take() {
    return this.lexemes[this.at++].text;
  }

  sequence(...stops) {
    const tokens = [];
    for (let token = this.peek(); token && !stops.includes(token) && !stops.includes(sideOf(token)); token = this.peek()) {
      if (FRACTIONS.has(token)) {
        this.take();
        return [FRACTIONS.get(token), "{", ...tokens, "}", "{", ...this.sequence(...stops), "}"];
      }
      if (token === "\\rm") {
        this.take();
        return [...tokens, "\\mathrm", "{", ...this.sequence(...stops), "}"];
      }
      tokens.push(...this.scripted());
    }
    return tokens;
  }

  scripted() {
    const tokens = ["_", "^", "'"].includes(this.peek()) ? [] : this.atom();
    let [below, above] = [null, null];
    let primes = 0;
    for (let mark = this.scriptMark(); mark; mark = this.scriptMark()) {
      if (mark === "'") {
        primes += 1;
      } else if (mark === "_") {
        if (below) {
          throw new FormulaError("double subscript");
        }
        below = this.argument("_");
      } else {
        if (above) {
          throw new FormulaError("double superscript");
        }
        above = this.argument("^");
      }
    }
    if (below) {
      tokens.push("_", "{", ...below, "}");
    }
    if (above || primes) {
      tokens.push("^", "{", ...Array(primes).fill("\\prime"), ...(above ?? []), "}");
    }
    return tokens;
  }

  scriptMark() {
    if (this.at < this.noMarkBefore) {
      return "";
    }
    const start = this.at;
    while (isInkless(this.peek())) {
      this.skipInkless(this.take());
    }
    if (["_", "^", "'"].includes(this.peek())) {
      return this.take();
    }
    this.noMarkBefore = this.at = start;
    return "";
  }

  skipInkless(token) {
    if (WITHOUT_INK_ARGUMENT.has(token) && this.peek() === "{") {
      this.at = this.takeBraceEnd() + 1;
    }
    return isInkless(token);
  }

  argument(owner) {
    const token = this.peek();
    if (
      ["", "}", "&", "\\\\", "_", "^", "\\rm"].includes(token) ||
      FRACTIONS.has(token) ||
      sideOf(token) === "\\right" ||
      isEnd(token)
    ) {
      throw new FormulaError(`${owner} without its argument`);
    }
    if (token === "'") {
      this.take();
      return ["\\prime"];
    }
    return token === "{" ? this.group() : this.atom();
  }

  group() {
    this.take();
    const tokens = this.sequence("}");
    if (this.peek() !== "}") {
      throw new FormulaError("{ without }");
    }
    this.take();
    return tokens;
  }

  atom() {
    const taken = this.take();
    const token = RENAMED.get(taken) ?? taken;
    if (token === "{") {
      this.at -= 1;
      return ["{", ...this.group(), "}"];
    }
    if (token === "}") {
      throw new FormulaError("} without {");
    }
    if (this.skipInkless(token)) {
      return [];
    }
    if (sideOf(token) === "\\left") {
      const tokens = this.sequence("\\right", "}");
      if (sideOf(this.peek()) !== "\\right") {
        throw new FormulaError("\\left without \\right");
      }
      return [token, ...tokens, this.take()];
    }
    if (sideOf(token) === "\\right") {
      throw new FormulaError("\\right without \\left");
    }
    if (token.startsWith("\\begin{")) {
      return this.environment(token.slice(7, -1));
    }
    if (isEnd(token)) {
      throw new FormulaError("\\end without \\begin");
    }
    if (token === "\\operatorname" || token === "\\operatorname*") {
      const name = this.argument(token);
      const command = "\\" + name.join("");
      return FUNCTIONS.has(command) ? [command] : [token, "{", ...name, "}"];
    }
    if (TEXT_ARGUMENT.has(token)) {
      return this.text(token);
    }
    if (TWO_ARGUMENTS.has(token)) {
      const first = this.argument(token);
      return [token, "{", ...first, "}", "{", ...this.argument(token), "}"];
    }
    if (OPTION_AND_ARGUMENT.has(token)) {
      const option = this.peek() === "[" ? this.option(token) : [];
      return [token, ...option, "{", ...this.argument(token), "}"];
    }
    if (ONE_ARGUMENT.has(token)) {
      return [token, "{", ...this.argument(token), "}"];
    }
    return [token];
  }

  option(owner) {
    this.take();
    const tokens = ["[", ...this.sequence("]", "}"), "]"];
    if (this.peek() !== "]") {
      throw new FormulaError(`${owner} [ without ]`);
    }
    this.take();
    return tokens;
  }

  text(token) {
    const inside = this.peek() === "{" ? this.lexemes.slice(this.at, this.braceEnd()) : [];
    const isRaw = inside.slice(1).some((lexeme, i) => {
      const before = inside[i];
      const both = LETTERS_AND_DIGITS.test(before.text) && LETTERS_AND_DIGITS.test(lexeme.text);
      return before.end === lexeme.start && both;
    });
    const tokens = isRaw ? this.spacedText() : this.argument(token);
    return [TEXT_AS_MATHRM.has(token) ? "\\mathrm" : token, "{", ...tokens, "}"];
  }

  spacedText() {
    const end = this.takeBraceEnd();
    const tokens = [];
    const afterGap = (at) => this.lexemes[at].start > this.lexemes[at - 1].end;
    while (this.at < end) {
      if (afterGap(this.at)) {
        tokens.push("~");
      }
      if (FRACTIONS.has(this.peek())) {
        throw new FormulaError(`${this.peek()} in text`);
      }
      if (this.peek() === "\\rm") {
        this.take(); // text is upright by default
      } else {
        tokens.push(...this.scripted());
      }
    }
    if (afterGap(end)) {
      tokens.push("~");
    }
    this.take();
    return tokens;
  }

  takeBraceEnd() {
    const end = this.braceEnd();
    this.take();
    return end;
  }

  braceEnd() {
    let depth = 0;
    for (let index = this.at; index < this.lexemes.length; index++) {
      const { text } = this.lexemes[index];
      depth += Number(text === "{") - Number(text === "}");
      if (depth === 0) {
        return index;
      }
    }
    throw new FormulaError("{ without }");
  }

  environment(name) {
    const isFormula = FORMULA_ENVIRONMENTS.has(name);
    const tokens = isFormula ? [] : [`\\begin{${name}}`];
    if (name === "array" || name === "tabular") {
      tokens.push(...this.columns());
    }
    const end = `\\end{${name}}`;
    for (;;) {
      tokens.push(...this.sequence("&", "\\\\", end, "}"));
      const separator = this.peek();
      if (!["&", "\\\\", end].includes(separator)) {
        throw new FormulaError(`\\begin{${name}} without ${end}`);
      }
      this.take();
      if (separator === "\\\\") {
        this.skipLength();
      }
      if (separator === end) {
        return isFormula ? tokens : [...tokens, end];
      }
      tokens.push(separator);
    }
  }

  skipLength() {
    const rest = this.lexemes.slice(this.at, this.at + 12).map((lexeme) => lexeme.text);
    if (LENGTH.test(rest.join(""))) {
      while (this.take() !== "]");
    }
  }

  columns() {
    if (this.peek() === "[") {
      this.sequence("]");
      if (this.peek() !== "]") {
        throw new FormulaError("[ without ]");
      }
      this.take();
    }
    if (this.peek() !== "{") {
      throw new FormulaError("an array without columns");
    }
    const kept = [];
    let depth = 0;
    const end = this.takeBraceEnd();
    while (this.at < end) {
      const token = this.take();
      depth += Number(token === "{") - Number(token === "}");
      if (depth === 0 && ["c", "l", "r", "|"].includes(token)) {
        kept.push(token);
      }
    }
    this.take();
    return ["{", ...kept, "}"];
  }
}
