// /docs: renders /openapi.json, with a form to send requests. It supports only the parts of OpenAPI that the document
// uses.

const find = (id) => document.getElementById(id);

function element(name, className, ...content) {
  const made = document.createElement(name);
  if (className) made.className = className;
  made.append(...content.filter((part) => part !== undefined && part !== ""));
  return made;
}

/** Text in which backquotes mark code. */
function prose(text) {
  const parts = text.split("`").map((part, index) => (index % 2 ? element("code", "", part) : part));
  return element("span", "", ...parts);
}

const pretty = (value) => (typeof value === "string" ? value : JSON.stringify(value, null, 2));

let openapi;

/** The target of a reference; anything else unchanged. */
function resolved(part) {
  if (!part?.$ref) return part;
  const found = part.$ref.slice(2).split("/").reduce((at, key) => at[key], openapi);
  return { ...resolved(found), $name: part.$ref.split("/").at(-1) };
}

const CONSTRAINTS = {
  minimum: "from", maximum: "to", minItems: "items from", maxItems: "items to",
  minLength: "characters from", maxLength: "characters to", pattern: "matches",
};

/** Type and limits of a schema in one line. */
function kind(schema) {
  const options = schema.oneOf ?? schema.anyOf;
  const limits = Object.entries(CONSTRAINTS)
    .filter(([key]) => schema[key] !== undefined)
    .map(([key, words]) => `${words} ${schema[key]}`);
  if (schema.enum) limits.push(schema.enum.map((value) => JSON.stringify(value)).join(", "));
  if ("const" in schema) limits.push(JSON.stringify(schema.const));
  let type = [schema.type ?? []].flat().join(" or ");
  if (options) type = options.map((option) => resolved(option).type ?? resolved(option).$name ?? "several").flat().join(" or ");
  if (schema.type === "array" && schema.items) type = `array of ${resolved(schema.items).$name ?? resolved(schema.items).type ?? "values"}`;
  return [type, ...limits].filter(Boolean).join(" · ");
}

/** A schema as nested lists of its fields. */
function schemaTree(part, seen = []) {
  const schema = resolved(part);
  const list = element("ul", "schema");
  const describe = (name, inner, required) => {
    const line = element("li", "");
    if (name) line.append(element("code", "", name), " ");
    line.append(element("span", "kind", kind(inner)));
    if (required) line.append(" ", element("span", "required", "required"));
    if (inner.description) line.append(" ", prose(inner.description));
    return line;
  };
  const nested = (line, inner) => {
    const name = inner.$name ?? inner;
    if (!seen.includes(name) && hasMore(inner)) line.append(schemaTree(inner, [...seen, name]));
    return line;
  };
  for (const option of schema.oneOf ?? schema.anyOf ?? schema.allOf ?? []) {
    const inner = resolved(option);
    list.append(nested(describe(inner.$name, inner), inner));
  }
  for (const [name, field] of Object.entries(schema.properties ?? {})) {
    const inner = resolved(field);
    list.append(nested(describe(name, inner, schema.required?.includes(name)), inner));
  }
  if (schema.items) {
    const inner = resolved(schema.items);
    list.append(nested(describe("each", inner), inner));
  }
  return list;
}

const hasMore = (schema) =>
  Boolean(schema.properties || schema.oneOf || schema.anyOf || schema.allOf || (schema.items && hasMore(resolved(schema.items))));

function folded(summary, ...content) {
  return element("details", "", element("summary", "", summary), ...content);
}

/** The possible bodies of a request or a response: schema and examples per content type. */
function media(content) {
  return Object.entries(content ?? {}).flatMap(([type, { schema, example, examples }]) => {
    const shown = Object.values(examples ?? {}).map(({ summary, value }) => folded(summary, element("pre", "", pretty(value))));
    if (example !== undefined) shown.push(folded("Example", element("pre", "", pretty(example))));
    const inner = resolved(schema ?? {});
    const tree = hasMore(inner) ? folded("Schema", schemaTree(schema)) : "";
    return [element("p", "kind", type, " ", kind(inner)), ...shown, tree];
  });
}

