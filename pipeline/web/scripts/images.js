/* Normalises images for the model. JavaScript port of im2latex/images.py, function by function, with the same pixels.

   An image is { height, width, values } with the values row by row in a Float32Array; only `normalise` takes
   another form. NumPy computes in float32, so Math.fround rounds each step in the same way. */

import { glyphScale, measures } from "./glyph_size.js";
import { rint, sum } from "./numbers.js";

export const WHITE = 255;
const LUMA = [19595, 38470, 7471];
const DARK_PAPER = 0.4;
const [CLEAN_SHARE, CLEAN_LEVELS, FAINT_SHARE, FRAME] = [0.3, 2, 0.1, 8];
const [BLOCK, TILE] = [4, 4];
const [EVEN_HEIGHT, EVEN_WIDTH] = [64, 512];
const [DARKEST_SHARE, LEAST_DARKEST, MOST_DARKEST] = [0.002, 1, 64];
const [LEAST_CONTRAST, LEAST_SIGNAL] = [16, 6];
const INK_QUANTILE = 0.75;
const [NOISE_OFF, MOST_OFF] = [1.5, 0.15];
const INK_SHARE = 3 / 16;
const NOISE_LEFT = 2.5;
/* Number of grey levels, from -64 to 255. */
const [LEVELS, BELOW] = [320, 64];

const { abs, ceil, floor, fround, max, min, trunc } = Math;

/* Normalises a decoded picture for the model.

   picture: { height, width, data }; data has red, green, blue and alpha of each pixel, as in a canvas.
   form: max_height, max_width, border and glyph_size, in pixels.
   estimator: the network of glyph_size.js.
   Returns { height, width, pixels } with a Uint8Array; for a blank picture, one white pixel with its border. */
export function normalise(picture, form, estimator) {
  const [ink, least] = stretch(flatten(reframe(darkness(picture))));
  // Crop twice, because scaling can make a faint edge too light to be ink.
  const cut = crop(resize(crop(ink, least), form, estimator), least);
  const [height, width] = [cut.height + 2 * form.border, cut.width + 2 * form.border];
  const pixels = new Uint8Array(height * width).fill(WHITE);
  for (let y = 0; y < cut.height; y++) {
    const [from, to] = [y * cut.width, (y + form.border) * width + form.border];
    for (let x = 0; x < cut.width; x++) {
      pixels[to + x] = rint(fround(WHITE - fround(WHITE * cut.values[from + x])));
    }
  }
  return { height, width, pixels };
}

/* Scales a normalised picture, { height, width, pixels }, with its border; at most to the limits of `form`. */
export function rescale({ height, width, pixels }, scale, form) {
  const ink = { height, width, values: Float32Array.from(pixels, (level) => (WHITE - level) / WHITE) };
  const target = scaled(ink, min(scale, form.max_height / height, form.max_width / width));
  const grey = Uint8Array.from(target.values, (value) => rint(fround(WHITE - fround(WHITE * value))));
  return { height: target.height, width: target.width, pixels: grey };
}

function image(height, width) {
  return { height, width, values: new Float32Array(height * width) };
}

function darkness({ height, width, data }) {
  const colours = opaque(data);
  const count = height * width;
  const grey = new Uint8Array(count);
  const histogram = new Int32Array(256);
  for (let i = 0; i < count; i++) {
    const luma = LUMA[0] * colours[4 * i] + LUMA[1] * colours[4 * i + 1] + LUMA[2] * colours[4 * i + 2];
    grey[i] = (luma + 32768) >> 16;
    histogram[grey[i]]++;
  }
  const frame = new Int32Array(256);
  for (let x = 0; x < width; x++) {
    frame[grey[x]]++;
    frame[grey[count - width + x]]++;
  }
  for (let y = 0; y < height; y++) {
    frame[grey[y * width]]++;
    frame[grey[(y + 1) * width - 1]]++;
  }
  const low = histogram.findIndex((n) => n > 0);
  const high = histogram.findLastIndex((n) => n > 0);
  const isDark = max(quantile(histogram, 0.5), quantile(frame, 0.5)) < low + DARK_PAPER * (high - low);
  const sides = [new Int32Array(256), new Int32Array(256), new Int32Array(256)];
  for (let i = 0; i < count; i++) {
    if (isDark ? 2 * grey[i] <= low + high : 2 * grey[i] >= low + high) {
      sides[0][colours[4 * i]]++;
      sides[1][colours[4 * i + 1]]++;
      sides[2][colours[4 * i + 2]]++;
    }
  }
  const [red, green, blue] = sides.map((levels) => quantile(levels, 0.5));
  const sign = isDark ? 1 : -1;
  const dark = image(height, width);
  for (let i = 0; i < count; i++) {
    const ofRedAndGreen = max(sign * (colours[4 * i] - red), sign * (colours[4 * i + 1] - green));
    dark.values[i] = max(ofRedAndGreen, sign * (colours[4 * i + 2] - blue));
  }
  return dark;
}

