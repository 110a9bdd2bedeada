/* Reads pictures in a worker, so that the page stays responsive. */

import { ImageError, Reader } from "./reader.js";

const loading = Reader.load();
loading.then(
  () => postMessage({ loaded: true }),
  (error) => postMessage({ failed: error.message }),
);
/* Requests are queued, because the runtime cannot run two at once. */
let last = loading;

onmessage = ({ data: { id, picture, alternatives } }) => {
  last = last.then(async () => {
    try {
      postMessage({ id, answer: await (await loading).read(picture, alternatives) });
    } catch (error) {
      postMessage({ id, error: error instanceof ImageError ? error.message : `the model failed (${error.message})` });
    }
  });
};
