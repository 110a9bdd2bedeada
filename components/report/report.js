"use strict";

/* Duration of a step during playback, milliseconds. */
const STAY = 600;

/* Shows the steps in which a formula was predicted, one at a time. */
function walk(figure) {
  const steps = JSON.parse(figure.dataset.steps);
  const canvas = figure.querySelector("canvas");
  const context = canvas.getContext("2d");
  const films = [...figure.querySelectorAll(".film")];
  const controls = figure.querySelector(".controls");
  const [button, slider, output] = controls.children;
  const tokens = [...figure.closest("article").querySelectorAll("[data-step]")];
  let timer = null;

  function show(step) {
    context.clearRect(0, 0, canvas.width, canvas.height);
    context.imageSmoothingEnabled = false;
    for (const film of films) {
      const [rows, columns, cell] = ["rows", "columns", "cell"].map((name) => Number(film.dataset[name]));
      context.globalAlpha = Number(film.dataset.opacity);
      context.drawImage(film, 0, step * rows, columns, rows, 0, 0, columns * cell, rows * cell);
    }
    for (const token of tokens) {
      token.classList.toggle("now", Number(token.dataset.step) === step);
    }
    const [text, weight, left, top] = steps[step];
    slider.value = step;
    slider.setAttribute("aria-valuetext", `${step + 1} of ${steps.length}`);
    output.textContent =
      `${step + 1} of ${steps.length}: ${text || "the end"} · ${weight} % of its attention ` +
      `${left} % from the left, ${top} % from the top`;
  }

  function stop() {
    clearInterval(timer);
    timer = null;
    button.textContent = "Play";
  }

  button.addEventListener("click", () => {
    if (timer !== null) {
      stop();
      return;
    }
    button.textContent = "Pause";
    if (Number(slider.value) === steps.length - 1) {
      show(0);
    }
    timer = setInterval(() => {
      const next = Number(slider.value) + 1;
      show(next);
      if (next === steps.length - 1) {
        stop();
      }
    }, STAY);
  });
  // Only now, so that screen readers announce nothing when the page is loaded.
  controls.addEventListener("focusin", () => {
    output.ariaLive = "polite";
  });
  slider.addEventListener("input", () => {
    stop();
    show(Number(slider.value));
  });
  for (const token of tokens) {
    token.addEventListener("click", () => {
      stop();
      show(Number(token.dataset.step));
    });
  }
  Promise.all(films.map((film) => film.decode())).then(() => {
    controls.hidden = false;
    show(0);
  });
}

document.querySelectorAll(".attention").forEach(walk);
