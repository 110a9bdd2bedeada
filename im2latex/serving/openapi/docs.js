"use strict";
// Shows the OpenAPI document of the service: each request, with its parameters, body and responses.

function element(tag, attributes = {}, ...children) {
  const made = Object.assign(document.createElement(tag), attributes);
  made.append(...children);
  return made;
}

function resolve(api, node) {
  if (!node || !node.$ref) return node;
  return node.$ref.split("/").slice(1).reduce((part, key) => part[key], api);
}

// The fields of a schema: [name, schema, whether it is required].
function fields(api, schema) {
  const whole = resolve(api, schema);
  if (whole.allOf) return whole.allOf.flatMap((part) => fields(api, part));
  const required = whole.required || [];
  return Object.entries(whole.properties || {}).map(([name, of]) => [name, resolve(api, of), required.includes(name)]);
}

function typeOf(schema) {
  if (schema.enum) return schema.enum.join(", ");
  if (schema.minimum !== undefined && schema.maximum !== undefined && schema.type === "integer") {
    return `${schema.minimum} to ${schema.maximum}`;
  }
  return [].concat(schema.format || schema.type || []).join(" or ");
}

function list(title, rows) {
  if (!rows.length) return [];
  const entries = rows.flatMap(([name, note, text]) => [
    element("dt", {}, element("code", { textContent: name })),
    element("dd", {}, text, element("p", { className: "quiet", textContent: note })),
  ]);
  return [element("h3", { textContent: title }), element("dl", {}, ...entries)];
}

function fieldRows(api, schema) {
  return fields(api, schema).map(([name, of, required]) => [
    name, `${typeOf(of)}${required ? "" : ", optional"}`, of.description || "",
  ]);
}

function operation(api, path, method, described) {
  const parameters = (described.parameters || []).map((parameter) => [
    parameter.name,
    `${parameter.in}, ${typeOf(parameter.schema)}${parameter.required ? "" : ", optional"}`,
    parameter.description || "",
  ]);
  const bodies = Object.entries(described.requestBody ? described.requestBody.content : {});
  const responses = Object.entries(described.responses).map(([status, response]) => {
    const whole = resolve(api, response);
    return [status, Object.keys(whole.content || {}).join(", "), whole.description];
  });
  const answer = resolve(api, described.responses["200"]).content["application/json"];
  const alternatives = answer ? answer.schema.oneOf || [answer.schema] : [];
  return element(
    "section", { className: "operation" },
    element("h2", {}, element("code", { textContent: `${method.toUpperCase()} ${path}` })),
    element("p", { textContent: `${described.summary}. ${described.description || ""}` }),
    ...list("Parameters", parameters),
    ...bodies.flatMap(([kind, body]) => {
      const rows = fieldRows(api, body.schema);
      return list(`Body: ${kind}`, rows.length ? rows : [[typeOf(body.schema), "", body.schema.description || ""]]);
    }),
    ...alternatives.flatMap((schema) => list("Response", fieldRows(api, schema))),
    ...list("Status", responses),
  );
}

async function show() {
  const lead = document.getElementById("lead");
  try {
    const response = await fetch("openapi.json");
    if (!response.ok) throw new Error(`status ${response.status}`);
    const api = await response.json();
    lead.textContent = api.info.description;
    const operations = Object.entries(api.paths).flatMap(([path, methods]) =>
      Object.entries(methods).map(([method, described]) => operation(api, path, method, described)));
    document.getElementById("operations").append(...operations);
  } catch (error) {
    lead.textContent = `The description could not be loaded (${error.message}); reload the page.`;
  }
}

show();
