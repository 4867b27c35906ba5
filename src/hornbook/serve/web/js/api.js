// Talking to the server this page came from, and to nobody else.
//
//   await api.get("/api/hornbook/status")        JSON, or an ApiError with what went wrong and what to do about it
//   for await (const row of api.lines(path, body))   a stream of JSON lines (pulls)
//   follow(path, {event, state, signal})         a stream of events that is taken up again after a break, where it stopped

import { cell, link, memory } from "./state.js";
import { t } from "./i18n.js";

export class ApiError extends Error {
  /** status 0: the server was not reached. */
  constructor(what, remedy = "", status = 0, body = null) {
    super(what);
    this.what = what;
    this.remedy = remedy;
    this.status = status;
    this.body = body;
  }
}

/** Set when the server wants a key: app.js then asks for it. */
export const keyWanted = cell(false);

function headers(more = {}) {
  const key = memory.get("key");
  return { ...(key ? { Authorization: `Bearer ${key}` } : {}), ...more };
}

async function request(method, path, body, { signal, headers: more } = {}) {
  const form = body instanceof FormData;
  let answer;
  try {
    answer = await fetch(path, {
      method,
      signal,
      headers: headers({ ...(body === undefined || form ? {} : { "Content-Type": "application/json" }), ...more }),
      body: body === undefined ? undefined : form ? body : JSON.stringify(body),
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    link.set("lost");
    throw new ApiError(t("error.unreached"), t("error.unreached.remedy"));
  }
  link.set("open");
  if (!answer.ok) throw await failure(answer);
  return answer;
}

/** The error bodies of the server's several APIs, brought into one form. */
async function failure(answer) {
  if (answer.status === 401) keyWanted.set(true);
  let body = null;
  try {
    body = await answer.json();
  } catch {
    // no JSON: the status says what there is to say
  }
  const inner = body?.error ?? body?.detail ?? body;
  if (typeof inner === "string") return new ApiError(inner, "", answer.status, body);
  if (Array.isArray(inner)) return new ApiError(inner.map((e) => e.msg).join("; "), "", answer.status, body);
  const what = inner?.what ?? inner?.message ?? t("error.status", { n: answer.status });
  return new ApiError(what, inner?.remedy ?? "", answer.status, body);
}

async function json(answer) {
  return answer.status === 204 ? null : answer.json();
}

export const api = {
  get: (path, options) => request("GET", path, undefined, options).then(json),
  post: (path, body = {}, options) => request("POST", path, body, options).then(json),
  patch: (path, body, options) => request("PATCH", path, body, options).then(json),
  put: (path, body, options) => request("PUT", path, body, options).then(json),
  delete: (path, body, options) => request("DELETE", path, body, options).then(json),
  text: (path, options) => request("GET", path, undefined, options).then((answer) => answer.text()),
  blob: (path, options) => request("GET", path, undefined, options).then((answer) => answer.blob()),
  /** The JSON values of an NDJSON answer, as they come. */
  async *lines(path, body, options) {
    const answer = await request(body === undefined ? "GET" : "POST", path, body, options);
    for await (const line of textLines(answer.body)) if (line.trim()) yield JSON.parse(line);
  },
  /** The events of an SSE answer, as they come: {id, event, data}. Not taken up again; `follow` does that. */
  async *events(path, body, options) {
    const answer = await request(body === undefined ? "GET" : "POST", path, body, options);
    yield* eventsOf(answer.body);
  },
};

async function* textLines(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) break;
      const lines = (rest + value).split(/\r?\n/);
      rest = lines.pop();
      yield* lines;
    }
    if (rest) yield rest;
  } finally {
    reader.cancel().catch(() => {});
  }
}

async function* eventsOf(stream) {
  let event = { data: "" };
  for await (const line of textLines(stream)) {
    if (line === "") {
      if (event.data) yield { id: event.id, event: event.event ?? "message", data: JSON.parse(event.data) };
      event = { data: "" };
    } else if (line.startsWith(":")) {
      yield null; // the server's sign of life
    } else {
      const [, field, value] = /^(\w+): ?(.*)$/s.exec(line) ?? [];
      if (field === "data") event.data += (event.data ? "\n" : "") + value;
      else if (field === "event" || field === "id") event[field] = value;
    }
  }
}

const SILENCE = 30_000; // ms without even a sign of life, after which the line is taken for dead
const LONGEST_PAUSE = 8_000;

/**
 * Follow a stream of events until the server ends it or `signal` aborts; after a break go on from the last event seen.
 * event({id, event, data}) returns true where nothing more will come; state("open" | "reconnecting").
 * Rejects with ApiError where the server refuses.
 */
export async function follow(path, { event, state = () => {}, signal }) {
  let last;
  let pause = 500;
  for (;;) {
    const attempt = new AbortController();
    const stop = () => attempt.abort();
    signal?.addEventListener("abort", stop);
    let alarm;
    const alive = () => {
      clearTimeout(alarm);
      alarm = setTimeout(stop, SILENCE);
    };
    try {
      alive();
      const more = last === undefined ? {} : { "Last-Event-ID": last };
      const answer = await request("GET", path, undefined, { signal: attempt.signal, headers: more });
      state("open");
      for await (const one of eventsOf(answer.body)) {
        alive();
        pause = 500;
        if (one === null) continue;
        if (one.id !== undefined) last = one.id;
        if (event(one)) return;
      }
    } catch (error) {
      if (error instanceof ApiError && error.status >= 400 && error.status < 500 && error.status !== 429) throw error;
    } finally {
      clearTimeout(alarm);
      attempt.abort();
      signal?.removeEventListener("abort", stop);
    }
    if (signal?.aborted) return;
    state("reconnecting");
    await new Promise((resolve) => {
      const timer = setTimeout(resolve, pause);
      const now = () => {
        clearTimeout(timer);
        resolve();
      };
      signal?.addEventListener("abort", now, { once: true });
      window.addEventListener("online", now, { once: true });
    });
    if (signal?.aborted) return;
    pause = Math.min(pause * 2, LONGEST_PAUSE);
  }
}
