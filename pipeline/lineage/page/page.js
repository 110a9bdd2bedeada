/* Links and search results that are shown at once; characters of a value; milliseconds from a key to a search. */
const SHOWN = 12;
const FOUND = 50;
const LONG = 160;
const SEARCH_DELAY = 120;

const $ = (selector) => document.querySelector(selector);

/* An element with properties, and children that are elements or texts. Texts of the store never become HTML. */
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

/* ---- Words. ---- */

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

/* How a run ended, and where. */
function stateOf(run) {
  return run.component ? `${run.state} at ${run.component}` : run.state;
}

/* What a node's button says. */
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

/* ---- Addresses: what is shown stands behind the #, so that the browser's own Back works. ---- */

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

class Page {
  constructor(store) {
    this.store = store;
    this.chosen = [];
    this.view = new GraphView($(".stage"), (node, byKey) => this.open(node, byKey), wordsFor);
    this.scenes = new Map();
    this.order = { column: "began", down: true };
    this.fillRuns();
    this.fillServing();
    this.drawScores();
    this.fillSelects();
    this.listen();
    const { runs } = store;
    $("#written").textContent =
      `${plural(runs.length, "run")} of ${store.about.source}, read ${moment(store.about.written)}. ` +
      "This file needs no network and asks for nothing.";
    this.route();
  }

  /* ---- Routing. ---- */

  route() {
    const asked = new URLSearchParams(location.hash.slice(1));
    const view = asked.get("view") || (this.shownView ? "" : "runs");
    if (!["runs", "graph", "compare"].includes(view)) {
      return;
    }
    this.shownView = view;
    document.body.dataset.view = view;
    for (const name of ["runs", "graph", "compare"]) {
      $(`#${name}`).hidden = name !== view;
      const link = $(`nav [data-view=${name}]`);
      name === view ? link.setAttribute("aria-current", "page") : link.removeAttribute("aria-current");
    }
    if (view === "graph") {
      this.showGraph(asked.get("run"), this.store.nodes.get(asked.get("at")));
    } else if (view === "compare") {
      this.showCompare(asked.get("run"), asked.get("with"));
    }
    document.title = `${{ runs: "Runs", graph: this.sceneName, compare: "What differs" }[view]} · Lineage`;
  }

  /* Where a node is shown: in the graph that is shown if it is there, else in that of its run. */
  addressOf(node) {
    if (node.kind === "run") {
      return address("graph", { run: node.id });
    }
    const here = this.view.scene?.items.has(node) && this.shownView === "graph";
    const run = here ? this.sceneKey : node.home ? node.home.id : "*";
    return address("graph", { run, at: node.key });
  }

  open(node, byKey) {
    this.focusDetails = byKey;
    const target = this.addressOf(node);
    if (location.hash === target) {
      this.route();
    } else {
      location.hash = target;
    }
  }

  /* ---- Runs. ---- */

  fillRuns() {
    const columns = [
      ["id", "Run", (run) => run.id],
      ["began", "Begun", (run) => run.began],
      ["state", "State", (run) => run.state],
      ["seconds", "Time", (run) => run.seconds, "n"],
      ["cached", "Cached", (run) => run.cached, "n"],
      ["bleu", "BLEU", (run) => run.scores.bleu ?? -1, "n"],
      ["blessed", "Blessed", (run) => Number(run.blessed ?? -1)],
      ["pushed", "Pushed", (run) => run.pushed],
    ];
    this.columns = new Map(columns.map(([name, , value]) => [name, value]));
    const head = $("#runs-table thead tr");
    head.append(make("th", { scope: "col" }, make("span", { className: "unseen" }, "Compare")));
    for (const [name, title, , className = ""] of columns) {
      const button = make("button", { type: "button" }, title);
      button.addEventListener("click", () => this.sort(name));
      head.append(make("th", { scope: "col", className, "data-column": name }, button));
    }
    this.rows = new Map(this.store.runs.map((run) => [run, this.row(run)]));
    for (const state of new Set(this.store.runs.map((run) => run.state))) {
      $("#state").append(make("option", { value: state }, state));
    }
    this.sort("began", true);
  }

