"use strict";

/* How page.js reads a picture where there is no service: by the model in a worker. */

const worker = new Worker("worker.js", { type: "module" });
const waiting = new Map();
let failed = "";

of("where").textContent = "Read in this browser: no picture leaves this device.";
say("Loading the model…");

function fail(reason) {
  failed = `the model could not be loaded: ${reason}; load the page again`;
  say(`No picture can be read: ${failed}.`, true);
  for (const { reject } of waiting.values()) {
    reject(new Error(failed));
  }
  waiting.clear();
}

worker.addEventListener("message", ({ data }) => {
  if (data.loaded) {
    if (!waiting.size) {
      say(NOTHING_YET);
    }
  } else if (data.failed) {
    fail(data.failed);
  } else {
    const { resolve, reject } = waiting.get(data.id);
    waiting.delete(data.id);
    if (data.error) {
      reject(new Error(data.error));
    } else {
      resolve(data.answer);
    }
  }
});
worker.addEventListener("error", (event) => fail(event.message ?? "a script is missing"));

/* What stands in a picture: { status, alternatives }. */
let asked = 0;
function read(picture, alternatives) {
  return new Promise((resolve, reject) => {
    if (failed) {
      reject(new Error(failed));
      return;
    }
    asked += 1;
    waiting.set(asked, { resolve, reject });
    worker.postMessage({ id: asked, picture, alternatives });
  });
}
