/* Estimates the size of the glyphs in an image. JavaScript port of im2latex/glyph_size.py. The estimator is a
   perceptron with one hidden layer of rectified linear units; its arrays come with the model. */

import { rint, sum } from "./numbers.js";

const PYRAMID_LEVELS = 7;
/* Number of steps per power of 2 in the scales. */
const STEPS = 8;
const [LEAST_SCALE, MOST_SCALE] = [1 / 16, 4];

const { abs, ceil, fround, hypot, log, max, min } = Math;

/* Measures how the ink of an image, { height, width, values }, is distributed over scales. Returns the measures of
   each level of an image pyramid (steps across and down, and squares), in pixels of the first level, and the area
   of the ink. */
export function measures(ink) {
  const measured = [];
  const area = fround(sum(ink.values));
  for (let level = 0; level < PYRAMID_LEVELS; level++) {
    const { height, width, values } = ink;
    let [across, down, squares] = [0, 0, 0];
    for (let y = 0; y < height; y++) {
      for (let x = 0, i = y * width; x < width; x++, i++) {
        across += abs(fround(values[i] - (x ? values[i - 1] : 0)));
        down += abs(fround(values[i] - (y ? values[i - width] : 0)));
        squares += fround(values[i] * values[i]);
      }
      across += values[(y + 1) * width - 1];
    }
    down += sum(values.subarray((height - 1) * width));
    measured.push(fround(across) * 2 ** level, fround(down) * 2 ** level, fround(squares) * 4 ** level);
    ink = halved(ink);
  }
  return [measured, area];
}

/* Returns the means of 2 x 2 pixels. */
function halved({ height, width, values }) {
  const half = { height: ceil(height / 2), width: ceil(width / 2) };
  const sums = new Float32Array(half.height * half.width);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      sums[(y >> 1) * half.width + (x >> 1)] += values[y * width + x];
    }
  }
  return { ...half, values: sums.map((total) => total / 4) };
}

/* Returns the factor that scales the glyphs of an image to a size: pixels per em. */
export function glyphScale(measured, area, size, estimator) {
  if (area <= 0) {
    return 1;
  }
  const em = predict(estimator, measured, area);
  const step = rint(fround(fround(STEPS * fround(fround(log(size)) - em)) / fround(log(2))));
  return min(max(2 ** (step / STEPS), LEAST_SCALE), MOST_SCALE);
}

/* Returns the logarithm of the estimated size of an em in pixels. */
function predict(estimator, measured, area) {
  const features = measured.map((measure, i) => {
    const relative = log(max(fround(measure / area), fround(1e-6)));
    return (relative - estimator.mean[i]) / estimator.deviation[i];
  });
  // A stroke of length l and width w has the area l * w and an outline of 2 * l.
  const stroke = log(2) - log(hypot(measured[0], measured[1]) / area);
  const first = layer(features, estimator.hidden, estimator.hidden_bias).map((unit) => max(unit, 0));
  const second = layer(first, estimator.second, estimator.second_bias).map((unit) => max(unit, 0));
  return fround(stroke + sum(second.map((unit, i) => unit * estimator.output[i])) + estimator.output_bias);
}

function layer(inputs, weights, biases) {
  return biases.map((bias, unit) => bias + sum(inputs.map((value, i) => value * weights[i][unit])));
}