  row(run) {
    const box = make("input", { type: "checkbox", "aria-label": `Compare run ${run.id}` });
    box.addEventListener("change", () => this.choose(run, box.checked));
    const name = make("th", { scope: "row" }, make("a", { href: address("graph", { run: run.id }) }, run.id));
    if (run.serving) {
      name.append(make("span", { className: "badge" }, "serving"));
    }
    const bad = ["failed", "killed"].includes(run.state);
    return make(
      "tr",
      {},
      make("td", {}, box),
      name,
      make("td", { className: "quiet" }, moment(run.began)),
      make("td", { className: bad ? "bad" : "" }, `${bad ? "✗ " : ""}${stateOf(run)}`),
      make("td", { className: "n" }, duration(1000 * run.seconds)),
      make("td", { className: "n" }, `${run.cached} of ${run.blocks.filter((block) => block.execution).length}`),
      make("td", { className: "n" }, score(run.scores.bleu)),
      verdict(run.blessed),
      make("td", {}, run.pushed || "–"),
    );
  }

  sort(column, down = !(this.order.column === column && this.order.down)) {
    this.order = { column, down };
    const value = this.columns.get(column);
    const runs = [...this.store.runs].sort((one, other) => {
      const [a, b] = [value(one), value(other)];
      return (a < b ? -1 : a > b ? 1 : one.place - other.place) * (down ? -1 : 1);
    });
    $("#runs-table tbody").append(...runs.map((run) => this.rows.get(run)));
    for (const head of document.querySelectorAll("#runs-table th[data-column]")) {
      const sorted = head.dataset.column === column;
      head.setAttribute("aria-sort", sorted ? (down ? "descending" : "ascending") : "none");
    }
    this.filter();
  }

  filter() {
    const state = $("#state").value;
    let count = 0;
    for (const [run, row] of this.rows) {
      row.hidden = Boolean(state) && run.state !== state;
      count += !row.hidden;
    }
    $("#runs-table caption").textContent = `${plural(count, "run")}. Choose one to see its graph, two to compare them.`;
  }

  choose(run, on) {
    this.chosen = this.chosen.filter((one) => one !== run);
    if (on) {
      this.chosen.push(run);
    }
    // The two chosen last.
    for (const one of this.chosen.splice(0, this.chosen.length - 2)) {
      this.rows.get(one).querySelector("input").checked = false;
    }
    $("#compare-chosen").disabled = this.chosen.length < 2;
    $("#chosen").textContent = this.chosen.map((one) => one.id).join(" and ");
  }

  /* ---- What serves. ---- */

  fillServing() {
    const { serving, path, nodes } = this.store;
    const version = serving && new Map(this.store.pairs(serving.properties)).get("pushed_version");
    $("#serving-title").textContent = serving ? `Version ${version ?? serving.id} is serving` : "Nothing is serving";
    if (!serving) {
      $("#serving").append(make("p", { className: "quiet" }, `${capital(this.store.about.nothing)}.`));
      return;
    }
    const run = serving.maker?.home;
    const fact = (title, value) => make("div", {}, make("dt", {}, title), make("dd", {}, value));
    const facts = make("dl", { className: "facts" });
    if (run) {
      facts.append(
        fact("Pushed by", make("a", { href: this.addressOf(run) }, run.id)),
        fact("Begun", moment(run.began)),
        fact("BLEU", score(run.scores.bleu)),
      );
    }
    const link = (node) =>
      make("a", { className: node.kind, href: this.addressOf(node), title: wordsFor(node).said }, node.title);
    const way = make("ol", { className: "way", "aria-label": "How it was made, from the data on" });
    for (const executions of this.store.steps(path)) {
      const parts = executions.map((execution) => {
        const made = execution.outputs.flatMap(([, artifacts]) => artifacts.filter((artifact) => path.has(artifact)));
        return make("span", { className: "step" }, link(execution), ...made.map(link));
      });
      way.append(make("li", {}, make("span", { className: "steps" }, ...parts)));
    }
    $("#serving").append(
      facts,
      way,
      make("a", { href: address("graph", { run: run?.id ?? "*", at: serving.key }) }, "Show it in the graph"),
    );
  }

