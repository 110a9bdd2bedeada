"use strict";

/* The content of the page; `document` in lineage_page.py defines its form. */
async function unpack(packed) {
  const bytes = Uint8Array.from(atob(packed), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Store(await new Response(stream).json());
}

/* Runs, executions and artifacts, linked with each other; each is a node with a unique key: r0, e6, a7. */
class Store {
  constructor(document) {
    this.about = document.about;
    this.sizes = document.sizes;
    this.values = document.values;
    this.nodes = new Map();
    this.layouts = document.layouts.map((layout) => ({
      ...layout,
      lines: new Map(layout.lines.map(([block, port, ...heights]) => [`${block}:${port}`, heights])),
    }));
    this.runs = document.runs.map((run, place) => this.addRun(run, place, document.sections));
    this.byRun = new Map(this.runs.map((run) => [run.id, run]));
    for (const row of document.artifacts) {
      this.addArtifact(row);
    }
    for (const row of document.executions) {
      this.addExecution(row);
    }
    for (const row of document.artifacts) {
      this.joinArtifact(row);
    }
    for (const run of this.runs) {
      run.layout = this.layouts[run.layout];
      run.blocks = run.blocks.map(([execution, ...artifacts]) => ({
        execution: this.nodes.get(`e${execution}`),
        artifacts: artifacts.map((id) => this.nodes.get(`a${id}`)),
      }));
      this.settle(run);
    }
    this.serving = this.nodes.get(`a${document.serving}`);
    this.path = this.serving ? this.descent(this.serving) : new Set();
  }

  add(node) {
    this.nodes.set(node.key, node);
    return node;
  }

  /* The facts of a run are in sections, each with alternating names and values. */
  addRun(run, place, sections) {
    const facts = new Map(Object.entries(run.facts).map(([name, section]) => [name, sections[section]]));
    return this.add({ ...run, kind: "run", key: `r${place}`, id: run.run, title: run.run, place, facts });
  }

  addArtifact([id, type, name, uri, state, created, gone, properties]) {
    this.add({
      kind: "artifact",
      key: `a${id}`,
      id,
      type: this.values[type],
      title: name || this.values[type],
      uri,
      created,
      gone,
      state: this.values[state],
      properties,
      maker: null,
      users: [],
      cachedBy: [],
      copyOf: null,
      copies: [],
      home: null,
    });
  }

  addExecution([id, component, type, run, state, started, ended, properties, inputs, outputs]) {
    const execution = this.add({
      kind: "execution",
      key: `e${id}`,
      id,
      title: this.values[component],
      type: this.values[type],
      state: this.values[state],
      started,
      ended,
      properties,
      home: this.runs[run] || null,
    });
    const named = ([key, ...ids]) => [this.values[key], ids.map((one) => this.nodes.get(`a${one}`)).filter(Boolean)];
    execution.inputs = inputs.map(named);
    execution.outputs = outputs.map(named);
    for (const [, artifacts] of execution.inputs) {
      artifacts.forEach((artifact) => artifact.users.push(execution));
    }
  }

  joinArtifact(row) {
    const [maker, copyOf] = row.slice(-2);
    const artifact = this.nodes.get(`a${row[0]}`);
    artifact.maker = this.nodes.get(`e${maker}`) || null;
    for (const [key, artifacts] of artifact.maker ? artifact.maker.outputs : []) {
      if (artifacts.includes(artifact)) {
        artifact.title = key;
      }
    }
    artifact.copyOf = this.nodes.get(`a${copyOf}`) || null;
    artifact.copyOf?.copies.push(artifact);
  }

  /* Sets where a run's artifacts are drawn in the graph of all runs: with the execution that made them. */
  settle(run) {
    for (const { execution, artifacts } of run.blocks) {
      for (const artifact of artifacts) {
        artifact.home = artifact.maker?.home || artifact.home || run;
        if (execution && artifact.maker !== execution) {
          artifact.cachedBy.push(execution);
        }
      }
    }
  }

  /* Returns names and values from alternating indices in the table of values. */
  pairs(places) {
    const found = [];
    for (let place = 0; place < places.length; place += 2) {
      found.push([this.values[places[place]], this.values[places[place + 1]]]);
    }
    return found;
  }

  /* Returns the ancestors of an artifact, including itself. A blessing decides whether a model is pushed, but not what
     the model is, so blessings are not followed if a model is among the inputs too. */
  descent(artifact) {
    const found = new Set([artifact]);
    const left = [artifact];
    while (left.length) {
      const { maker } = left.pop();
      if (!maker || found.has(maker)) {
        continue;
      }
      found.add(maker);
      const inputs = maker.inputs.flatMap(([, artifacts]) => artifacts);
      const models = inputs.some((input) => input.type === "Model");
      for (const input of inputs) {
        if (!found.has(input) && !(models && input.type.endsWith("Blessing"))) {
          found.add(input);
          left.push(input);
        }
      }
    }
    return found;
  }

  /* Returns the executions of a set of nodes in topological order: lists of executions that do not depend on each
     other. */
  steps(nodes) {
    const depths = new Map();
    const depth = (execution) => {
      if (!depths.has(execution)) {
        const needed = execution.inputs.flatMap(([, artifacts]) => artifacts.filter((one) => nodes.has(one)));
        const makers = needed.map((artifact) => artifact.maker).filter((maker) => nodes.has(maker));
        depths.set(execution, Math.max(-1, ...makers.map(depth)) + 1);
      }
      return depths.get(execution);
    };
    const steps = [];
    for (const node of nodes) {
      if (node.kind === "execution") {
        (steps[depth(node)] ??= []).push(node);
      }
    }
    return steps;
  }

  /* Returns the descendants of an artifact or execution, including itself. */
  offspring(node) {
    const found = new Set([node]);
    const left = [node];
    while (left.length) {
      const one = left.pop();
      const made =
        one.kind === "execution"
          ? one.outputs.flatMap(([, artifacts]) => artifacts).filter((artifact) => artifact.maker === one)
          : one.users.filter((user) => user.state !== "cached");
      for (const next of made) {
        if (!found.has(next)) {
          found.add(next);
          left.push(next);
        }
      }
    }
    return found;
  }

  /* Returns the ancestors of an artifact or execution, including itself. */
  ancestry(node) {
    if (node.kind === "artifact") {
      return this.descent(node);
    }
    const found = new Set([node]);
    for (const [, artifacts] of node.inputs) {
      artifacts.forEach((artifact) => this.descent(artifact).forEach((one) => found.add(one)));
    }
    return found;
  }

  /* Returns the nodes that have every word of a text in their names, types, ids, paths or properties. Nodes with a word
     as their id come first, then runs, then nodes with a word in their name; within each group the newest first. */
  search(text) {
    const words = text.toLowerCase().split(/\s+/).filter(Boolean);
    this.lower ??= this.values.map((value) =>
      (typeof value === "string" ? value : JSON.stringify(value)).toLowerCase(),
    );
    this.texts ??= new Map([...this.nodes.values()].map((node) => [node, textOf(node)]));
    const hits = words.map((word) => this.lower.map((value) => value.includes(word)));
    const has = (node, word, hit) => this.texts.get(node).includes(word) || placesOf(node).some((place) => hit[place]);
    const found = [...this.nodes.values()].filter((node) =>
      words.every((word, number) => has(node, word, hits[number])),
    );
    const called = (node) => words.some((word) => word === node.key || word === String(node.id).toLowerCase());
    const named = (node) => words.some((word) => node.title?.toLowerCase().includes(word));
    const rank = (node) => (called(node) ? 0 : node.kind === "run" ? 1 : named(node) ? 2 : 3);
    found.reverse();
    const ranks = new Map(found.map((node) => [node, rank(node)]));
    return found.sort((one, other) => ranks.get(one) - ranks.get(other));
  }
}

/* Returns the indices of a node's property values in the table of values. */
function placesOf(node) {
  const pairs = node.kind === "run" ? [...node.facts.values()].flat() : node.properties;
  return pairs.filter((_, place) => place % 2);
}

function textOf(node) {
  const parts = [node.key, node.id, node.title, node.type, node.uri, node.state, node.home?.id, node.pushed];
  return parts.filter(Boolean).join("\n").toLowerCase();
}