/** A form that sends the request and shows the answer. */
function requestForm(method, path, operation, parameters) {
  const form = element("form", "try");
  const inputs = parameters.map((parameter) => {
    const input = element("input");
    input.value = parameter.schema.enum?.[0] ?? "";
    form.append(element("label", "", element("code", "", parameter.name), " ", element("span", "hint", parameter.in), input));
    return [parameter, input];
  });
  const bodies = operation.requestBody?.content;
  let type, body;
  if (bodies) {
    type = element("select");
    for (const name of Object.keys(bodies)) type.append(element("option", "", name));
    body = element("textarea");
    body.spellcheck = false;
    const fill = () => {
      const { example, examples } = bodies[type.value];
      body.value = pretty(example ?? Object.values(examples)[0].value);
    };
    type.addEventListener("change", fill);
    fill();
    form.append(element("label", "", "Content type ", type), element("label", "", "Body", body));
  }
  const send = element("button", "", "Send");
  const result = element("pre", "result");
  result.hidden = true;
  result.ariaLive = "polite";
  form.append(send, result);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    let url = path.slice(1);
    const headers = type ? { "content-type": type.value } : {};
    for (const [parameter, input] of inputs) {
      if (parameter.in === "path") url = url.replace(`{${parameter.name}}`, encodeURIComponent(input.value));
      else if (input.value) headers[parameter.name] = input.value;
    }
    if (needsKey(operation) && find("key").value) headers.authorization = `Bearer ${find("key").value}`;
    result.hidden = false;
    result.textContent = "…";
    try {
      const started = performance.now();
      const response = await fetch(url || "./", { method: method.toUpperCase(), headers, body: body?.value });
      const text = await response.text();
      const took = Math.round(performance.now() - started);
      let shown = text;
      try {
        shown = pretty(JSON.parse(text));
      } catch {
        // Not every answer is JSON.
      }
      result.textContent = `${response.status} ${response.statusText} in ${took} ms\n\n${shown}`;
    } catch {
      result.textContent = "The server does not answer.";
    }
  });
  return form;
}

/** True if an operation needs the API key. */
const needsKey = (operation) => (operation.security ?? openapi.security ?? []).length > 0;

function operationSection(method, path, operation) {
  const parameters = (operation.parameters ?? []).map(resolved);
  const content = element("div");
  if (operation.description) content.append(element("p", "", prose(operation.description)));
  if (parameters.length) {
    content.append(element("h3", "", "Parameters"));
    const list = element("ul", "schema");
    for (const { name, in: place, description, schema } of parameters) {
      list.append(element("li", "", element("code", "", name), " ", element("span", "kind", `${place} · ${kind(schema)}`), " ", prose(description)));
    }
    content.append(list);
  }
  if (operation.requestBody) {
    const { description, content: bodies } = operation.requestBody;
    content.append(element("h3", "", "Body"), description ? prose(description) : "", ...media(bodies));
  }
  content.append(element("h3", "", "Answers"));
  for (const [status, part] of Object.entries(operation.responses)) {
    const response = resolved(part);
    const headers = Object.keys(response.headers ?? {});
    content.append(element("details", "",
      element("summary", "", element("span", "status", status), prose(response.description)),
      headers.length ? element("p", "kind", "headers: ", headers.join(", ")) : "",
      ...media(response.content)));
  }
  content.append(element("h3", "", "Try it"), requestForm(method, path, operation, parameters));
  const section = element("details", "operation",
    element("summary", "", element("span", "method", method.toUpperCase()), " ", element("span", "path", path), " ",
      element("span", "what", prose(operation.summary), needsKey(operation) ? " · needs the key" : "")), content);
  section.id = operation.operationId;
  return section;
}

function render() {
  const { title, version, description } = openapi.info;
  find("key-field").hidden = !openapi.security?.length;
  find("key-field").addEventListener("submit", (event) => event.preventDefault());
  document.title = `${title} API`;
  find("about").append(...`${description}\n\nVersion ${version}, OpenAPI ${openapi.openapi}.`
    .split("\n\n").map((paragraph) => element("p", "", prose(paragraph))));
  for (const tag of openapi.tags) {
    const operations = [];
    for (const [path, methods] of Object.entries(openapi.paths)) {
      for (const [method, operation] of Object.entries(methods)) {
        if (!operation.tags.includes(tag.name)) continue;
        operations.push(operationSection(method, path, operation));
      }
    }
    const heading = element("h2", "", tag.name);
    heading.id = `tag-${tag.name.toLowerCase().replaceAll(" ", "-")}`;
    const link = element("a", "", tag.name);
    link.href = `#${heading.id}`;
    find("contents").append(element("li", "", link));
    find("operations").append(heading, element("p", "kind", tag.description), ...operations);
  }
}

/** Opens the operation that the URL names. */
function openTarget() {
  const target = location.hash && find(location.hash.slice(1));
  if (!target) return;
  if (target instanceof HTMLDetailsElement) target.open = true;
  target.scrollIntoView();
}

try {
  const response = await fetch("openapi.json");
  if (!response.ok) throw new Error(response.statusText);
  openapi = await response.json();
  render();
  openTarget();
  addEventListener("hashchange", openTarget);
} catch (error) {
  find("error").textContent = `The document cannot be rendered: ${error.message}`;
  find("error").hidden = false;
}