  /* BLEU of all runs that have one, from the oldest to the newest. */
  drawScores() {
    const runs = this.store.runs.filter((run) => "bleu" in run.scores);
    $("#scores").hidden = runs.length < 2;
    if (runs.length < 2) {
      return;
    }
    const values = runs.map((run) => run.scores.bleu);
    const [low, high] = [Math.min(...values), Math.max(...values)];
    const y = (value) => 110 - (high > low ? (value - low) / (high - low) : 0.5) * 100;
    const svg = $("#scores svg");
    svg.setAttribute(
      "aria-label",
      `BLEU of ${number(runs.length)} runs, from ${score(low)} to ${score(high)}; the table below has the numbers.`,
    );
    $("#scores .scale").replaceChildren(...[...new Set([high, low])].map((value) => span(score(value), "beside")));
    for (const value of new Set([low, high])) {
      svg.append(draw("line", { class: "rule", x1: 0, x2: "100%", y1: y(value), y2: y(value) }));
    }
    const marked = (run) => (run.serving ? "serving" : run.pushed ? "pushed" : "");
    const order = runs
      .map((run, place) => [run, place])
      .sort(([one], [other]) => marked(one).length - marked(other).length);
    for (const [run, place] of order) {
      const dot = draw("circle", {
        class: `dot ${marked(run)}`,
        cx: `${(place / (runs.length - 1)) * 100}%`,
        cy: y(run.scores.bleu),
        r: run.serving ? 5 : 3,
      });
      dot.append(draw("title", {}, `${run.id}: ${score(run.scores.bleu)}`));
      dot.addEventListener("click", () => this.open(run, false));
      svg.append(dot);
    }
  }

  /* ---- The graph. ---- */

  fillSelects() {
    const newest = [...this.store.runs].reverse();
    $("#run").append(make("option", { value: "*" }, `All runs (${number(newest.length)})`));
    for (const select of ["#run", "#first", "#second"]) {
      $(select).append(...newest.map((run) => make("option", { value: run.id }, run.id)));
    }
  }

  showGraph(id, node) {
    // The graph that was shown last, when none is named; at first that of the run that pushed what serves.
    const wanted = id ?? this.sceneKey;
    const first = this.store.serving?.maker?.home || this.store.runs.at(-1);
    const run = this.store.byRun.get(wanted) || (wanted === "*" ? null : first);
    const key = run ? run.id : "*";
    const fresh = this.sceneKey !== key;
    $("#run").value = key;
    $("#about-run").hidden = !run;
    $("#about-run").href = run ? address("graph", { run: run.id, at: run.key }) : "";
    if (fresh) {
      this.sceneKey = key;
      this.sceneName = run ? `Run ${run.id}` : "All runs";
      this.scenes.set(key, this.scenes.get(key) || (run ? Scene.ofRun(this.store, run) : Scene.ofAll(this.store)));
      const scene = this.scenes.get(key);
      $(".stage").setAttribute("aria-label", `Graph: ${this.sceneName}, ${plural(scene.items.size, "node")}`);
      this.view.show(scene, node || this.startOf(scene));
    }
    this.showDetails(node);
    this.highlight();
    this.view.select(node, this.covered());
  }

  /* What the panel with the details covers of the graph: its right, or on a narrow screen its bottom. */
  covered() {
    const { offsetWidth, offsetHeight } = $("#details");
    const beside = offsetWidth < $(".stage").clientWidth;
    return { right: beside ? offsetWidth : 0, bottom: beside ? 0 : offsetHeight };
  }

  /* What is in view at first: in all runs what serves, in one run its beginning. */
  startOf(scene) {
    return scene.run ? null : this.store.serving;
  }

  highlight() {
    const { store, view } = this;
    const node = view.selected || this.details;
    const kind = $("#highlight").value;
    const none = new Set();
    const of = (find) => (node && node.kind !== "run" ? find.call(store, node) : none);
    view.highlight({ path: store.path, up: of(store.ancestry), down: of(store.offspring), "": none }[kind]);
  }

  /* ---- A node's details. ---- */

