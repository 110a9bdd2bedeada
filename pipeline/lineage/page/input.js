/* How far a pointer may move during a click, and how far a key moves the view, pixels. */
const STILL = 4;
const PAN = 80;

/* Moves the view of a graph with pointers, wheel and keys. */
function listenTo(graph) {
  const pointers = new Map();
  let moved = 0;
  graph.stage.addEventListener("pointerdown", (event) => {
    if (event.button === 0) {
      moved = pointers.size ? STILL + 1 : 0;
      pointers.set(event.pointerId, event);
    }
  });
  graph.stage.addEventListener("pointermove", (event) => {
    const before = pointers.get(event.pointerId);
    if (!before) {
      return;
    }
    const [other] = [...pointers.values()].filter((one) => one.pointerId !== event.pointerId);
    pointers.set(event.pointerId, event);
    moved += Math.hypot(event.clientX - before.clientX, event.clientY - before.clientY);
    if (moved <= STILL) {
      pointers.set(event.pointerId, before);
      return;
    }
    // The end of a drag does not count as a click on a node.
    graph.stage.setPointerCapture(event.pointerId);
    if (other) {
      pinch(graph, before, event, other);
    } else {
      graph.pan(event.clientX - before.clientX, event.clientY - before.clientY);
    }
  });
  const lift = (event) => pointers.delete(event.pointerId);
  graph.stage.addEventListener("pointerup", lift);
  graph.stage.addEventListener("pointercancel", lift);
  graph.stage.addEventListener(
    "wheel",
    (event) => {
      event.preventDefault();
      const box = graph.stage.getBoundingClientRect();
      const lines = event.deltaMode === WheelEvent.DOM_DELTA_LINE ? 16 : 1;
      graph.zoom(
        Math.exp(-event.deltaY * lines * (event.ctrlKey ? 0.01 : 0.0015)),
        event.clientX - box.x,
        event.clientY - box.y,
      );
    },
    { passive: false },
  );
  graph.stage.addEventListener("keydown", (event) => pressKey(graph, event));
}

/* Pinch: the point between two fingers stays fixed on the scene, and their distance sets the scale. */
function pinch(graph, before, now, other) {
  const box = graph.stage.getBoundingClientRect();
  const distance = (one) => Math.hypot(one.clientX - other.clientX, one.clientY - other.clientY);
  const middle = (one) => [(one.clientX + other.clientX) / 2 - box.x, (one.clientY + other.clientY) / 2 - box.y];
  const [[x, y], [toX, toY]] = [middle(before), middle(now)];
  graph.pan(toX - x, toY - y);
  graph.zoom(distance(now) / Math.max(distance(before), 1), toX, toY);
}

function pressKey(graph, event) {
  if (event.ctrlKey || event.altKey || event.metaKey) {
    return;
  }
  const arrows = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  const actions = {
    "+": () => graph.zoom(STEP),
    "=": () => graph.zoom(STEP),
    "-": () => graph.zoom(1 / STEP),
    0: () => graph.fit(),
    PageUp: () => graph.pan(0, graph.stage.clientHeight * 0.9),
    PageDown: () => graph.pan(0, -graph.stage.clientHeight * 0.9),
  };
  const [dx, dy] = arrows[event.key] || [0, 0];
  if (dx || dy) {
    event.shiftKey ? graph.pan(-dx * PAN, -dy * PAN) : graph.walk(dx, dy);
  } else if (actions[event.key]) {
    actions[event.key]();
  } else {
    return;
  }
  event.preventDefault();
}
