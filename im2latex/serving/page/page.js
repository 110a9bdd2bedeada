"use strict";

/* Web page of the service, and of the folder that `im2latex export --format web` writes. read.js defines how a picture
   is read, by the service or in the browser: `read(picture, alternatives, signal)` returns { status, alternatives }.
   doubts.js marks doubted symbols, and correct.js lets the person correct the formula. */

/* Number of alternatives to request. */
const ALTERNATIVES = 5;
const NOTHING_YET = "Nothing to read yet.";
/* Factor by which a drawing is reduced before it is sent, so that its strokes are as thin as in print. */
const SHRINK = 4;
const PEN = 7;
const KATEX = { throwOnError: true, trust: false, maxExpand: 1000, maxSize: 50 };

const byId = (id) => document.getElementById(id);
const canvas = byId("canvas");
const pen = canvas.getContext("2d");
const strokes = [];
let asking = null;
let taken = null;
let latex = "";

function say(text, bad = false) {
  byId("status").textContent = text;
  byId("status").classList.toggle("bad", bad);
}

/* Renders LaTeX into an element, and shows a message if KaTeX cannot. */
function render(formula, element, displayMode) {
  if (!formula) {
    element.textContent = "Blank.";
    return false;
  }
  try {
    katex.render(formula, element, { ...KATEX, displayMode });
    return true;
  } catch (error) {
    element.textContent = "This LaTeX cannot be drawn here.";
    return false;
  }
}

function percent(probability) {
  const value = 100 * probability;
  return value >= 10 ? `${value.toFixed(0)} %` : value >= 0.1 ? `${value.toFixed(1)} %` : "< 0.1 %";
}

function choose(alternative, buttons, button) {
  latex = alternative.latex;
  showDoubts(latex, alternative.tokens);
  byId("corrected").value = latex;
  render(latex, byId("formula"), true);
  for (const other of buttons) {
    other.setAttribute("aria-pressed", String(other === button));
  }
}

function show(answer) {
  const buttons = answer.alternatives.map(() => document.createElement("button"));
  answer.alternatives.forEach((alternative, i) => {
    const [share, drawn, code] = ["span", "span", "code"].map((tag) => document.createElement(tag));
    share.textContent = percent(alternative.probability);
    drawn.className = "drawn";
    render(alternative.latex, drawn, false);
    code.textContent = alternative.latex;
    buttons[i].type = "button";
    buttons[i].append(share, drawn, code);
    buttons[i].addEventListener("click", () => choose(alternative, buttons, buttons[i]));
  });
  byId("alternatives").replaceChildren(
    ...buttons.map((button) => {
      const item = document.createElement("li");
      item.append(button);
      return item;
    }),
  );
  choose(answer.alternatives[0], buttons, buttons[0]);
  byId("answer").hidden = false;
}

/* Reads a picture, and cancels an earlier request. */
async function ask(picture) {
  asking?.abort();
  asking = new AbortController();
  const { signal } = asking;
  byId("answer").hidden = true;
  say("Reading…");
  const started = performance.now();
  try {
    const answer = await read(picture, ALTERNATIVES, signal);
    if (signal.aborted) {
      return;
    }
    show(answer);
    const seconds = ((performance.now() - started) / 1000).toFixed(2);
    const by = answer.version ? ` by version ${answer.version}` : "";
    say(
      answer.status === "blank"
        ? "This picture is blank."
        : `Read in ${seconds} s${by}: ${percent(answer.alternatives[0].probability)} sure.`,
    );
  } catch (error) {
    if (!signal.aborted) {
      say(`Not read: ${error.message}`, true);
    }
  }
}

/* Shows a picture and reads it. */
function take(picture, name) {
  const preview = byId("preview");
  taken = picture;
  URL.revokeObjectURL(preview.src);
  preview.hidden = false;
  preview.src = URL.createObjectURL(picture);
  preview.alt = `The picture that is read: ${name}`;
  byId("name").textContent = name;
  byId("shown").hidden = false;
  byId("empty").hidden = true;
  ask(picture);
}

