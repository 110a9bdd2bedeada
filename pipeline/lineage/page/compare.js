/* The comparison of two runs. */
function showCompare(store, first, second) {
  const { runs, byRun } = store;
  const one = byRun.get(first) || runs.at(-2) || runs[0];
  const other = byRun.get(second) || runs.at(-1);
  if (!one) {
    $("#outcome").textContent = "There is no run.";
    return;
  }
  $("#first").value = one.id;
  $("#second").value = other.id;
  const all = differences(store, one, other);
  const differing = all.filter((row) => row.differs);
  const rows = $("#same").checked ? all : differing;
  $("#outcome").textContent = differing.length
    ? `${plural(differing.length, "difference")} among ${plural(all.length, "fact")}.`
    : `Nothing differs among ${plural(all.length, "fact")}.`;
  const sections = [...new Set(rows.map((row) => row.section))];
  $("#differences").replaceChildren(
    ...sections.map((section) =>
      differenceTable(
        section,
        rows.filter((row) => row.section === section),
        one,
        other,
      ),
    ),
  );
}

/* Pairs the facts of two runs, in their original order. */
function differences(store, one, other) {
  const sections = [...new Set([...one.facts.keys(), ...other.facts.keys()])];
  return sections.flatMap((section) => {
    const sides = [one, other].map((run) => new Map(store.pairs(run.facts.get(section) || [])));
    const names = [...new Set(sides.flatMap((side) => [...side.keys()]))];
    return names.map((name) => {
      const values = sides.map((side) => side.get(name) ?? null);
      return { section, name, values, differs: JSON.stringify(values[0]) !== JSON.stringify(values[1]) };
    });
  });
}

function differenceTable(section, rows, one, other) {
  const heads = ["What", one.id, other.id].map((text) => make("th", { scope: "col" }, text));
  return make(
    "table",
    {},
    make("caption", {}, capital(section)),
    make("thead", {}, make("tr", {}, ...heads)),
    make(
      "tbody",
      {},
      ...rows.map((row) =>
        make(
          "tr",
          { className: row.differs ? "" : "same" },
          make("th", { scope: "row" }, row.name),
          ...row.values.map((value) => make("td", {}, long(value))),
        ),
      ),
    ),
  );
}
