/* Up to this many nodes in view are elements, which can have the focus; if there are more, boxes are painted. */
const MOST_ELEMENTS = 500;
/* Up to this many lanes in view show their lines; lanes of at least this height, pixels, show their ids. */
const MOST_LINED = 60;
const NAME_HEIGHT = 16;
const [SMALLEST, LARGEST, STEP] = [0.01, 2.5, 1.25];
/* Smallest scale at which the text of a node is legible. */
const LEGIBLE = 0.55;

/* Shows a scene in a movable view: painted lines, and nodes as buttons or, if they are many, painted boxes. */
class GraphView {
  /* stage: the element; chosen: called with a node that was clicked, and whether by keyboard; wordsFor: returns the text
     of a node's button, { title, note, said, kind }. */
  constructor(stage, chosen, wordsFor) {
    this.stage = stage;
    this.canvas = stage.querySelector("canvas");
    this.strip = new Strip(stage.querySelector(".strip"), (share) => this.goTo(share));
    this.layer = stage.querySelector(".nodes");
    this.context = this.canvas.getContext("2d");
    this.chosen = chosen;
    this.wordsFor = wordsFor;
    this.elements = new Map();
    this.highlighted = new Set();
    this.selected = this.current = this.scene = null;
    this.covered = { right: 0, bottom: 0 };
    this.x = this.y = 0;
    this.scale = 1;
    new ResizeObserver(() => this.resize()).observe(stage);
    listenTo(this);
  }

  show(scene, first) {
    this.scene = scene;
    this.layer.replaceChildren();
    this.elements.clear();
    this.current = this.selected = null;
    this.keepLines();
    this.resize();
    this.start(first);
  }

  /* The scale at which the whole scene is visible, and the legible scale at which it is shown at first. */
  get whole() {
    const { clientWidth, clientHeight } = this.stage;
    return Math.min(1, clientWidth / this.scene.width, clientHeight / this.scene.height);
  }

  start(first) {
    const { clientWidth, clientHeight } = this.stage;
    this.scale = Math.max(this.scene.run ? this.whole : Math.min(1, clientWidth / this.scene.width), LEGIBLE);
    this.x = Math.max(0, (clientWidth - this.scene.width * this.scale) / 2);
    this.y = Math.max(0, (clientHeight - this.scene.height * this.scale) / 2);
    const item = this.scene.items.get(first);
    if (item) {
      this.reveal(item);
    }
    this.redraw();
  }

  /* Fits one run as a whole; fits all runs, which are a hundred times higher than wide, by their width. */
  fit() {
    const { clientWidth, clientHeight } = this.stage;
    if (!this.scene.run) {
      const middle = (clientHeight / 2 - this.y) / this.scale;
      this.scale = Math.min(1, clientWidth / this.scene.width);
      this.y = clientHeight / 2 - middle * this.scale;
    } else {
      this.scale = this.whole;
      this.y = (clientHeight - this.scene.height * this.scale) / 2;
    }
    this.x = (clientWidth - this.scene.width * this.scale) / 2;
    this.redraw();
  }

  zoom(factor, x = this.stage.clientWidth / 2, y = this.stage.clientHeight / 2) {
    const scale = Math.min(LARGEST, Math.max(Math.min(this.whole, SMALLEST), this.scale * factor));
    this.x = x - ((x - this.x) / this.scale) * scale;
    this.y = y - ((y - this.y) / this.scale) * scale;
    this.scale = scale;
    this.redraw();
  }

  pan(x, y) {
    this.x += x;
    this.y += y;
    this.redraw();
  }

  /* Moves the view to a vertical position in the scene, 0 to 1. */
  goTo(share) {
    this.y = this.stage.clientHeight / 2 - share * this.scene.height * this.scale;
    this.redraw();
  }

  /* Moves the view to an item, unless it is well inside the part that the panel does not cover. */
  reveal(item) {
    const width = this.stage.clientWidth - this.covered.right;
    const height = this.stage.clientHeight - this.covered.bottom;
    const [left, top] = [item.x * this.scale + this.x, item.y * this.scale + this.y];
    if (left < 0 || left + item.width * this.scale > width) {
      this.x = width / 2 - (item.x + item.width / 2) * this.scale;
    }
    if (top < 0 || top + item.height * this.scale > height) {
      this.y = height / 2 - middleOf(item) * this.scale;
    }
    this.redraw();
  }

  /* covered: the part of the stage that a panel covers, { right, bottom }. */
  select(node, covered) {
    this.selected = node;
    this.covered = covered;
    const item = node && this.scene.items.get(node);
    if (item) {
      this.current = item;
      this.reveal(item);
    }
    this.redraw();
  }

  highlight(nodes) {
    this.highlighted = nodes;
    this.keepLines();
    this.redraw();
  }

