/* Number of links to nodes that are shown at first. */
const SHOWN = 12;

/* The panel with the details of a node. */
class Details {
  constructor(store, addressOf) {
    this.store = store;
    this.addressOf = addressOf;
    this.node = null;
  }

  show(node, focus) {
    this.node = node;
    $("#details").hidden = !node;
    if (!node) {
      return;
    }
    const heading = make("h2", { tabIndex: -1 }, node.title);
    const body = {
      run: () => this.ofRun(node),
      execution: () => [...this.ofExecution(node), ...this.propertyTable("Properties", node.properties)],
      artifact: () => [...this.ofArtifact(node), ...this.propertyTable("Properties", node.properties)],
    };
    $("#about").replaceChildren(heading, ...body[node.kind]());
    $("#details").scrollTop = 0;
    if (focus) {
      heading.focus();
    }
  }

  ofRun(run) {
    return [
      make("p", { className: "quiet" }, `Run, ${stateOf(run)}`),
      list([
        ["Started", moment(run.began)],
        ["Time", duration(1000 * run.seconds)],
        ["Components", `${run.ran} ran, ${run.cached} cached`],
      ]),
      ...[...run.facts].flatMap(([title, pairs]) => this.propertyTable(capital(title), pairs)),
    ];
  }

  ofExecution(node) {
    const where = node.state === "cached" && node.outputs[0]?.[1][0]?.maker;
    return [
      make("p", { className: "quiet" }, `Execution ${node.id}, ${node.state}`),
      list([
        ["Run", this.link(node.home)],
        ["Component", node.type],
        ["Started", moment(node.started)],
        ["Time", node.state === "running" ? "–" : duration(node.ended - node.started)],
        ["Work done by", where && where !== node ? this.link(where) : null],
      ]),
      ...this.channels("Inputs", node.inputs),
      ...this.channels("Outputs", node.outputs),
    ];
  }

  ofArtifact(node) {
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

  /* Links to nodes, newest first; a button shows the rest of a long list. */
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
        node.home === this.node.home ? "" : make("span", { className: "quiet" }, ` ${node.home?.id ?? ""}`),
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
}
