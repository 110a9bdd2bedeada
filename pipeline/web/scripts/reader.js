/* Reads a picture with ONNX Runtime. JavaScript port of im2latex/reader.py, for one picture at a time. */

import * as ort from "./onnxruntime/ort.wasm.bundle.min.js";
import { clean } from "./clean.js";
import { WHITE, normalise, rescale } from "./images.js";

/* The convolutional encoder halves both sides three times. */
const STRIDE = 8;
const PAD = 0;
/* The same limits as in im2latex/pictures.py. */
const MAX_PIXELS = 16000000;
const MAX_SIDE = 16000;
const LEAST_PIXELS = 9;
const OUTPUTS = ["tokens", "log_probability", "probability", "token_probability"];

const here = (name) => new URL(name, import.meta.url).href;

/* A picture that cannot be read; the message is a sentence that begins with "the image". */
export class ImageError extends Error {}

/* A model that reads pictures; create it with `load`. */
export class Reader {
  constructor(session, described) {
    this.session = session;
    this.described = described;
  }

  /* Fetches all files that are needed; no requests are made afterwards. */
  static async load() {
    // More threads need headers (COOP and COEP) that static hosts do not send.
    ort.env.wasm.numThreads = 1;
    ort.env.wasm.wasmPaths = { wasm: here("onnxruntime/ort-wasm-simd-threaded.wasm") };
    const [model, described] = await Promise.all([
      download("model.onnx").then((response) => response.arrayBuffer()),
      download("model.json").then((response) => response.json()),
    ]);
    const session = await ort.InferenceSession.create(new Uint8Array(model));
    // The first run compiles the graph; do it here, so that no picture has to wait for it.
    await session.run(inputs([{ height: 1, width: 1, pixels: Uint8Array.of(0) }], 1, 0), ["tokens"]);
    return new Reader(session, described);
  }

  /* Reads a picture file, a Blob, with the model's own beam search; the beam is wider if more alternatives are
     requested.

     Returns { status, alternatives } like the service: at most `count` alternatives, best first, each { latex,
     log_probability, probability, tokens }, with LaTeX as a person would type it; `tokens` holds each token with the
     probability that it is right. */
  async read(picture, count) {
    const { image, decoding, estimator } = this.described;
    const normalised = normalise(await decode(picture), image, estimator);
    if (normalised.pixels.every((level) => level === WHITE)) {
      return { status: "blank", alternatives: [{ latex: "", log_probability: 0, probability: 0, tokens: [] }] };
    }
    const rereads = decoding.rescales.length > 0 && decoding.rescale_below > 0;
    const width = Math.max(count, decoding.beam_width);
    let hypotheses = await this.#search([normalised], rereads && count === 1 ? 1 : width);
    if (rereads && Math.exp(hypotheses[0].log_probability) < decoding.rescale_below) {
      const others = decoding.rescales.map((scale) => rescale(normalised, scale, image));
      hypotheses = await this.#search([normalised, ...others], width);
    }
    return { status: "read", alternatives: hypotheses.slice(0, count) };
  }

  /* Returns the hypotheses for a normalised picture in one or more sizes, best first. */
  async #search(views, width) {
    const { decoding, vocabulary } = this.described;
    const outputs = await this.session.run(inputs(views, width, decoding.length_penalty), OUTPUTS);
    const [, found, steps] = outputs.tokens.dims;
    // The rows of the other views are equal.
    const alternatives = [...outputs.log_probability.data.subarray(0, found)].map((logProbability, i) => {
      const ofTokens = outputs.token_probability.data.subarray(i * steps, (i + 1) * steps);
      const tokens = Array.from(outputs.tokens.data.subarray(i * steps, (i + 1) * steps), Number)
        .filter((token) => token !== PAD)
        .map((token, place) => [vocabulary[token], ofTokens[place]]);
      return {
        latex: clean(tokens.map(([token]) => token).join(" ")),
        log_probability: logProbability,
        probability: outputs.probability.data[i],
        tokens,
      };
    });
    // If the search finds fewer hypotheses than requested, the others have log-probability -inf.
    return alternatives.filter((one) => Number.isFinite(one.log_probability));
  }
}

async function download(name) {
  const response = await fetch(here(name));
  if (!response.ok) {
    throw new Error(`${name} is missing on this site (status ${response.status})`);
  }
  return response;
}

async function decode(picture) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(picture, { colorSpaceConversion: "none", premultiplyAlpha: "none" });
  } catch (error) {
    throw new ImageError("the image is damaged, or of a format that this browser does not know");
  }
  const { height, width } = bitmap;
  if (height * width > MAX_PIXELS || Math.max(height, width) > MAX_SIDE) {
    throw new ImageError(
      `the image has ${width} x ${height} pixels, more than ${MAX_PIXELS} in all or ${MAX_SIDE} a side; make it smaller`,
    );
  }
  if (height * width < LEAST_PIXELS) {
    throw new ImageError(`the image has ${width} x ${height} pixels, too few for a formula; take a larger one`);
  }
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  return { height, width, data: context.getImageData(0, 0, width, height).data };
}

/* Returns the model's inputs, as described in im2latex/graph.py. */
function inputs(views, beam, lengthPenalty) {
  const [rows, columns] = ["height", "width"].map((side) => {
    const longest = Math.max(...views.map((view) => view[side]));
    return Math.ceil(longest / STRIDE) * STRIDE;
  });
  const padded = new Uint8Array(views.length * rows * columns).fill(WHITE);
  views.forEach(({ height, width, pixels }, i) => {
    for (let y = 0; y < height; y++) {
      padded.set(pixels.subarray(y * width, (y + 1) * width), (i * rows + y) * columns);
    }
  });
  const sizes = BigInt64Array.from(views.flatMap(({ height, width }) => [BigInt(height), BigInt(width)]));
  return {
    image: new ort.Tensor("uint8", padded, [views.length, rows, columns]),
    size: new ort.Tensor("int64", sizes, [views.length, 2]),
    views: new ort.Tensor("int64", BigInt64Array.of(BigInt(views.length)), []),
    width: new ort.Tensor("int64", BigInt64Array.of(BigInt(beam)), []),
    length_penalty: new ort.Tensor("float32", Float32Array.of(lengthPenalty), []),
  };
}
