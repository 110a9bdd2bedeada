"use strict";

/* Marks the symbols of a formula that the model doubts. */

/* Symbols with a lower probability are marked; those below the second limit are marked more clearly. */
const DOUBTFUL = 0.8;
const VERY_DOUBTFUL = 0.5;
/* Maximum number of symbols in the list below the formula. */
const MOST_LISTED = 8;
const LEXEME =
  /\\(?:begin|end)\s*\{[a-zA-Z]+\*?\}|\\(?:left|right|middle)(?:\\[a-zA-Z]+|\\.|\S)|\\(?:[a-zA-Z]+|\S)|\S/g;

/* Returns the doubted symbols of a formula, { start, end, probability }, from the probabilities of the model's tokens.

   The formula is what a person would type: without some braces and spaces, with \sin for \operatorname { s i n }. So
   its lexemes are aligned with those of the tokens, by their longest common subsequence. A lexeme that is not among the
   tokens gets the lowest probability of the tokens in its place. */
function doubts(latex, tokens) {
  const written = [...latex.matchAll(LEXEME)];
  const read = tokens.flatMap(([token, probability]) => (token.match(LEXEME) ?? []).map((text) => [text, probability]));
  const columns = read.length + 1;
  const longest = new Uint16Array((written.length + 1) * columns);
  const isSame = (i, j) => written[i][0] === read[j][0];
  for (let i = written.length - 1; i >= 0; i--) {
    for (let j = read.length - 1; j >= 0; j--) {
      longest[i * columns + j] = isSame(i, j)
        ? longest[(i + 1) * columns + j + 1] + 1
        : Math.max(longest[(i + 1) * columns + j], longest[i * columns + j + 1]);
    }
  }
  const probabilities = new Array(written.length).fill(1);
  let [i, j, first, lowest] = [0, 0, 0, 1]; // `first` is the first lexeme after the last common one
  while (i < written.length || j < read.length) {
    if (i < written.length && j < read.length && isSame(i, j)) {
      probabilities.fill(lowest, first, i);
      probabilities[i] = read[j][1];
      [i, j, first, lowest] = [i + 1, j + 1, i + 1, 1];
    } else if (i < written.length && longest[(i + 1) * columns + j] === longest[i * columns + j]) {
      i += 1;
    } else {
      lowest = Math.min(lowest, read[j][1]);
      j += 1;
    }
  }
  probabilities.fill(lowest, first);
  return written
    .map((match, at) => ({ start: match.index, end: match.index + match[0].length, probability: probabilities[at] }))
    .filter(({ probability }) => probability < DOUBTFUL);
}

/* Shows a formula with its doubted symbols underlined, and lists them in words, for those who cannot see or point. */
function showDoubts(latex, tokens) {
  const found = doubts(latex, tokens);
  const parts = [];
  let end = 0;
  for (const doubt of found) {
    const mark = document.createElement("mark");
    mark.textContent = latex.slice(doubt.start, doubt.end);
    mark.title = `${percent(doubt.probability)} sure`;
    mark.classList.toggle("very", doubt.probability < VERY_DOUBTFUL);
    parts.push(latex.slice(end, doubt.start), mark);
    end = doubt.end;
  }
  byId("latex").replaceChildren(...parts, latex.slice(end));
  byId("doubts").hidden = !found.length;
  const listed = found.slice(0, MOST_LISTED);
  const names = listed.map(({ start, end, probability }) => `${latex.slice(start, end)} (${percent(probability)})`);
  const others = found.length > listed.length ? `, and ${found.length - listed.length} more` : "";
  byId("doubts").textContent =
    `The model is less than ${percent(DOUBTFUL)} sure of the underlined symbols, and less than ` +
    `${percent(VERY_DOUBTFUL)} of those underlined twice: ${names.join(", ")}${others}.`;
}
