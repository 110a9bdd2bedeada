/* Encodes images in a worker of its own, one after the other. The first message is the model's file, and is answered
   when the model is loaded; every other one is an image, and is answered with the encoded image. */

import { Runtime } from "./runtime.js";

let runtime;

async function answer(message) {
  if (runtime) {
    const encoded = await runtime.encode(message);
    postMessage(encoded, Object.values(encoded.cells).map(({ data }) => data.buffer));
  } else {
    runtime = await Runtime.load(message);
    postMessage(null);
  }
}

onmessage = ({ data }) => {
  answer(data).catch((error) =>
    // Thrown here, it is an event of the worker.
    setTimeout(() => {
      throw error;
    }),
  );
};
