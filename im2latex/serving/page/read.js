"use strict";

/* Reads pictures with the HTTP service. */

byId("where").textContent = "Read on this server; the page loads nothing from elsewhere.";

/* Returns the reading of a picture: { status, alternatives, version }. */
async function read(picture, alternatives, signal) {
  let response;
  let answer;
  try {
    response = await fetch(`predict?clean=1&alternatives=${alternatives}`, {
      method: "POST",
      body: picture,
      headers: { "Content-Type": "application/octet-stream" },
      signal,
    });
    answer = await response.json();
  } catch (error) {
    throw new Error("the service does not answer. Is it still running?");
  }
  if (!response.ok) {
    throw new Error(`${answer.error}.`);
  }
  return answer;
}
