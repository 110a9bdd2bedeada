/* Widths and distances in the drawing, pixels at full scale; layout.py has the heights. */
const [WIDTH, BETWEEN, INDENT] = [172, 64, 20];
const PITCH = WIDTH + BETWEEN;
const [MARGIN, HEADING, LANE_GAP] = [28, 40, 44];

/* The items (nodes with their positions) in lanes, one lane per run, and the lines between them. */
class Scene {
  constructor(store) {
    this.store = store;
    this.lanes = [];
    this.items = new Map();
    this.buses = [];
    this.loose = [];
    this.width = this.height = 0;
  }

  /* One run with all its inputs and outputs. */
  static ofRun(store, run) {
    const scene = new Scene(store);
    scene.run = run;
    scene.add(run, () => true);
    return scene;
  }

  /* All runs, newest first; a shared artifact is drawn in the run that made it. */
  static ofAll(store) {
    const scene = new Scene(store);
    for (const run of [...store.runs].reverse()) {
      scene.add(run, (artifact) => artifact.home === run);
    }
    scene.joinLanes();
    return scene;
  }

  add(run, isHere) {
    const { layout } = run;
    const single = Boolean(this.run);
    const top = single ? MARGIN : this.height + HEADING;
    const lane = { run, layout, top, left: MARGIN, bottom: top + layout.height, items: [], edges: [], lines: null };
    if (!single) {
      this.put(lane, run, MARGIN, top - HEADING + 6, 460, HEADING - 12);
    }
    run.blocks.forEach((block, place) => this.addBlock(lane, block, place, isHere));
    lane.edges = layout.edges.filter(([block, port]) => isHere(run.blocks[block].artifacts[port]));
    this.lanes.push(lane);
    const columns = Math.max(0, ...layout.layers) + 1;
    this.width = Math.max(this.width, 2 * MARGIN + columns * PITCH - BETWEEN);
    this.height = lane.bottom + (single ? MARGIN : LANE_GAP);
  }

  addBlock(lane, { execution, artifacts }, place, isHere) {
    const { execution: tall, artifact: low, gap } = this.store.sizes;
    const x = lane.left + lane.layout.layers[place] * PITCH;
    let y = lane.top + lane.layout.tops[place];
    if (execution) {
      this.put(lane, execution, x, y, WIDTH, tall);
      y += tall + gap;
    }
    for (const artifact of artifacts) {
      if (isHere(artifact) && !this.items.has(artifact)) {
        this.put(lane, artifact, x + INDENT, y, WIDTH - INDENT, low);
      }
      y += low + gap;
    }
  }

  put(lane, node, x, y, width, height) {
    const item = { node, lane, x, y, width, height };
    lane.items.push(item);
    this.items.set(node, item);
  }

  /* Adds the lines between lanes. Lines from one artifact to the same component of many runs are one vertical line with
     a branch to each. So are the lines from cached executions to the original one. */
  joinLanes() {
    const buses = new Map();
    const branch = (key, x, dashed, ...items) => {
      const bus = buses.get(key) || { x, dashed, stops: new Set(), artifact: key.artifact };
      buses.set(key, bus);
      items.forEach((item) => bus.stops.add(item));
    };
    const keys = new Map();
    const keyOf = (node, name) => {
      const text = `${node.key} ${name}`;
      keys.set(text, keys.get(text) || { artifact: node });
      return keys.get(text);
    };
    for (const lane of this.lanes) {
      for (const [block, port, target] of lane.layout.edges) {
        const artifact = lane.run.blocks[block].artifacts[port];
        const to = this.items.get(lane.run.blocks[target].execution);
        const from = this.items.get(artifact);
        if (from.lane === lane) {
          continue;
        }
        const first = artifact.users.find((user) => user.home === from.lane.run && user.title === to.node.title);
        if (first) {
          const x = to.x - 14 - 5 * (artifact.id % 6);
          branch(keyOf(artifact, to.node.title), x, false, this.items.get(first), to);
        } else {
          this.loose.push({ from, to, artifact, path: curveBetween(from, to) });
        }
      }
      for (const [place, { execution, artifacts }] of lane.run.blocks.entries()) {
        const maker = execution?.state === "cached" && artifacts[0]?.maker;
        if (maker && this.items.has(maker) && maker !== execution) {
          branch(
            keyOf(maker, ""),
            this.items.get(maker).x + 12 + 8 * (place % 3),
            true,
            this.items.get(maker),
            this.items.get(execution),
          );
        }
      }
    }
    this.buses = [...buses.values()].map((bus) =>
      busOf({ ...bus, stops: [...bus.stops].sort((one, other) => one.y - other.y) }, () => true),
    );
  }