function takeFirst(files, otherwise) {
  if (files.length) {
    take(files[0], files[0].name);
  } else {
    say(otherwise, true);
  }
}

byId("preview").addEventListener("error", () => {
  byId("preview").hidden = true;
  byId("name").textContent += " (this browser cannot show it)";
});
byId("choose").addEventListener("click", () => byId("file").click());
byId("file").addEventListener("change", () => {
  if (byId("file").files.length) {
    takeFirst(byId("file").files, "");
  }
  byId("file").value = "";
});
document.addEventListener("paste", (event) => {
  takeFirst(event.clipboardData.files, "There is no picture in the clipboard.");
});
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("over");
});
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) {
    document.body.classList.remove("over");
  }
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("over");
  takeFirst(event.dataTransfer.files, "Drop a picture file here.");
});

/* Copies the LaTeX, converted to another format. */
async function copy(button, convert) {
  let text;
  try {
    text = convert(latex);
  } catch (error) {
    say("This LaTeX cannot be converted.", true);
    return;
  }
  const label = button.textContent;
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
    say("Copied.");
  } catch (error) {
    // On an insecure origin, browsers allow only the user to copy: select the text.
    byId("latex").textContent = text;
    getSelection().selectAllChildren(byId("latex"));
    say("This browser does not let the page copy: the text is selected, press Ctrl+C.", true);
  }
  setTimeout(() => {
    button.textContent = label;
  }, 1500);
}

function asMathML(formula) {
  const drawn = katex.renderToString(formula, { ...KATEX, displayMode: true, output: "mathml" });
  return drawn.slice(drawn.indexOf("<math"), drawn.lastIndexOf("</math>") + "</math>".length);
}

const FORMS = {
  copy: (formula) => formula,
  "copy-dollars": (formula) => `$${formula}$`,
  "copy-mathml": asMathML,
  // The button exists only if the page has the converter to Typst.
  ...(window.tex2typst && { "copy-typst": (formula) => tex2typst(formula) }),
};
for (const [id, convert] of Object.entries(FORMS)) {
  byId(id).hidden = false;
  byId(id).addEventListener("click", () => copy(byId(id), convert));
}

/* --- Drawing --- */

function redraw() {
  pen.fillStyle = "white";
  pen.fillRect(0, 0, canvas.width, canvas.height);
  pen.strokeStyle = "black";
  pen.lineWidth = PEN;
  pen.lineCap = pen.lineJoin = "round";
  for (const stroke of strokes) {
    pen.beginPath();
    pen.moveTo(...stroke[0]);
    for (const point of stroke) {
      pen.lineTo(...point);
    }
    pen.stroke();
  }
}

function place(event) {
  const box = canvas.getBoundingClientRect();
  return [
    ((event.clientX - box.left) * canvas.width) / box.width,
    ((event.clientY - box.top) * canvas.height) / box.height,
  ];
}

canvas.addEventListener("pointerdown", (event) => {
  canvas.setPointerCapture(event.pointerId);
  strokes.push([place(event)]);
  redraw();
});
canvas.addEventListener("pointermove", (event) => {
  if (canvas.hasPointerCapture(event.pointerId)) {
    strokes.at(-1).push(place(event));
    redraw();
  }
});
byId("draw").addEventListener("click", () => {
  const opens = byId("drawing").hidden;
  byId("drawing").hidden = !opens;
  byId("draw").setAttribute("aria-expanded", String(opens));
});
byId("undo").addEventListener("click", () => {
  strokes.pop();
  redraw();
});
byId("clear").addEventListener("click", () => {
  strokes.length = 0;
  redraw();
});
byId("read").addEventListener("click", () => {
  if (!strokes.length) {
    say("Nothing is drawn yet.", true);
    return;
  }
  const small = document.createElement("canvas");
  small.width = canvas.width / SHRINK;
  small.height = canvas.height / SHRINK;
  const context = small.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(canvas, 0, 0, small.width, small.height);
  small.toBlob((picture) => take(picture, "Drawing"), "image/png");
});
redraw();