  /* Computes once, not for each frame, which lines between lanes are highlighted; within a lane when it is in view. */
  keepLines() {
    this.highlightedLines = new Map();
    this.highlightedBuses = this.scene.buses
      .filter((bus) => !bus.dashed && this.highlighted.has(bus.artifact))
      .map((bus) => busOf(bus, (item) => this.highlighted.has(item.node) || item.lane.run === bus.artifact.home))
      .filter((bus) => bus.stops.length > 1);
  }

  /* Whether a node is on the highlighted path; in the graph of one run, a cached execution counts as the original. */
  isHighlighted(node) {
    if (this.highlighted.has(node)) {
      return true;
    }
    const given = this.scene.run && node?.state === "cached" ? node.outputs.flatMap(([, artifacts]) => artifacts) : [];
    return given.some((artifact) => this.highlighted.has(artifact) && this.highlighted.has(artifact.maker));
  }

  resize() {
    const { clientWidth, clientHeight } = this.stage;
    const ratio = window.devicePixelRatio;
    this.canvas.width = clientWidth * ratio;
    this.canvas.height = clientHeight * ratio;
    if (this.scene) {
      this.paint();
    }
  }

  redraw() {
    this.pending ??= requestAnimationFrame(() => this.paint());
  }

  /* The lanes and items in view. */
  visible() {
    const { clientWidth, clientHeight } = this.stage;
    const [left, top] = [-this.x / this.scale, -this.y / this.scale];
    const [right, bottom] = [left + clientWidth / this.scale, top + clientHeight / this.scale];
    const lanes = this.scene.between(top, bottom);
    const inside = (item) =>
      item.x < right && item.x + item.width > left && item.y < bottom && item.y + item.height > top;
    return { left, right, top, bottom, lanes, items: lanes.flatMap((lane) => lane.items.filter(inside)) };
  }