/* Returns the picture on white or on black, whichever shows more of it. */
function opaque(data) {
  const alphas = new Int32Array(256);
  for (let i = 3; i < data.length; i += 4) {
    alphas[data[i]]++;
  }
  // If all alpha values are zero, the picture has no real transparency.
  if (alphas[255] === data.length / 4 || alphas[0] === data.length / 4) {
    return data;
  }
  const onBlack = new Uint8Array(data.length);
  const onWhite = new Uint8Array(data.length);
  for (let i = 0; i < data.length; i++) {
    const alpha = data[i | 3];
    onBlack[i] = trunc((data[i] * alpha + 127) / 255);
    onWhite[i] = trunc((data[i] * alpha + WHITE * (255 - alpha) + 127) / 255);
  }
  return contrast(onWhite) >= contrast(onBlack) ? onWhite : onBlack;
}

/* Returns the widest range of values of a channel. */
function contrast(colours) {
  const low = [255, 255, 255, 255];
  const high = [0, 0, 0, 0];
  for (let i = 0; i < colours.length; i++) {
    low[i & 3] = min(low[i & 3], colours[i]);
    high[i & 3] = max(high[i & 3], colours[i]);
  }
  return max(...[0, 1, 2].map((channel) => high[channel] - low[channel]));
}

/* Returns the lowest level at or below which at least this share of the pixels lie. */
function quantile(histogram, share) {
  const enough = fround(fround(share) * fround(sum(histogram)));
  let counted = 0;
  return histogram.findIndex((n) => (counted += n) >= enough);
}

function reframe(dark) {
  const { values } = dark;
  let darkest = LEAST_CONTRAST;
  for (let i = 0; i < values.length; i++) {
    darkest = max(darkest, values[i]);
  }
  const least = fround(fround(FAINT_SHARE) * darkest);
  let paper = 0;
  let ink = 0;
  let both = 0;
  for (let i = 0; i < values.length; i++) {
    const isPaper = abs(values[i]) <= CLEAN_LEVELS;
    const isInk = values[i] > least;
    paper += isPaper ? 1 : 0;
    ink += isInk ? 1 : 0;
    both += isPaper || isInk ? 1 : 0;
  }
  if (fround(paper / values.length) < fround(CLEAN_SHARE) || values.length - both > ink) {
    return dark;
  }
  const cut = crop(dark, least);
  const framed = image(cut.height + 2 * FRAME, cut.width + 2 * FRAME);
  for (let y = 0; y < cut.height; y++) {
    const row = cut.values.subarray(y * cut.width, (y + 1) * cut.width);
    framed.values.set(row, (y + FRAME) * framed.width + FRAME);
  }
  return framed;
}

function flatten(dark) {
  const { height, width } = dark;
  const block = BLOCK * max(ceil(height / EVEN_HEIGHT), ceil(width / EVEN_WIDTH), 1);
  const tile = block * TILE;
  const paper = opened(lightestOf(blocks(dark, block, tile)));
  const [down, across] = [between(height, paper.height, tile), between(width, paper.width, tile)];
  const flat = image(height, width);
  const row = new Float32Array(paper.width);
  for (let y = 0; y < height; y++) {
    const [above, below] = [down.before[y] * paper.width, down.after[y] * paper.width];
    for (let x = 0; x < paper.width; x++) {
      row[x] = down.share[y] * paper.values[above + x] + down.rest[y] * paper.values[below + x];
    }
    for (let x = 0, i = y * width; x < width; x++, i++) {
      const level = across.share[x] * row[across.before[x]] + across.rest[x] * row[across.after[x]];
      flat.values[i] = dark.values[i] - fround(level);
    }
  }
  return flat;
}

