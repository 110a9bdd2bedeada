"use strict";

/* Corrects a formula: draws it while it is edited, and saves it if the service collects corrections. */

const NAME = "im2latex.name";

byId("correct").addEventListener("click", () => {
  const opens = byId("correction").hidden;
  byId("correction").hidden = !opens;
  byId("correct").setAttribute("aria-expanded", String(opens));
  if (opens) {
    byId("corrected").focus();
  }
});
byId("corrected").addEventListener("input", () => {
  latex = byId("corrected").value.trim();
  showDoubts(latex, []);
  render(latex, byId("formula"), true);
});

/* The name of the person, kept by the browser; not kept if the browser forbids it. */
function remembered(name) {
  try {
    if (name !== undefined) {
      localStorage.setItem(NAME, name);
    }
    return localStorage.getItem(NAME) ?? "";
  } catch (error) {
    return "";
  }
}

/* Lets the person save corrections: `send(picture, latex, name)` returns { status }, `saved` or `known`. */
function offerSaving(send) {
  byId("saving").hidden = false;
  byId("who").value = remembered();
  byId("save").addEventListener("click", async () => {
    byId("save").disabled = true;
    remembered(byId("who").value);
    try {
      const { status } = await send(taken, latex, byId("who").value);
      say(status === "saved" ? "The correction is saved. Thank you." : "This correction was saved before.");
    } catch (error) {
      say(`Not saved: ${error.message}`, true);
    }
    byId("save").disabled = false;
  });
}
