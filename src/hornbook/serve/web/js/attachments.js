// Files that are dropped into a conversation: they become a collection, which the conversation then asks.
//
//   files   [{key, name, state: "sending" | "waiting" | "reading" | "ready" | "failed", fraction, reason}]
//   busy    whether some are still on their way or being read

import { api, follow } from "./api.js";
import { refreshHouse } from "./house.js";
import { t } from "./i18n.js";
import { announce, complain } from "./parts/toast.js";
import { upload } from "./parts/upload.js";
import { cell } from "./state.js";
import { setSettings, thread } from "./thread.js";

export const files = cell([]);
export const busy = cell(false);

const LONGEST = 32; // characters of a file's name in its collection's title
let count = 0;
let stop = new AbortController();

/** Forget what is shown; what was sent stays in its collection. */
export function clear() {
  stop.abort();
  stop = new AbortController();
  files.set([]);
  busy.set(false);
}

export const hide = (key) => files.set((rows) => rows.filter((row) => row.key !== key));

const change = (wanted, changes) => files.set((rows) => rows.map((row) => (wanted(row) ? { ...row, ...changes } : row)));

/** Add [{file, path}] to the conversation's collection, or to a new one that it then asks. */
export async function attach({ files: given, failed = [] }) {
  const rows = given.map((one) => ({ ...one, key: (count += 1), name: one.path, state: "sending", fraction: 0 }));
  const bad = failed.map((one) => ({ key: (count += 1), name: one.name, state: "failed", reason: one.reason }));
  files.set((before) => [...before.filter((row) => row.state !== "failed"), ...bad, ...rows]);
  if (rows.length === 0) return;
  busy.set(true);
  const mine = stop.signal;
  try {
    let name = thread.get().settings.collection;
    if (!name) {
      const made = await api.post("/kb", { title: titleOf(rows) });
      name = made.name;
      setSettings({ collection: name });
      refreshHouse();
    }
    await upload(name, rows, {
      progress: (one, fraction) => change((row) => row.key === one.key, { fraction }),
      taken: (batch, answer) => taken(batch, answer),
      failed: (batch, error) => change((row) => batch.some((one) => one.key === row.key), { state: "failed", reason: error.what }),
    }, mine);
    if (files.get().some((row) => row.state === "waiting")) await read(name, mine);
    await refreshHouse();
    const ready = files.get().filter((row) => row.state === "ready").length;
    if (!mine.aborted) announce(`${t("collection.files", { n: ready })}: ${t("file.ready")}`);
  } catch (error) {
    change((row) => row.state === "sending" || row.state === "waiting", { state: "failed", reason: error.what ?? error.message });
    if (!mine.aborted) complain(error);
  } finally {
    if (!mine.aborted) busy.set(false);
  }
}

function titleOf(rows) {
  const stem = rows[0].file.name.replace(/\.[^.]+$/, "");
  const name = stem.length > LONGEST ? `${stem.slice(0, LONGEST - 1)}…` : stem;
  return rows.length === 1 ? name : t("files.title", { name, n: rows.length - 1, all: rows.length });
}

/** The server has them, or says why not: each of its documents is matched with the file of that name. */
function taken(batch, { documents = [], errors = [], skipped = [] }) {
  for (const one of batch) {
    const refusal = errors.find((each) => each.name === one.path || each.name === one.file.name);
    const passed = skipped.find((each) => each.name === one.path || each.name === one.file.name);
    const document = documents.find((each) => each.name === one.file.name);
    const changes = refusal ? { state: "failed", reason: refusal.error }
      : passed ? { state: "failed", reason: passed.reason }
      : document ? { document: document.id, ...stateOf(document) }
      : { state: "ready" }; // an archive: its files are documents of their own names
    change((row) => row.key === one.key, changes);
  }
}

const stateOf = (document) =>
  document.state === "failed" ? { state: "failed", reason: document.error } : { state: document.state };

async function read(collection, signal) {
  await follow(`/kb/${encodeURIComponent(collection)}/jobs/events`, {
    signal,
    event({ event, data }) {
      if (event === "document") change((row) => row.document === data.id, stateOf(data));
      return event === "idle";
    },
  });
  // what was read between two looks
  for (const row of files.get().filter((one) => one.document && !["ready", "failed"].includes(one.state))) {
    const document = await api.get(`/kb/${encodeURIComponent(collection)}/documents/${row.document}`);
    change((one) => one.key === row.key, stateOf(document));
  }
}
