/* Number of characters of a value that are shown at first. */
const LONG = 160;

const $ = (selector) => document.querySelector(selector);

/* Creates an element with properties and children (elements or texts). Texts are never parsed as HTML. */
function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in element) {
      element[name] = value;
    } else {
      element.setAttribute(name, value);
    }
  }
  element.append(...children.filter((child) => child !== null && child !== ""));
  return element;
}

function draw(tag, attributes, text = "") {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  Object.entries(attributes).forEach(([name, value]) => element.setAttribute(name, value));
  element.textContent = text;
  return element;
}

/* ---- Texts. ---- */

function duration(milliseconds) {
  const seconds = milliseconds / 1000;
  if (seconds < 1) {
    return `${Math.round(milliseconds)} ms`;
  }
  if (seconds < 60) {
    return `${seconds.toFixed(1)} s`;
  }
  const two = (value) => String(value).padStart(2, "0");
  const minutes = Math.floor(Math.round(seconds) / 60);
  return minutes < 60
    ? `${minutes} m ${two(Math.round(seconds) % 60)} s`
    : `${Math.floor(minutes / 60)} h ${two(minutes % 60)} m`;
}

function moment(milliseconds) {
  return milliseconds ? `${new Date(milliseconds).toISOString().slice(0, 19).replace("T", " ")} UTC` : "–";
}

function score(value) {
  return typeof value === "number" ? value.toFixed(3) : "–";
}

function number(value) {
  return value.toLocaleString("en");
}

function plural(count, word) {
  return `${number(count)} ${word}${count === 1 ? "" : "s"}`;
}

function capital(text) {
  return text.charAt(0).toUpperCase() + text.slice(1);
}

function shown(value) {
  return value === null ? "–" : typeof value === "string" ? value : JSON.stringify(value);
}

/* The state of a run, and the component where it ended. */
function stateOf(run) {
  return run.component ? `${run.state} at ${run.component}` : run.state;
}

/* The text of a node's button. */
function wordsFor(node) {
  if (node.kind === "run") {
    const facts = [
      node.state,
      "bleu" in node.scores ? `BLEU ${score(node.scores.bleu)}` : "",
      node.serving ? "serving" : "",
    ];
    const note = facts.filter(Boolean).join(" · ");
    return { title: node.id, note, said: `Run ${node.id}, ${note}`, kind: "run" };
  }
  if (node.kind === "artifact") {
    const said = `${node.title}, artifact ${node.id}, ${node.type}`;
    return { title: node.title, note: `${node.id}`, said, kind: "artifact" };
  }
  const time = node.state === "ran" || node.state === "failed" ? ` · ${duration(node.ended - node.started)}` : "";
  const note = `${node.state}${time}`;
  return {
    title: node.title,
    note,
    said: `${node.title}, execution ${node.id}, ${note}`,
    kind: `execution ${node.state}`,
  };
}

/* ---- Addresses: the view is in the fragment, so that the browser's Back button works. ---- */

function address(view, more = {}) {
  return `#${new URLSearchParams({ view, ...more })}`;
}

/* A file's address, where browsers may open it from a page: local paths, and http. */
function fileAddress(uri) {
  if (uri.startsWith("/")) {
    return `file://${uri.split("/").map(encodeURIComponent).join("/")}`;
  }
  return /^(file|https?):\/\//.test(uri) ? uri : "";
}

/* ---- Elements. ---- */

function verdict(blessed) {
  if (blessed === null) {
    return make("td", {}, "–");
  }
  return make("td", { className: blessed ? "good" : "bad" }, blessed ? "✓ yes" : "✗ no");
}

/* A list of names and values; null values are left out. */
function list(rows) {
  const entries = rows.filter(([, value]) => value !== null && value !== undefined && value !== false);
  return make(
    "dl",
    {},
    ...entries.map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value))),
  );
}

/* The value of a property; a button shows the rest of a long one. */
function long(value) {
  const text = shown(value);
  if (text.length <= LONG) {
    return text || "–";
  }
  const parsed = tidy(text);
  return make(
    "details",
    {},
    make("summary", {}, `${plural(text.length, "character")}`),
    make("pre", { tabIndex: 0 }, parsed),
  );
}

/* Indents JSON; returns other texts unchanged. */
function tidy(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 1);
  } catch (error) {
    if (error instanceof SyntaxError) {
      return text;
    }
    throw error;
  }
}

/* The colour of a painted box. */
function colourOf(node) {
  return node.kind === "execution"
    ? { failed: "bad", cached: "thread", running: "good" }[node.state] || "quiet"
    : { run: "ink" }[node.kind] || "fill";
}

/* The colours of the page, for canvases. */
function coloursOf(element) {
  const style = getComputedStyle(element);
  const names = ["line", "thread", "accent", "ink", "quiet", "bad", "good", "fill"];
  return Object.fromEntries(names.map((name) => [name, style.getPropertyValue(`--${name}`)]));
}

function span(text, className) {
  const element = document.createElement("span");
  element.textContent = text;
  element.className = className;
  return element;
}