  /* Returns the lanes that overlap a vertical range. */
  between(top, bottom) {
    let [low, high] = [0, this.lanes.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      [low, high] = this.lanes[middle].bottom < top ? [middle + 1, high] : [low, middle];
    }
    const found = [];
    for (; low < this.lanes.length && this.lanes[low].top - HEADING <= bottom; low += 1) {
      found.push(this.lanes[low]);
    }
    return found;
  }

  /* Returns the lines within a lane; they are cached, because they do not change. */
  linesOf(lane) {
    lane.lines ??= this.draw(lane, () => true);
    return lane.lines;
  }

  /* Returns the lines from artifacts to executions for which `wanted` is true, and from executions to artifacts. */
  draw(lane, wanted) {
    const path = new Path2D();
    for (const edge of lane.edges) {
      const [block, port, target] = edge;
      if (wanted(lane.run.blocks[block].artifacts[port], lane.run.blocks[target].execution)) {
        this.trace(path, lane, edge);
      }
    }
    lane.run.blocks.forEach(({ execution, artifacts }) => {
      const from = this.items.get(execution);
      for (const artifact of from ? artifacts : []) {
        const to = this.items.get(artifact);
        if (to?.lane === lane && wanted(execution, artifact)) {
          path.moveTo(from.x + 10, from.y + from.height);
          path.lineTo(from.x + 10, middleOf(to));
          path.lineTo(to.x, middleOf(to));
        }
      }
    });
    return path;
  }

  trace(path, lane, [block, port, target]) {
    const { layers, tops, lines } = lane.layout;
    const { execution: tall, artifact: low, gap } = this.store.sizes;
    const above = lane.run.blocks[block].execution ? tall + gap : 0;
    let x = lane.left + layers[block] * PITCH + WIDTH;
    let y = lane.top + tops[block] + above + port * (low + gap) + low / 2;
    path.moveTo(x, y);
    for (const height of (lines.get(`${block}:${port}`) || []).slice(0, layers[target] - layers[block] - 1)) {
      bend(path, x, y, x + BETWEEN, lane.top + height);
      x += PITCH;
      y = lane.top + height;
      path.lineTo(x, y);
    }
    const end = { x: lane.left + layers[target] * PITCH, y: lane.top + tops[target] + tall / 2 };
    bend(path, x, y, end.x, end.y);
    point(path, end.x, end.y);
  }
}

/* Returns the part of a vertical line between the selected stops. */
function busOf(bus, wanted) {
  const stops = bus.stops.filter(wanted);
  return {
    ...bus,
    stops,
    top: stops.length ? middleOf(stops[0]) : 0,
    bottom: stops.length ? middleOf(stops.at(-1)) : 0,
  };
}

function middleOf(item) {
  return item.y + item.height / 2;
}

function bend(path, x, y, toX, toY) {
  const middle = (x + toX) / 2;
  path.bezierCurveTo(middle, y, middle, toY, toX, toY);
}

/* Paints the head of an arrow. */
function point(path, x, y) {
  path.moveTo(x - 6, y - 4);
  path.lineTo(x, y);
  path.lineTo(x - 6, y + 4);
}

function curveBetween(from, to) {
  const path = new Path2D();
  path.moveTo(from.x + from.width, middleOf(from));
  bend(path, from.x + from.width, middleOf(from), to.x, middleOf(to));
  point(path, to.x, middleOf(to));
  return path;
}