  showDetails(node) {
    this.details = node;
    $("#details").hidden = !node;
    if (!node) {
      return;
    }
    const heading = make("h2", { tabIndex: -1 }, node.title);
    const body = {
      run: () => this.runDetails(node),
      execution: () => [...this.executionDetails(node), ...this.propertyTable("Properties", node.properties)],
      artifact: () => [...this.artifactDetails(node), ...this.propertyTable("Properties", node.properties)],
    };
    $("#about").replaceChildren(heading, ...body[node.kind]());
    $("#details").scrollTop = 0;
    if (this.focusDetails) {
      heading.focus();
      this.focusDetails = false;
    }
  }

  runDetails(run) {
    return [
      make("p", { className: "quiet" }, `Run, ${stateOf(run)}`),
      list([
        ["Begun", moment(run.began)],
        ["Time", duration(1000 * run.seconds)],
        ["Components", `${run.ran} ran, ${run.cached} cached`],
      ]),
      ...[...run.facts].flatMap(([title, pairs]) => this.propertyTable(capital(title), pairs)),
    ];
  }

  executionDetails(node) {
    const where = node.state === "cached" && node.outputs[0]?.[1][0]?.maker;
    return [
      make("p", { className: "quiet" }, `Execution ${node.id}, ${node.state}`),
      list([
        ["Run", this.link(node.home)],
        ["Component", node.type],
        ["Begun", moment(node.started)],
        ["Time", node.state === "running" ? "–" : duration(node.ended - node.started)],
        ["Work done by", where && where !== node ? this.link(where) : null],
      ]),
      ...this.channels("Inputs", node.inputs),
      ...this.channels("Outputs", node.outputs),
    ];
  }

  artifactDetails(node) {
    const target = fileAddress(node.uri);
    const files = target ? make("a", { href: target }, node.uri) : make("code", {}, node.uri || "–");
    return [
      make("p", { className: "quiet" }, `Artifact ${node.id}, ${node.type}, ${node.state}`),
      list([
        [
          "Files",
          node.gone ? make("span", {}, files, make("span", { className: "bad" }, " – no longer there")) : files,
        ],
        ["Made", moment(node.created)],
        ["Run", node.home ? this.link(node.home) : null],
        ["Made by", node.maker ? this.link(node.maker) : "not known"],
        ["Copy of", node.copyOf ? this.link(node.copyOf) : null],
      ]),
      ...this.links("Used by", node.users),
      ...this.links("Taken from the cache by", node.cachedBy),
      ...this.links("Copied as", node.copies),
    ];
  }

  link(node) {
    const text = {
      run: node.id,
      execution: `${node.title} (execution ${node.id})`,
      artifact: `${node.title} (artifact ${node.id})`,
    };
    return make("a", { href: this.addressOf(node) }, text[node.kind] || "no run");
  }

  channels(title, channels) {
    const links = channels.flatMap(([key, artifacts]) => artifacts.map((artifact) => [key, artifact]));
    return links.length
      ? [make("h3", {}, title), list(links.map(([key, artifact]) => [key, this.link(artifact)]))]
      : [];
  }

  /* Links to nodes, the newest first; many are shown when they are asked for. */
  links(title, nodes) {
    if (!nodes.length) {
      return [];
    }
    const all = [...nodes].reverse();
    const item = (node) =>
      make(
        "li",
        {},
        this.link(node),
        node.home === this.details.home ? "" : make("span", { className: "quiet" }, ` ${node.home?.id ?? ""}`),
      );
    const found = make("ul", {}, ...all.slice(0, SHOWN).map(item));
    const more = make("button", { type: "button" }, `Show all ${number(all.length)}`);
    more.addEventListener("click", () => {
      found.append(...all.slice(SHOWN).map(item));
      found.querySelectorAll("a")[SHOWN].focus();
      more.remove();
    });
    return [make("h3", {}, title), found, ...(all.length > SHOWN ? [more] : [])];
  }

  propertyTable(title, pairs) {
    const rows = this.store.pairs(pairs).map(([name, value]) => [name, long(value)]);
    const heading = make("h3", {}, title);
    if (rows.length <= SHOWN) {
      return rows.length ? [heading, list(rows)] : [];
    }
    return [heading, make("details", {}, make("summary", {}, plural(rows.length, "value")), list(rows))];
  }

