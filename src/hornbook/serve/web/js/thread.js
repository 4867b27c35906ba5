// One conversation as the page has it: its messages, the branch that is shown, and the reply that is being written.
//
//   state   {id, title, messages, leaf, settings, loading, missing, error}
//   live    null, or the reply under way: {id, text, thought, draft, phase, link, began, first, tokens}

import { ApiError, api, follow } from "./api.js";
import { refresh } from "./conversations.js";
import { refreshHouse } from "./house.js";
import { t } from "./i18n.js";
import { sentences } from "./parts/markdown.js";
import { announce, complain } from "./parts/toast.js";
import { cell, go, memory } from "./state.js";

const ROOT = "/api/hornbook/conversations";
const DRAWN_EVERY = 40; // ms between two looks at a text that grows
const SPOKEN_EVERY = 2500; // ms between two things that a screen reader is told of it

const EMPTY = { id: null, title: "", messages: [], leaf: null, settings: {}, loading: false, missing: false, error: null };

export const thread = cell(EMPTY);
export const live = cell(null);

let following = null;
let changes = 0; // of our own making: what was asked for before one is out of date when it comes

const change = (more) => thread.set((now) => ({ ...now, ...more }));

/** What the next new conversation begins with: the model chosen last, and how it was to write. */
function usualSettings() {
  return memory.get("settings", {}) ?? {};
}

/** Show a conversation, or with null a new one. */
export async function open(id) {
  if (id === thread.get().id && (id !== null || !thread.get().messages.length)) {
    if (id === null && !Object.keys(thread.get().settings).length) change({ settings: usualSettings() });
    if (id !== null && following === null && !thread.get().loading) await load(id);
    return;
  }
  leave();
  thread.set({ ...EMPTY, id, loading: id !== null, settings: id === null ? usualSettings() : {} });
  if (id !== null) await load(id);
}

// Another window may have gone on with it meanwhile.
document.addEventListener("visibilitychange", () => {
  const { id, loading, missing } = thread.get();
  if (document.visibilityState === "visible" && id !== null && !loading && !missing && following === null) load(id);
});

export function leave() {
  following?.abort();
  following = null;
  live.set(null);
}

export async function load(id = thread.get().id) {
  const before = changes;
  try {
    const found = await api.get(`${ROOT}/${encodeURIComponent(id)}`);
    if (thread.get().id !== id || changes !== before) return;
    take(found);
    if (found.writing) watch(id);
  } catch (error) {
    if (thread.get().id !== id) return;
    change({ loading: false, missing: error.status === 404, error: error.status === 404 ? null : error });
  }
}

function take({ title, messages, leaf, settings }) {
  change({ title, messages, leaf, settings, loading: false, missing: false, error: null });
}

/** The messages of the branch that is shown, first question first. */
export function branch({ messages, leaf } = thread.get()) {
  const known = new Map(messages.map((message) => [message.id, message]));
  const path = [];
  for (let at = known.get(leaf); at; at = known.get(at.parent)) path.unshift(at);
  return path;
}

/** The versions of a message, oldest first, itself among them. */
export const versions = (message, { messages } = thread.get()) =>
  messages.filter((other) => other.parent === message.parent && other.role === message.role);

/** Show another version, down to what was written last below it. */
export async function choose(message) {
  let leaf = message;
  for (;;) {
    const below = thread.get().messages.filter((other) => other.parent === leaf.id);
    if (below.length === 0) break;
    leaf = below.at(-1);
  }
  change({ leaf: leaf.id });
  await api.patch(`${ROOT}/${thread.get().id}`, { leaf: leaf.id }).catch(complain);
}

export function setSettings(more) {
  const settings = { ...thread.get().settings, ...more };
  for (const key of Object.keys(settings)) if (settings[key] === null || settings[key] === "") delete settings[key];
  change({ settings });
  const { collection, ...kept } = settings;
  memory.set("settings", kept);
  if (thread.get().id) api.patch(`${ROOT}/${thread.get().id}`, { settings }).catch(complain);
}

