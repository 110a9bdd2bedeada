/* Converts a model's tokens to LaTeX as a person would type it. JavaScript port of im2latex/clean.py. */

import {
  BLANKS_ARE_DRAWN,
  FUNCTIONS,
  FUNCTIONS_WITH_LIMITS,
  SCRIPTS_WITHOUT_BRACES,
  SPACED_FUNCTIONS,
  STARRED,
} from "./commands.js";
import { FormulaError, tokenize } from "./tokenizer.js";

const WORD = /^(?:\\[a-zA-Z]+|\\(?:left|right|middle)\\[a-zA-Z]+)$/;
const CLOSING = new Map([
  ["{", "}"],
  ["[", "]"],
]);

/* Rewrites a formula of tokens separated by single spaces. Returns it unchanged if it is not a valid formula, or if
   the result would be another formula. */
export function clean(latex) {
  try {
    const cleaned = joined(scripts(functions(latex.split(" "))));
    return isSame(tokenize(cleaned), tokenize(latex)) ? cleaned : latex;
  } catch (error) {
    if (error instanceof FormulaError) {
      return latex;
    }
    throw error;
  }
}

function isSame(a, b) {
  return a.length === b.length && a.every((token, i) => token === b[i]);
}

function functions(tokens) {
  const kept = [];
  for (let at = 0; at < tokens.length; at++) {
    const token = tokens[at];
    const isOperator = token === "\\operatorname" || token === "\\operatorname*";
    const end = isOperator ? groupEnd(tokens, at + 1) : 0;
    const command = "\\" + tokens.slice(at + 2, end).join("");
    const isKnown = FUNCTIONS.has(command) && !SPACED_FUNCTIONS.has(command);
    if (end && isKnown && FUNCTIONS_WITH_LIMITS.has(command) === token.endsWith("*")) {
      kept.push(command);
      at = end;
    } else {
      kept.push(token);
    }
  }
  return kept;
}

function scripts(tokens) {
  const kept = [];
  for (let at = 0; at < tokens.length; at++) {
    const token = tokens[at];
    const end = token === "_" || token === "^" ? groupEnd(tokens, at + 1) : 0;
    if (!end) {
      kept.push(token);
      continue;
    }
    let inner = scripts(tokens.slice(at + 2, end));
    at = end;
    if (token === "^") {
      const other = inner.findIndex((part) => part !== "\\prime");
      const primes = other < 0 ? inner.length : other;
      kept.push(...Array(primes).fill("'"));
      inner = inner.slice(primes);
      if (primes && !inner.length) {
        continue;
      }
    }
    const isBare = inner.length === 1 && standsAlone(inner[0], tokens[end + 1] ?? "");
    kept.push(token, ...(isBare ? inner : ["{", ...inner, "}"]));
  }
  return kept;
}

function standsAlone(token, following) {
  if (/^[0-9]+$/.test(token) && /^[0-9]/.test(following)) {
    return false;
  }
  return SCRIPTS_WITHOUT_BRACES.has(token) || /^[a-zA-Z0-9+*-]$/.test(token);
}

function joined(tokens) {
  const parts = [];
  for (let at = 0; at < tokens.length; at++) {
    const token = tokens[at];
    parts.push(token);
    if (token === "\\" || runsInto(token, tokens[at + 1] ?? "")) {
      parts.push(" ");
    }
    if (BLANKS_ARE_DRAWN.has(token)) {
      const end = argumentsEnd(tokens, at + 1);
      parts.push(tokens.slice(at + 1, end).join(" "));
      at = end - 1;
    }
  }
  return parts.join("");
}

function runsInto(token, following) {
  const isStarred = STARRED.has(token) && following.startsWith("*");
  return isStarred || (token === "\\\\" && following.startsWith("[")) || (WORD.test(token) && /^[a-zA-Z]/.test(following));
}

function argumentsEnd(tokens, at) {
  while (tokens[at] === "[" || tokens[at] === "{") {
    const end = closing(tokens, at);
    if (!end) {
      break;
    }
    at = end + 1;
  }
  return at;
}

function groupEnd(tokens, at) {
  return tokens[at] === "{" ? closing(tokens, at) : 0;
}

/* Returns the index of the token that closes the brace or bracket at `at`; 0 if none does. */
function closing(tokens, at) {
  const [opening, closes] = [tokens[at], CLOSING.get(tokens[at])];
  let depth = 0;
  for (let index = at; index < tokens.length; index++) {
    depth += Number(tokens[index] === opening) - Number(tokens[index] === closes);
    if (depth === 0) {
      return index;
    }
  }
  return 0;
}
