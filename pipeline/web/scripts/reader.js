/* Reads a picture. JavaScript port of im2latex/reader.py, for one picture at a time. */

import { clean } from "./clean.js";
import { WHITE, normalise, rescale } from "./images.js";
import { Runtime } from "./runtime.js";

const PAD = 0;
/* The same limits as in im2latex/pictures.py. */
const MAX_PIXELS = 16000000;
const MAX_SIDE = 16000;
const LEAST_PIXELS = 9;

const here = (name) => new URL(name, import.meta.url).href;

/* A picture that cannot be read; the message is a sentence that begins with "the image". */
export class ImageError extends Error {}

/* A model that reads pictures; create it with `load`. */
export class Reader {
  constructor(runtime, described, helpers) {
    this.runtime = runtime;
    this.described = described;
    this.helpers = helpers;
  }

  /* Fetches all files that are needed; no requests are made afterwards. */
  static async load() {
    const [model, described] = await Promise.all([
      download("model.onnx").then((response) => response.arrayBuffer()),
      download("model.json").then((response) => response.json()),
    ]);
    const file = new Uint8Array(model);
    // One session uses one core, so the other sizes of a picture are encoded in workers of their own.
    const count = Math.min(described.decoding.rescales.length, navigator.hardwareConcurrency ?? 1) - 1;
    const helpers = Array.from({ length: Math.max(count, 0) }, () => new Helper());
    const loading = helpers.map((helper) => helper.ask(file));
    const runtime = await Runtime.load(file);
    const loaded = await Promise.allSettled(loading);
    return new Reader(runtime, described, helpers.filter((_, i) => loaded[i].status === "fulfilled"));
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
    const beam = { width: Math.max(count, decoding.beam_width), lengthPenalty: decoding.length_penalty };
    const first = rereads && count === 1 ? { ...beam, width: 1 } : beam;
    const [outputs, encoded] = await this.runtime.read(normalised, first);
    let hypotheses = this.#hypotheses(outputs);
    if (rereads && Math.exp(hypotheses[0].log_probability) < decoding.rescale_below) {
      const others = decoding.rescales.map((scale) => rescale(normalised, scale, image));
      const views = [encoded, ...(await this.#encode(others))];
      hypotheses = this.#hypotheses(await this.runtime.search(views, beam));
    }
    return { status: "read", alternatives: hypotheses.slice(0, count) };
  }

  /* Encodes images in all workers, the largest ones first. */
  async #encode(images) {
    const waiting = [...images].sort((a, b) => a.pixels.length - b.pixels.length);
    const encoded = new Map();
    const work = async (encode) => {
      while (waiting.length) {
        const image = waiting.pop();
        encoded.set(image, await encode(image));
      }
    };
    const helping = this.helpers.map((helper) => work((image) => helper.ask(image)));
    await Promise.all([...helping, work((image) => this.runtime.encode(image))]);
    return images.map((image) => encoded.get(image));
  }

  /* Returns the hypotheses of the graph's outputs, best first. */
  #hypotheses(outputs) {
    const { vocabulary } = this.described;
    const [, found, steps] = outputs.tokens.dims;
    // The rows of the other sizes are equal.
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

/* A worker that encodes images, see encoder.js. */
class Helper {
  constructor() {
    this.worker = new Worker(here("encoder.js"), { type: "module" });
  }

  /* Sends a message, and returns the answer. */
  ask(message) {
    return new Promise((resolve, reject) => {
      this.worker.onmessage = ({ data }) => resolve(data);
      this.worker.onerror = ({ message: reason }) => reject(new Error(reason ?? "a script is missing"));
      this.worker.postMessage(message);
    });
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