  close() {
    const { current } = this.view;
    location.hash = address("graph", { run: this.sceneKey });
    if (current) {
      this.view.focus(current);
    }
  }

  /* ---- Runs compared. ---- */

  showCompare(first, second) {
    const { runs, byRun } = this.store;
    const one = byRun.get(first) || runs.at(-2) || runs[0];
    const other = byRun.get(second) || runs.at(-1);
    if (!one) {
      $("#outcome").textContent = "There is no run.";
      return;
    }
    $("#first").value = one.id;
    $("#second").value = other.id;
    const all = differences(this.store, one, other);
    const differing = all.filter((row) => row.differs);
    const rows = $("#same").checked ? all : differing;
    $("#outcome").textContent = differing.length
      ? `${plural(differing.length, "difference")} among ${plural(all.length, "fact")}.`
      : `Nothing differs among ${plural(all.length, "fact")}.`;
    const sections = [...new Set(rows.map((row) => row.section))];
    $("#differences").replaceChildren(
      ...sections.map((section) =>
        differenceTable(
          section,
          rows.filter((row) => row.section === section),
          one,
          other,
        ),
      ),
    );
  }

  compare(first, second) {
    location.hash = address("compare", { run: first, with: second });
  }

  /* ---- Search. ---- */

  search(text) {
    clearTimeout(this.waiting);
    this.waiting = setTimeout(() => this.find(text), SEARCH_DELAY);
  }

  find(text) {
    this.searched = text;
    const found = text.trim() ? this.store.search(text) : [];
    this.found = found.slice(0, FOUND);
    $("#found").replaceChildren(...this.found.map((node, place) => this.option(node, place)));
    const rest = found.length > FOUND ? `, the first ${FOUND} of them here` : "";
    $("#count").textContent = found.length ? `${number(found.length)} found${rest}` : "Nothing found";
    this.pick(found.length ? 0 : -1);
    this.unfold(Boolean(text.trim()));
  }

  option(node, place) {
    const { title, note } = wordsFor(node);
    const more = {
      run: note,
      execution: `execution ${node.id} · ${note} · ${node.home?.id}`,
      artifact: `artifact ${node.id} · ${node.type} · ${node.uri}`,
    };
    const option = make(
      "li",
      { id: `found-${place}`, role: "option" },
      title,
      make("span", { className: "beside" }, more[node.kind]),
    );
    option.addEventListener("click", () => this.take(place));
    return option;
  }

  unfold(open) {
    $(".found").hidden = !open;
    $("#search").setAttribute("aria-expanded", open);
  }

  pick(place) {
    this.picked = place;
    [...$("#found").children].forEach((option, number) => option.setAttribute("aria-selected", number === place));
    const option = $("#found").children[place];
    option?.scrollIntoView({ block: "nearest" });
    option
      ? $("#search").setAttribute("aria-activedescendant", option.id)
      : $("#search").removeAttribute("aria-activedescendant");
  }

  take(place) {
    const node = this.found[place];
    if (node) {
      this.unfold(false);
      this.open(node, true);
    }
  }

  searchKey(event) {
    const count = this.found?.length || 0;
    const actions = {
      ArrowDown: () => count && this.pick((this.picked + 1) % count),
      ArrowUp: () => count && this.pick((this.picked + count - 1) % count),
      Enter: () => {
        clearTimeout(this.waiting);
        // What is typed and confirmed at once was not searched for yet.
        if (this.searched !== $("#search").value) {
          this.find($("#search").value);
        }
        this.take(this.picked);
      },
      Escape: () => this.unfold(false),
    };
    if (actions[event.key]) {
      event.preventDefault();
      event.stopPropagation();
      actions[event.key]();
    }
  }

  /* ---- What a person does. ---- */

