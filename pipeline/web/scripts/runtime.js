/* Runs the model's graph with ONNX Runtime Web. JavaScript port of im2latex/runtime.py, for one picture at a time. */

import * as ort from "./onnxruntime/ort.wasm.bundle.min.js";
import { WHITE } from "./images.js";

/* The convolutional encoder halves both sides three times. */
const STRIDE = 8;
const HYPOTHESES = ["tokens", "log_probability", "probability", "token_probability"];
/* How the names of the outputs with cells end. */
const CELLS = "_cells";

const wasm = new URL("onnxruntime/ort-wasm-simd-threaded.wasm", import.meta.url).href;

/* A model in ONNX Runtime. Create it with `load`. An image is { height, width, pixels }; an encoded image is { height,
   width, cells }, where `cells` holds the cells of each grid by the name of the graph's output, as { dims, data }. */
export class Runtime {
  constructor(session) {
    this.session = session;
    this.cells = session.outputNames.filter((name) => name.endsWith(CELLS));
  }

  /* Returns the model of an ONNX file, a Uint8Array. */
  static async load(file) {
    // More threads in one session need headers (COOP and COEP) that static hosts do not send.
    ort.env.wasm.numThreads = 1;
    ort.env.wasm.wasmPaths = { wasm };
    const runtime = new Runtime(await ort.InferenceSession.create(file));
    // The first run compiles the graph; do it here, so that no picture has to wait for it.
    await runtime.encode({ height: 1, width: 1, pixels: Uint8Array.of(0) });
    return runtime;
  }

  /* Reads an image with a beam { width, lengthPenalty }; returns [outputs, encoded image]. */
  async read(image, beam) {
    const outputs = await this.#run([image], padded(image), [...this.cells, ...HYPOTHESES], beam);
    return [outputs, this.#encoded(image, outputs)];
  }

  /* Returns the encoded image. */
  async encode(image) {
    return this.#encoded(image, await this.#run([image], padded(image), this.cells));
  }

  /* Reads a picture that is encoded in several sizes in all of them together; returns the outputs. */
  search(views, beam) {
    const noPixels = new ort.Tensor("uint8", new Uint8Array(0), [0, 0, 0]);
    return this.#run(views, noPixels, HYPOTHESES, beam, (name) => joined(views.map(({ cells }) => cells[name])));
  }

  #encoded({ height, width }, outputs) {
    const cells = this.cells.map((name) => [name, { dims: outputs[name].dims, data: outputs[name].data }]);
    return { height, width, cells: Object.fromEntries(cells) };
  }

  /* Runs the graph, see im2latex/graph.py; without a beam, it only encodes. */
  #run(views, image, outputs, beam, known = () => new ort.Tensor("float32", new Float32Array(0), [0, 0, 0, 0])) {
    const sizes = BigInt64Array.from(views.flatMap(({ height, width }) => [BigInt(height), BigInt(width)]));
    const inputs = {
      image,
      size: new ort.Tensor("int64", sizes, [views.length, 2]),
      search: new ort.Tensor("bool", Uint8Array.of(beam ? 1 : 0), []),
      views: new ort.Tensor("int64", BigInt64Array.of(BigInt(views.length)), []),
      width: new ort.Tensor("int64", BigInt64Array.of(BigInt(beam?.width ?? 1)), []),
      length_penalty: new ort.Tensor("float32", Float32Array.of(beam?.lengthPenalty ?? 0), []),
    };
    for (const name of this.cells) {
      inputs[`known_${name.slice(0, -CELLS.length)}`] = known(name);
    }
    return this.session.run(inputs, outputs);
  }
}

/* Returns the input `image` for one image. */
function padded({ height, width, pixels }) {
  const [rows, columns] = [height, width].map((side) => Math.ceil(side / STRIDE) * STRIDE);
  const all = new Uint8Array(rows * columns).fill(WHITE);
  for (let y = 0; y < height; y++) {
    all.set(pixels.subarray(y * width, (y + 1) * width), y * columns);
  }
  return new ort.Tensor("uint8", all, [1, rows, columns]);
}

/* Joins the cells of one grid in several sizes. */
function joined(views) {
  const units = views[0].dims[1];
  const [rows, columns] = [2, 3].map((axis) => Math.max(...views.map(({ dims }) => dims[axis])));
  const all = new Float32Array(views.length * units * rows * columns);
  views.forEach(({ dims: [, , height, width], data }, view) => {
    for (let unit = 0; unit < units; unit++) {
      for (let y = 0; y < height; y++) {
        const start = (unit * height + y) * width;
        all.set(data.subarray(start, start + width), ((view * units + unit) * rows + y) * columns);
      }
    }
  });
  return new ort.Tensor("float32", all, [views.length, units, rows, columns]);
}