/* Returns the means over blocks, for as many blocks as the tiles have. */
function blocks({ height, width, values }, block, tile) {
  const means = image(ceil(height / tile) * TILE, ceil(width / tile) * TILE);
  const sums = new Float64Array(means.values.length);
  for (let y = 0; y < means.height * block; y++) {
    const [from, to] = [min(y, height - 1) * width, floor(y / block) * means.width];
    for (let x = 0; x < means.width * block; x++) {
      sums[to + floor(x / block)] += values[from + min(x, width - 1)];
    }
  }
  sums.forEach((of, i) => {
    means.values[i] = of / (block * block);
  });
  return means;
}

/* Returns the minimum of each tile's blocks. */
function lightestOf(means) {
  const tiles = image(means.height / TILE, means.width / TILE);
  tiles.values.fill(Infinity);
  for (let y = 0; y < means.height; y++) {
    for (let x = 0; x < means.width; x++) {
      const to = floor(y / TILE) * tiles.width + floor(x / TILE);
      tiles.values[to] = min(tiles.values[to], means.values[y * means.width + x]);
    }
  }
  return tiles;
}

/* Morphological opening: a tile full of ink takes the paper level of its neighbours. */
function opened(tiles) {
  return overNeighbours(overNeighbours(tiles, min), max);
}

function overNeighbours(grid, pick) {
  const { height, width, values } = grid;
  const [rows, all] = [image(height, width), image(height, width)];
  for (let y = 0; y < height; y++) {
    const [before, here, after] = [max(y - 1, 0) * width, y * width, min(y + 1, height - 1) * width];
    for (let x = 0; x < width; x++) {
      rows.values[here + x] = pick(values[before + x], values[here + x], values[after + x]);
    }
  }
  for (let i = 0; i < height * width; i += width) {
    for (let x = 0; x < width; x++) {
      const [before, after] = [max(x - 1, 0), min(x + 1, width - 1)];
      all.values[i + x] = pick(rows.values[i + before], rows.values[i + x], rows.values[i + after]);
    }
  }
  return all;
}

/* Linear interpolation between the centres of tiles: returns for each position the tiles before and after it, and
   their weights. */
function between(length, tiles, tile) {
  const [before, after] = [new Int32Array(length), new Int32Array(length)];
  const [share, rest] = [new Float32Array(length), new Float32Array(length)];
  for (let i = 0; i < length; i++) {
    const place = min(max(fround(fround(fround(i + 0.5) / tile) - 0.5), 0), tiles - 1);
    before[i] = floor(place);
    after[i] = min(before[i] + 1, tiles - 1);
    share[i] = 1 - fround(place - before[i]);
    rest[i] = after[i] > before[i] ? 1 - fround(after[i] - place) : 0;
  }
  return { before, after, share, rest };
}

function stretch(dark) {
  const { height, width, values } = dark;
  const histogram = new Int32Array(LEVELS);
  for (let i = 0; i < values.length; i++) {
    histogram[min(max(rint(values[i]), -BELOW), WHITE) + BELOW]++;
  }
  const count = values.length;
  const rank = min(max(trunc(DARKEST_SHARE * count), min(LEAST_DARKEST, count)), MOST_DARKEST);
  let counted = 0;
  const darkest = histogram.findLastIndex((n) => (counted += n) >= rank) - BELOW;
  const half = BELOW + floor(max(darkest, 0) / 2);
  const ink = quantile(histogram.map((n, level) => (level >= half ? n : 0)), INK_QUANTILE) - BELOW;
  const paper = histogram.map((n, level) => (level < half ? n : 0));
  const isPaper = paper.some((n) => n > 0);
  const [low, middle, high] = [0.16, 0.5, 0.6].map((share) => quantile(paper, share) - BELOW);
  // Estimates for a normal distribution; uses values above the median too, because white clips lighter values.
  const mean = isPaper ? middle : 0;
  const deviation = isPaper ? max(middle - low, fround((high - middle) / fround(0.253))) : 0;
  const stretched = image(height, width);
  if (darkest - mean < max(LEAST_CONTRAST, LEAST_SIGNAL * deviation)) {
    return [stretched, INK_SHARE];
  }
  const off = mean + min(NOISE_OFF * deviation, MOST_OFF * (max(ink, 1) - mean));
  const [zero, range] = [fround(off), fround(ink - off)];
  for (let i = 0; i < count; i++) {
    stretched.values[i] = min(max(fround(fround(values[i] - zero) / range), 0), 1);
  }
  return [stretched, INK_SHARE + max(NOISE_LEFT * deviation - (off - mean), 0) / (ink - off)];
}

