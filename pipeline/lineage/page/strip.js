/* A narrow overview of the lanes of all runs, which moves the view. */
class Strip {
  /* moved: called with a vertical position, 0 to 1. */
  constructor(canvas, moved) {
    this.canvas = canvas;
    const move = (event) => moved(Math.min(1, Math.max(0, event.offsetY / canvas.clientHeight)));
    canvas.addEventListener("pointerdown", (event) => {
      event.stopPropagation();
      canvas.setPointerCapture(event.pointerId);
      move(event);
    });
    canvas.addEventListener("pointermove", (event) => canvas.hasPointerCapture(event.pointerId) && move(event));
  }

  paint(scene, view, colours) {
    const { canvas } = this;
    canvas.hidden = Boolean(scene.run);
    if (scene.run) {
      return;
    }
    const [width, height] = [canvas.clientWidth, canvas.clientHeight].map((size) => size * window.devicePixelRatio);
    [canvas.width, canvas.height] = [width, height];
    const context = canvas.getContext("2d");
    const scale = height / scene.height;
    const colourOfRun = (run) => {
      const bad = run.state === "failed" || run.state === "killed";
      return run.serving ? colours.accent : bad ? colours.bad : run.pushed ? colours.fill : colours.thread;
    };
    for (const lane of scene.lanes) {
      context.fillStyle = colourOfRun(lane.run);
      const thick = lane.run.serving ? 4 : Math.max(1, (lane.bottom - lane.top) * scale * 0.8);
      context.fillRect(width * 0.25, lane.top * scale, width * 0.5, thick);
    }
    context.strokeStyle = colours.ink;
    context.lineWidth = 2;
    context.strokeRect(1, Math.max(1, view.top * scale), width - 2, Math.max(6, (view.bottom - view.top) * scale));
  }
}