  listen() {
    addEventListener("hashchange", () => this.route());
    const on = (selector, event, action) => $(selector).addEventListener(event, action);
    on("#search", "input", (event) => this.search(event.target.value));
    on("#search", "focus", (event) => event.target.value && this.find(event.target.value));
    on("#search", "keydown", (event) => this.searchKey(event));
    document.addEventListener("pointerdown", (event) => event.target.closest(".search") || this.unfold(false));
    on(
      ".search",
      "focusout",
      (event) =>
        event.currentTarget.contains(event.relatedTarget) || event.relatedTarget === null || this.unfold(false),
    );
    on("#state", "change", () => this.filter());
    on("#compare-chosen", "click", () => {
      const [one, other] = [...this.chosen].sort((a, b) => a.place - b.place);
      this.compare(one.id, other.id);
    });
    on("#run", "change", (event) => {
      location.hash = address("graph", { run: event.target.value });
    });
    on("#highlight", "change", () => this.highlight());
    on("#close", "click", () => this.close());
    on(".zoom", "click", (event) => {
      const action = {
        in: () => this.view.zoom(STEP),
        out: () => this.view.zoom(1 / STEP),
        fit: () => this.view.fit(),
      };
      action[event.target.dataset.zoom]?.();
    });
    for (const select of ["#first", "#second"]) {
      on(select, "change", () => this.compare($("#first").value, $("#second").value));
    }
    on("#swap", "click", () => this.compare($("#second").value, $("#first").value));
    on("#same", "change", () => this.showCompare($("#first").value, $("#second").value));
    on("#theme", "change", (event) => this.paintIn(event.target.value));
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.repaint());
    document.addEventListener("keydown", (event) => this.key(event));
  }

  paintIn(theme) {
    document.documentElement.dataset.theme = theme;
    this.repaint();
  }

  repaint() {
    this.view.colours = null;
    if (this.view.scene) {
      this.view.paint();
    }
  }

  key(event) {
    if (event.key === "Escape" && this.shownView === "graph" && !$("#details").hidden) {
      this.close();
    } else if (event.key === "/" && !event.target.matches("input, select")) {
      event.preventDefault();
      $("#search").focus();
    }
  }
}

/* ---- Pieces. ---- */

function verdict(blessed) {
  if (blessed === null) {
    return make("td", {}, "–");
  }
  return make("td", { className: blessed ? "good" : "bad" }, blessed ? "✓ yes" : "✗ no");
}

/* A list of names and values; what is null is left out. */
function list(rows) {
  const entries = rows.filter(([, value]) => value !== null && value !== undefined && value !== false);
  return make(
    "dl",
    {},
    ...entries.map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value))),
  );
}

/* A property's value; a long one is shown when it is asked for. */
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

/* JSON over lines, other texts as they are. */
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

/* The facts of two runs side by side, in the order in which they stand there. */
function differences(store, one, other) {
  const sections = [...new Set([...one.facts.keys(), ...other.facts.keys()])];
  return sections.flatMap((section) => {
    const sides = [one, other].map((run) => new Map(store.pairs(run.facts.get(section) || [])));
    const names = [...new Set(sides.flatMap((side) => [...side.keys()]))];
    return names.map((name) => {
      const values = sides.map((side) => side.get(name) ?? null);
      return { section, name, values, differs: JSON.stringify(values[0]) !== JSON.stringify(values[1]) };
    });
  });
}

function differenceTable(section, rows, one, other) {
  const heads = ["What", one.id, other.id].map((text) => make("th", { scope: "col" }, text));
  return make(
    "table",
    {},
    make("caption", {}, capital(section)),
    make("thead", {}, make("tr", {}, ...heads)),
    make(
      "tbody",
      {},
      ...rows.map((row) =>
        make(
          "tr",
          { className: row.differs ? "" : "same" },
          make("th", { scope: "row" }, row.name),
          ...row.values.map((value) => make("td", {}, long(value))),
        ),
      ),
    ),
  );
}

/* ---- The beginning. ---- */

function fail(text) {
  $("#fault").textContent = text;
  $("#fault").hidden = false;
}

async function begin() {
  if (typeof DecompressionStream === "undefined") {
    fail("This browser is too old for this page; one from 2024 on shows it.");
    return;
  }
  new Page(await unpack($("#store").textContent));
  document.documentElement.dataset.ready = "true";
}

begin();
