// The list of conversations in the rail: newest first, a page at a time, or what a search found.

import { api } from "./api.js";
import { cell, link } from "./state.js";

const PAGE = 50;
const STILL_WRITING = 3000; // ms until the list is asked for again where a reply is being written
const ROOT = "/api/hornbook/conversations";

export const list = cell(null); // null: not known yet; else [{id, title, updated, writing, snippet}]
export const more = cell(false); // older ones are there
export const query = cell("");

let asked = 0;
let soon = null;

export async function refresh() {
  const mine = (asked += 1);
  const text = query.get().trim();
  const known = text ? 0 : (list.get()?.length ?? 0);
  const limit = Math.max(PAGE, known);
  try {
    const found = await api.get(`${ROOT}?limit=${limit + 1}${text ? `&search=${encodeURIComponent(text)}` : ""}`);
    if (mine !== asked) return; // a later question is under way
    more.set(found.length > limit);
    list.set(found.slice(0, limit));
    clearTimeout(soon);
    if (found.some((one) => one.writing)) soon = setTimeout(refresh, STILL_WRITING);
  } catch {
    if (list.get() === null) list.set([]); // the frame says that the server is away
  }
}

export async function older() {
  const known = list.get() ?? [];
  const last = known.at(-1);
  if (!last) return;
  const text = query.get().trim();
  const before = `&before=${last.updated}&before_id=${last.id}`;
  const found = await api.get(`${ROOT}?limit=${PAGE + 1}${before}${text ? `&search=${encodeURIComponent(text)}` : ""}`);
  more.set(found.length > PAGE);
  list.set([...known, ...found.slice(0, PAGE)]);
}

export async function rename(id, title) {
  await api.patch(`${ROOT}/${id}`, { title });
  await refresh();
}

export async function remove(id) {
  await api.delete(`${ROOT}/${id}`);
  list.set((known) => (known ?? []).filter((one) => one.id !== id));
}

/** Save the conversation as a file: form "markdown" or "json". */
export async function save(id, form) {
  const blob = await api.blob(`${ROOT}/${id}/export?form=${form}`);
  const anchor = document.createElement("a");
  anchor.href = URL.createObjectURL(blob);
  const title = list.get()?.find((one) => one.id === id)?.title || "conversation";
  anchor.download = `${title.replace(/[\\/:*?"<>|\s\u0000-\u001f]+/g, " ").trim().slice(0, 60)}.${form === "markdown" ? "md" : "json"}`;
  anchor.click();
  setTimeout(() => URL.revokeObjectURL(anchor.href), 10_000);
}

document.addEventListener("visibilitychange", () => document.visibilityState === "visible" && refresh());
link.watch((state) => state === "open" && refresh());
