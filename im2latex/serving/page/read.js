"use strict";

/* Reads pictures with the HTTP service, and sends corrections to it. */

byId("where").textContent = "Read on this server; the page loads nothing from elsewhere.";

/* Sends a request to the service, and returns its answer. */
async function post(address, request) {
  let response;
  let answer;
  try {
    response = await fetch(address, { method: "POST", ...request });
    answer = await response.json();
  } catch (error) {
    throw new Error("the service does not answer. Is it still running?");
  }
  if (!response.ok) {
    throw new Error(`${answer.error}.`);
  }
  return answer;
}

/* Returns the reading of a picture: { status, alternatives, version }. */
function read(picture, alternatives, signal) {
  const headers = { "Content-Type": "application/octet-stream" };
  return post(`predict?clean=1&alternatives=${alternatives}`, { body: picture, headers, signal });
}

if ("collects" in document.body.dataset) {
  offerSaving((picture, formula, name) => {
    const body = new FormData();
    body.append("image", picture);
    body.append("latex", formula);
    body.append("name", name);
    return post("corrections", { body });
  });
}
