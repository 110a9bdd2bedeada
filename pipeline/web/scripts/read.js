"use strict";

/* Reads pictures in the browser, without the service: the model runs in a worker. */

const worker = new Worker("worker.js", { type: "module" });
const waiting = new Map();
let requests = 0;
let failed = "";

byId("where").textContent = "Read in this browser: no picture leaves this device.";
say("Loading the model…");

function fail(reason) {
  failed = `the model could not be loaded (${reason}). Load the page again.`;
  say(`Nothing can be read: ${failed}`, true);
  for (const { reject } of waiting.values()) {
    reject(new Error(failed));
  }
  waiting.clear();
}

/* Loads KaTeX's fonts at once. Otherwise the browser loads them on first use, when the page may be offline. */
const fonts = new Promise((done) => window.addEventListener("load", done)).then(() =>
  Promise.allSettled([...document.fonts].map((font) => font.load())),
);

worker.addEventListener("message", async ({ data }) => {
  if (data.loaded) {
    await fonts;
    if (!requests) {
      say(NOTHING_YET);
    }
  } else if (data.failed) {
    fail(data.failed);
  } else {
    const { resolve, reject } = waiting.get(data.id);
    waiting.delete(data.id);
    if (data.error) {
      reject(new Error(`${data.error}.`));
    } else {
      resolve(data.answer);
    }
  }
});
worker.addEventListener("error", (event) => fail(event.message ?? "a script is missing"));

/* Returns the reading of a picture: { status, alternatives }. */
function read(picture, alternatives) {
  return new Promise((resolve, reject) => {
    if (failed) {
      reject(new Error(failed));
      return;
    }
    requests += 1;
    waiting.set(requests, { resolve, reject });
    worker.postMessage({ id: requests, picture, alternatives });
  });
}