  paint() {
    cancelAnimationFrame(this.pending);
    this.pending = null;
    const view = this.visible();
    this.colours ??= coloursOf(this.stage);
    const asElements = view.items.length <= MOST_ELEMENTS;
    const { context } = this;
    const ratio = window.devicePixelRatio;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, this.canvas.width, this.canvas.height);
    context.setTransform(ratio * this.scale, 0, 0, ratio * this.scale, ratio * this.x, ratio * this.y);
    this.paintLines(view);
    if (!asElements) {
      this.paintBoxes(view.items);
    }
    if (!this.scene.run && this.scale < LEGIBLE) {
      this.paintNames(view.lanes);
    }
    this.strip.paint(this.scene, view, this.colours);
    this.stage.dataset.drawn = asElements ? "elements" : "boxes";
    this.place(asElements ? view.items : []);
  }

  paintLines(view) {
    const { context, colours } = this;
    const thin = 1 / this.scale;
    context.lineWidth = Math.max(1.25, thin / 2);
    context.strokeStyle = colours.thread;
    if (view.lanes.length <= MOST_LINED) {
      view.lanes.forEach((lane) => context.stroke(this.scene.linesOf(lane)));
      this.scene.loose.filter(({ from, to }) => overlaps(from, to, view)).forEach(({ path }) => context.stroke(path));
    }
    this.scene.buses.forEach((bus) => this.paintBus(bus, view));
    context.strokeStyle = colours.accent;
    context.lineWidth = Math.max(2.5, 1.5 * thin);
    const both = (one, other) => this.isHighlighted(one) && this.isHighlighted(other);
    for (const lane of view.lanes) {
      if (!this.highlightedLines.has(lane)) {
        this.highlightedLines.set(lane, this.scene.draw(lane, both));
      }
      context.stroke(this.highlightedLines.get(lane));
    }
    for (const { from, to, path } of this.scene.loose) {
      if (both(from.node, to.node) && overlaps(from, to, view)) {
        context.stroke(path);
      }
    }
    this.highlightedBuses.forEach((bus) => this.paintBus(bus, view));
    this.paintNeighbours(view);
  }

  /* Paints the vertical part in view, and the branches. */
  paintBus(bus, view) {
    if (bus.top > view.bottom || bus.bottom < view.top) {
      return;
    }
    const { context } = this;
    context.setLineDash(bus.dashed ? [4, 4] : []);
    context.beginPath();
    context.moveTo(bus.x, Math.max(bus.top, view.top - 10));
    context.lineTo(bus.x, Math.min(bus.bottom, view.bottom + 10));
    for (const stop of bus.dashed || view.lanes.length > MOST_LINED ? [] : bus.stops) {
      if (stop.y > view.top - 100 && stop.y < view.bottom + 100) {
        context.moveTo(bus.x, middleOf(stop));
        context.lineTo(stop.x, middleOf(stop));
        point(context, stop.x, middleOf(stop));
      }
    }
    context.stroke();
    context.setLineDash([]);
  }

  /* Paints the lines of the selected node over all others. */
  paintNeighbours(view) {
    const item = this.selected && this.scene.items.get(this.selected);
    if (!item) {
      return;
    }
    const { context } = this;
    context.strokeStyle = this.colours.ink;
    context.lineWidth = Math.max(2, 1 / this.scale);
    context.stroke(this.scene.draw(item.lane, (one, other) => one === item.node || other === item.node));
    for (const { from, to, path } of this.scene.loose) {
      if (from === item || to === item) {
        context.stroke(path);
      }
    }
    for (const bus of this.scene.buses) {
      if (bus.artifact === item.node) {
        this.paintBus(bus, view);
      } else if (bus.stops.includes(item)) {
        this.paintBus(
          busOf(bus, (stop) => stop === item || stop.lane.run === bus.artifact.home),
          view,
        );
      }
    }
  }

  paintBoxes(items) {
    const { context, colours } = this;
    for (const item of items) {
      const on = this.isHighlighted(item.node);
      context.fillStyle = on ? colours.accent : colours[colourOf(item.node)];
      context.fillRect(item.x, item.y, item.node.kind === "run" ? Math.min(40, item.width) : item.width, item.height);
    }
    context.strokeStyle = colours.ink;
    const selected = this.current;
    if (selected && items.includes(selected)) {
      context.lineWidth = 3 / this.scale;
      context.strokeRect(selected.x, selected.y, selected.width, selected.height);
    }
  }

  /* Paints the ids of runs beside their lanes, if they do not overlap. */
  paintNames(lanes) {
    const { context, colours } = this;
    const ratio = window.devicePixelRatio;
    const height = lanes.length ? ((lanes.at(-1).bottom - lanes[0].top) * this.scale) / lanes.length : 0;
    if (height < NAME_HEIGHT) {
      return;
    }
    context.setTransform(ratio, 0, 0, ratio, ratio * this.x, 0);
    context.fillStyle = colours.quiet;
    context.textAlign = "right";
    context.font = `12px ${getComputedStyle(this.stage).fontFamily}`;
    for (const lane of lanes) {
      context.fillText(lane.run.id, (lane.left - 12) * this.scale - 4, lane.top * this.scale + this.y);
    }
  }

  /* Creates elements for items that came into view, and removes those that left it, except the one with the focus. */
  place(items) {
    this.layer.style.transform = `translate(${this.x}px, ${this.y}px) scale(${this.scale})`;
    const wanted = new Set(items);
    if (this.current) {
      wanted.add(this.current);
    }
    for (const [item, element] of this.elements) {
      if (!wanted.has(item) && element !== document.activeElement) {
        element.remove();
        this.elements.delete(item);
      }
    }
    for (const item of wanted) {
      const element = this.elements.get(item) || this.make(item);
      element.classList.toggle("path", this.isHighlighted(item.node));
      element.setAttribute("aria-pressed", item.node === this.selected);
      element.tabIndex = item === this.current ? 0 : -1;
    }
    const [first] = items;
    if (!this.current && first) {
      this.elements.get(first).tabIndex = 0;
    }
  }

  make(item) {
    const element = document.createElement("button");
    const { title, note, said, kind } = this.wordsFor(item.node);
    element.type = "button";
    element.className = `node ${kind}`;
    Object.assign(element.style, {
      left: `${item.x}px`,
      top: `${item.y}px`,
      width: `${item.width}px`,
      height: `${item.height}px`,
    });
    element.append(span(title, "title"), span(note, "beside"));
    element.setAttribute("aria-label", said);
    element.title = said;
    element.dataset.key = item.node.key;
    element.addEventListener("click", (event) => this.chosen(item.node, event.detail === 0));
    element.addEventListener("focus", () => {
      this.current = item;
      this.reveal(item);
    });
    this.elements.set(item, element);
    this.layer.append(element);
    return element;
  }

  /* Moves the focus to an item's element. */
  focus(item) {
    this.current = item;
    this.reveal(item);
    this.paint();
    this.elements.get(item).focus({ preventScroll: true });
  }

  /* Finds the nearest item in a direction; a sideways offset counts more. */
  walk(dx, dy) {
    const view = this.visible();
    const from = this.current || {
      x: (view.left + view.right) / 2,
      y: (view.top + view.bottom) / 2,
      width: 0,
      height: 0,
    };
    const reach = 4000;
    const lanes = this.scene.between(Math.min(from.y, view.top) - reach, Math.max(from.y, view.bottom) + reach);
    let [best, shortest] = [null, Infinity];
    for (const item of lanes.flatMap((lane) => lane.items)) {
      const x = dx < 0 ? item.x + item.width - from.x - from.width : item.x - from.x;
      const y = middleOf(item) - middleOf(from);
      const [along, askew] = dx ? [x * dx, Math.abs(y)] : [y * dy, Math.abs(x)];
      const distance = along + (dx ? 2 : 6) * askew;
      if (item !== from && along > 2 && distance < shortest) {
        [best, shortest] = [item, distance];
      }
    }
    if (best) {
      this.focus(best);
    }
  }
}

function overlaps(from, to, view) {
  const [top, bottom] = [Math.min(from.y, to.y), Math.max(from.y, to.y)];
  return top < view.bottom && bottom + 100 > view.top;
}
