class Page {
  constructor(store) {
    this.store = store;
    this.chosen = [];
    this.view = new GraphView($(".stage"), (node, byKey) => this.open(node, byKey), wordsFor);
    this.scenes = new Map();
    this.details = new Details(store, (node) => this.addressOf(node));
    this.search = new Search(store, (node) => this.open(node, true));
    this.order = { column: "began", down: true };
    this.fillRuns();
    this.fillServing();
    this.drawScores();
    this.fillSelects();
    this.listen();
    const { runs } = store;
    $("#written").textContent =
      `${plural(runs.length, "run")} of ${store.about.source}, read ${moment(store.about.written)}. ` +
      "This file needs no network.";
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
      showCompare(this.store, asked.get("run"), asked.get("with"));
    }
    document.title = `${{ runs: "Runs", graph: this.sceneName, compare: "What differs" }[view]} · Lineage`;
  }

  /* Returns the graph to show a node in: the present one if it contains the node, else that of its run. */
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
      ["began", "Started", (run) => run.began],
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
    // The two runs that were selected last.
    for (const one of this.chosen.splice(0, this.chosen.length - 2)) {
      this.rows.get(one).querySelector("input").checked = false;
    }
    $("#compare-chosen").disabled = this.chosen.length < 2;
    $("#chosen").textContent = this.chosen.map((one) => one.id).join(" and ");
  }

  /* ---- The serving model. ---- */

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
        fact("Started", moment(run.began)),
        fact("BLEU", score(run.scores.bleu)),
      );
    }
    const link = (node) =>
      make("a", { className: node.kind, href: this.addressOf(node), title: wordsFor(node).said }, node.title);
    const way = make("ol", { className: "way", "aria-label": "How it was made, from the data to the version" });
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

  /* BLEU of all runs that have one, oldest first. */
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
    // Without a name: the graph that was shown last; at first that of the run that pushed the serving model.
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
    this.details.show(node, this.focusDetails);
    this.focusDetails = false;
    this.highlight();
    this.view.select(node, this.covered());
  }

  /* The part of the graph that the details panel covers: the right or, on a narrow screen, the bottom. */
  covered() {
    const { offsetWidth, offsetHeight } = $("#details");
    const beside = offsetWidth < $(".stage").clientWidth;
    return { right: beside ? offsetWidth : 0, bottom: beside ? 0 : offsetHeight };
  }

  /* The first view: the serving model among all runs, the beginning of one run. */
  startOf(scene) {
    return scene.run ? null : this.store.serving;
  }

  highlight() {
    const { store, view } = this;
    const node = view.selected || this.details.node;
    const kind = $("#highlight").value;
    const none = new Set();
    const of = (find) => (node && node.kind !== "run" ? find.call(store, node) : none);
    view.highlight({ path: store.path, up: of(store.ancestry), down: of(store.offspring), "": none }[kind]);
  }

  close() {
    const { current } = this.view;
    location.hash = address("graph", { run: this.sceneKey });
    if (current) {
      this.view.focus(current);
    }
  }

  /* ---- Comparison of runs. ---- */

  compare(first, second) {
    location.hash = address("compare", { run: first, with: second });
  }

  /* ---- User input. ---- */

  listen() {
    addEventListener("hashchange", () => this.route());
    const on = (selector, event, action) => $(selector).addEventListener(event, action);
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
    on("#same", "change", () => showCompare(this.store, $("#first").value, $("#second").value));
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

/* ---- Start. ---- */

function fail(text) {
  $("#fault").textContent = text;
  $("#fault").hidden = false;
}

async function begin() {
  if (typeof DecompressionStream === "undefined") {
    fail("This browser is too old for this page; use a version from 2024 or later.");
    return;
  }
  new Page(await unpack($("#store").textContent));
  document.documentElement.dataset.ready = "true";
}

begin();