/* Crops to the first and last row and column with values above `least`; one pixel of paper if there are none. */
function crop({ height, width, values }, least) {
  const limit = fround(least);
  let [top, bottom, left, right] = [height, -1, width, -1];
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      if (values[y * width + x] > limit) {
        top = min(top, y);
        bottom = y;
        left = min(left, x);
        right = max(right, x);
      }
    }
  }
  if (bottom < 0) {
    return image(1, 1);
  }
  const cut = image(bottom - top + 1, right - left + 1);
  for (let y = top; y <= bottom; y++) {
    cut.values.set(values.subarray(y * width + left, y * width + right + 1), (y - top) * cut.width);
  }
  return cut;
}

function resize(ink, form, estimator) {
  const { height, width } = ink;
  const wanted = form.glyph_size ? glyphScale(...measures(ink), form.glyph_size, estimator) : 1;
  const scale = min(
    wanted,
    (form.max_height - 2 * form.border) / height,
    (form.max_width - 2 * form.border) / width,
  );
  return scaled(ink, scale);
}

function scaled(ink, scale) {
  if (scale === 1) {
    return ink;
  }
  const { height, width } = ink;
  const rows = cubic(height, max(rint(height * scale), 1));
  const columns = cubic(width, max(rint(width * scale), 1));
  const tall = image(rows.length, width);
  rows.forEach(({ from, weights }, y) => {
    for (let x = 0; x < width; x++) {
      let total = 0;
      for (let i = 0; i < weights.length; i++) {
        total += weights[i] * ink.values[(from + i) * width + x];
      }
      tall.values[y * width + x] = total;
    }
  });
  const target = image(rows.length, columns.length);
  for (let y = 0; y < rows.length; y++) {
    columns.forEach(({ from, weights }, x) => {
      let total = 0;
      for (let i = 0; i < weights.length; i++) {
        total += weights[i] * tall.values[y * width + from + i];
      }
      target.values[y * columns.length + x] = min(max(fround(total), 0), 1);
    });
  }
  return target;
}

/* Weights of the source pixels for each target pixel: index of the first source pixel, and the weights from there
   on. Cubic convolution (Keys 1981); for downscaling, the kernel is wider by the same factor. */
function cubic(source, target) {
  const step = fround(source / target);
  const stretched = max(step, 1);
  return Array.from({ length: target }, (_, i) => {
    const middle = fround(fround(fround(i + 0.5) * step) - 0.5);
    const from = max(floor(middle - 2 * stretched), 0);
    const to = min(ceil(middle + 2 * stretched), source - 1);
    const weights = new Float32Array(to - from + 1);
    for (let at = from; at <= to; at++) {
      weights[at - from] = kernel(fround(fround(abs(fround(middle - at))) / stretched));
    }
    const total = fround(sum(weights));
    return { from, weights: weights.map((weight) => weight / total) };
  });
}

function kernel(distance) {
  if (distance <= 1) {
    const sloped = fround(fround(fround(1.5 * distance) - 2.5) * distance);
    return fround(fround(sloped * distance) + 1);
  }
  const sloped = fround(fround(fround(-0.5 * distance) + 2.5) * distance);
  return distance < 2 ? fround(fround(fround(sloped - 4) * distance) + 2) : 0;
}