/** Ask at the end of the branch. Rejects where the server did not take it: nothing has changed then. */
export async function ask(question) {
  let { id } = thread.get();
  if (id === null) {
    const made = await api.post(ROOT, { settings: thread.get().settings });
    if (thread.get().id !== null) return; // the person has gone elsewhere meanwhile
    id = made.id;
    change({ id });
    memory.set(`draft.${id}`, memory.get("draft.new"));
    memory.set("draft.new", null);
    go(`/c/${id}`);
  }
  await reply(thread.get().leaf, question);
}

/** Another version of a question, and a reply to it. */
export const editQuestion = (message, question) => reply(message.parent, question);

/** Another reply to the question that this one answers. */
export const regenerate = (message) => reply(message.parent, undefined);

async function reply(parent, question) {
  const { id, settings } = thread.get();
  changes += 1;
  const begun = await api.post(`${ROOT}/${id}/reply`, { parent, question, settings });
  changes += 1;
  if (thread.get().id !== id) return;
  const more = [begun.question, begun.reply].filter(Boolean);
  const others = thread.get().messages.filter((one) => !more.some((other) => other.id === one.id)); // a look at the list may have seen them
  change({ messages: [...others, ...more], leaf: begun.reply.id, title: thread.get().title || (question ?? "") });
  announce(t("reply.begun"));
  watch(id);
  refresh();
}

export async function stop() {
  const { id } = thread.get();
  if (!live.get() || !id) return;
  live.set((now) => now && { ...now, stopping: true });
  try {
    const found = await api.post(`${ROOT}/${id}/stop`);
    if (thread.get().id !== id) return;
    leave();
    take(found);
    announce(t("reply.stopped"));
    refresh();
  } catch (error) {
    live.set((now) => now && { ...now, stopping: false });
    complain(error);
  }
}

/** Follow the reply that is being written in this conversation, to its end. */
function watch(id) {
  leave();
  const mine = new AbortController();
  following = mine;
  const now = { id: null, text: "", thought: "", draft: "", phase: { name: "waiting" }, link: "open", began: Date.now(), first: null, tokens: 0 };
  const voice = { rest: "", said: 0, waiting: [] };
  let timer = null;
  const show = () => {
    timer = null;
    if (following === mine) live.set({ ...now });
  };
  const soon = () => (timer ??= setTimeout(show, DRAWN_EVERY));
  const speak = (piece, all = false) => {
    const [whole, rest] = sentences(voice.rest + piece);
    voice.rest = rest;
    voice.waiting.push(...whole, ...(all && rest.trim() ? [rest] : []));
    if (voice.waiting.length && (all || Date.now() - voice.said > SPOKEN_EVERY)) {
      announce(voice.waiting.splice(0).join(" "));
      voice.said = Date.now();
    }
  };
  const hear = ({ event, data }) => {
    if (following !== mine) return true;
    if (event === "state") {
      const { message } = data;
      Object.assign(now, { id: message.id, text: message.content, thought: message.facts.thought ?? "", draft: "", phase: data.phase, began: message.created * 1000 });
      show();
    } else if (event === "phase") {
      now.phase = data;
      if (data.name === "writing") now.first = Date.now();
    } else if (event === "text") {
      now.text += data.text;
      now.draft = "";
      now.tokens += 1;
      speak(data.text);
    } else if (event === "thought") {
      now.thought += data.text;
      now.tokens += 1;
    } else if (event === "draft") {
      now.draft += data.text;
    } else if (event === "done") {
      clearTimeout(timer);
      speak("", true);
      ended(data);
      return true;
    } else if (event === "idle") {
      clearTimeout(timer);
      following = null;
      live.set(null);
      load(id);
      return true;
    }
    soon();
    return false;
  };
  live.set({ ...now });
  follow(`${ROOT}/${id}/events`, {
    signal: mine.signal,
    event: hear,
    state(link) {
      now.link = link;
      soon();
    },
  }).catch((error) => {
    if (following !== mine) return;
    leave();
    if (error instanceof ApiError && error.status === 404) change({ missing: true });
    else complain(error);
  });
}

function ended({ message, title }) {
  following = null;
  const { messages } = thread.get();
  change({ messages: messages.map((one) => (one.id === message.id ? message : one)), title: title || thread.get().title });
  live.set(null);
  if (message.state === "failed") announce(`${t("reply.failed")} ${message.facts.error?.what ?? ""}`);
  else announce(t("reply.done"));
  refresh();
  refreshHouse();
}
