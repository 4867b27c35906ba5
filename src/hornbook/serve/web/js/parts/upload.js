// Files on their way into a collection: a few at a time, with how far each of them is.

import { ApiError } from "../api.js";
import { t } from "../i18n.js";
import { memory } from "../state.js";

const TOGETHER = 16; // files in one request,
const BYTES = 16 * 2 ** 20; // and bytes, but for one that is larger by itself

function batches(files) {
  const found = [];
  let size = Infinity;
  for (const one of files) {
    if (size + one.file.size > BYTES || found.at(-1).length >= TOGETHER) {
      found.push([]);
      size = 0;
    }
    found.at(-1).push(one);
    size += one.file.size;
  }
  return found;
}

/**
 * Send [{file, path}] to a collection. on.progress(one, fraction) as each goes; on.taken(batch, answer) with the server's
 * {documents, skipped, errors}; on.failed(batch, error) where a request failed, after which the next one is tried.
 */
export async function upload(collection, files, on, signal) {
  for (const batch of batches(files)) {
    if (signal?.aborted) return;
    try {
      on.taken(batch, await send(collection, batch, on.progress, signal));
    } catch (error) {
      if (error.name === "AbortError") return;
      on.failed(batch, error);
      if (error.status === 404 || error.status === 401 || error.status === 0) return;
    }
  }
}

/** One request. fetch cannot tell how much of a body has gone; XMLHttpRequest can. */
function send(collection, batch, progress, signal) {
  const form = new FormData();
  for (const { file, path } of batch) form.append("files", file, path);
  const request = new XMLHttpRequest();
  return new Promise((done, fail) => {
    request.open("POST", `/kb/${encodeURIComponent(collection)}/documents`);
    const key = memory.get("key");
    if (key) request.setRequestHeader("Authorization", `Bearer ${key}`);
    request.responseType = "json";
    request.upload.onprogress = ({ loaded }) => {
      let left = loaded;
      for (const one of batch) {
        progress(one, one.file.size ? Math.max(0, Math.min(1, left / one.file.size)) : 1);
        left -= one.file.size;
      }
    };
    request.onload = () => {
      const answer = request.response;
      // 422: nothing could be taken, and each file's reason is there as in an answer that took some.
      if (request.status < 300 || (request.status === 422 && answer?.errors)) return done(answer);
      const error = answer?.error ?? {};
      fail(new ApiError(error.message ?? error.what ?? t("error.status", { n: request.status }), error.remedy, request.status));
    };
    request.onerror = () => fail(new ApiError(t("error.unreached"), t("error.unreached.remedy")));
    request.onabort = () => fail(Object.assign(new Error("aborted"), { name: "AbortError" }));
    signal?.addEventListener("abort", () => request.abort(), { once: true });
    request.send(form);
  });
}
