// JSON schemas of an OpenAPI description, as rows to read and as an example to send.

const DEEP = 6; // levels that are followed: schemas of messages and tools hold themselves

/** What a {"$ref": "#/a/b"} stands for; anything else is itself. */
export function resolve(api, schema) {
  let found = schema;
  for (let hops = 0; found?.$ref && hops < 16; hops += 1) {
    found = found.$ref
      .replace(/^#\//, "")
      .split("/")
      .reduce((at, key) => at?.[key.replaceAll("~1", "/").replaceAll("~0", "~")], api);
  }
  return found ?? {};
}

/** A type in few words: "string | null", "array of Message", "one of a, b". */
export function typeOf(api, schema) {
  if (!schema || schema === true) return "any";
  if (schema.$ref) return schema.$ref.split("/").pop();
  if (schema.const !== undefined) return JSON.stringify(schema.const);
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" | ");
  const several = schema.anyOf ?? schema.oneOf;
  if (several) return [...new Set(several.map((one) => typeOf(api, one)))].join(" | ");
  if (schema.allOf?.length === 1) return typeOf(api, schema.allOf[0]);
  if (schema.type === "array") return `array of ${typeOf(api, schema.items)}`;
  if (schema.format === "binary" || schema.contentMediaType) return "file";
  return [schema.type ?? "any"].flat().join(" | ");
}

/** The members of an object and of what is in it: [{name, depth, type, required, text, limits}]. */
export function rows(api, schema, depth = 0, seen = []) {
  const whole = inner(api, schema);
  if (depth > DEEP || seen.includes(whole)) return [];
  const found = [];
  for (const [name, member] of Object.entries(whole.properties ?? {})) {
    const at = resolve(api, member);
    found.push({
      name,
      depth,
      type: typeOf(api, member),
      required: (whole.required ?? []).includes(name),
      text: member.description ?? at.description ?? "",
      limits: limits(at),
    });
    found.push(...rows(api, member, depth + 1, [...seen, whole]));
  }
  return found;
}

/** The object that a schema is about: behind references, lists and alternatives with null. */
function inner(api, schema) {
  let found = resolve(api, schema);
  for (let hops = 0; hops < 8; hops += 1) {
    const several = found.anyOf ?? found.oneOf ?? found.allOf;
    const next = several
      ? several.map((one) => resolve(api, one)).find((one) => one.properties || one.items || one.anyOf)
      : found.type === "array" && resolve(api, found.items);
    if (!next) break;
    found = next;
  }
  return found;
}

function limits(schema) {
  const said = [];
  if (schema.default !== undefined && schema.default !== null) said.push(`default ${JSON.stringify(schema.default)}`);
  if (schema.minimum !== undefined) said.push(`≥ ${schema.minimum}`);
  if (schema.exclusiveMinimum !== undefined) said.push(`> ${schema.exclusiveMinimum}`);
  if (schema.maximum !== undefined) said.push(`≤ ${schema.maximum}`);
  if (schema.maxLength !== undefined) said.push(`at most ${schema.maxLength} characters`);
  return said.join(", ");
}

/** A body to begin from: the schema's own example, or its required members with plain values. */
export function example(api, schema, depth = 0) {
  const whole = resolve(api, schema);
  if (whole.example !== undefined) return whole.example;
  if (whole.examples?.length) return whole.examples[0];
  if (whole.const !== undefined) return whole.const;
  if (whole.enum) return whole.enum[0];
  if (whole.default !== undefined && whole.default !== null && depth) return whole.default;
  const several = whole.anyOf ?? whole.oneOf ?? whole.allOf;
  if (several) return example(api, several.find((one) => one.type !== "null") ?? {}, depth);
  if (depth > DEEP) return null;
  switch ([whole.type].flat()[0]) {
    case "object": {
      const needed = whole.required ?? [];
      const chosen = Object.entries(whole.properties ?? {}).filter(([name]) => needed.includes(name));
      return Object.fromEntries(chosen.map(([name, member]) => [name, example(api, member, depth + 1)]));
    }
    case "array":
      return [example(api, whole.items ?? {}, depth + 1)];
    case "integer":
    case "number":
      return whole.minimum ?? 0;
    case "boolean":
      return false;
    case "string":
      return "";
    default:
      return whole.properties ? example(api, { ...whole, type: "object" }, depth) : null;
  }
}

/** The operations of an OpenAPI description by their first tag: [[tag, [operation]]]. */
export function operations(api) {
  const groups = new Map();
  for (const [path, methods] of Object.entries(api.paths ?? {})) {
    for (const [method, about] of Object.entries(methods)) {
      if (!["get", "post", "put", "patch", "delete"].includes(method)) continue;
      const tag = about.tags?.[0] ?? path.split("/").slice(0, 2).join("/");
      const parameters = [...(methods.parameters ?? []), ...(about.parameters ?? [])].map((one) => resolve(api, one));
      const [type, content] = Object.entries(about.requestBody?.content ?? {})[0] ?? [];
      const body = type ? { type, schema: content.schema ?? {}, required: about.requestBody.required } : null;
      if (!groups.has(tag)) groups.set(tag, []);
      groups.get(tag).push({ id: `${method}-${path}`, method: method.toUpperCase(), path, about, parameters, body });
    }
  }
  return [...groups];
}
