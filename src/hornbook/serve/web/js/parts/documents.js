// The documents of a collection: those on their way, those being read, those that can be searched, and what went wrong.

import { api, follow } from "../api.js";
import { html, useCallback, useEffect, useRef, useState } from "../html.js";
import { bytes, t } from "../i18n.js";
import { Button, IconButton } from "./button.js";
import { confirm, prompt } from "./dialog.js";
import { DropTarget } from "./drop_target.js";
import { take } from "./handed.js";
import { Icon } from "./icons.js";
import { announce, complain } from "./toast.js";
import { upload } from "./upload.js";

const PAGE = 100; // rows that are asked for at once
let count = 0;

export function Documents({ name, collection, extent, onChange }) {
  const path = `/kb/${encodeURIComponent(name)}`;
  const [documents, setDocuments] = useState(null);
  const [total, setTotal] = useState(0);
  const [moving, setMoving] = useState([]); // {key, path, size, state: "sending" | "failed" | "skipped", fraction, reason, remedy}
  const [job, setJob] = useState(null);
  const [onlyFailed, setOnlyFailed] = useState(false);
  const stop = useRef(new AbortController());
  const watching = useRef(false);
  const soon = useRef(null);

  const read = useCallback(async (offset = 0) => {
    const query = new URLSearchParams({ offset, limit: PAGE, ...(onlyFailed ? { state: "failed" } : {}) });
    try {
      const answer = await api.get(`${path}/documents?${query}`);
      setTotal(answer.total);
      setDocuments((before) => (offset ? merged(before, answer.documents) : answer.documents));
    } catch (error) {
      complain(error);
    }
  }, [onlyFailed]);

  /** Hear of jobs and documents until nothing is left to do. */
  const watch = useCallback(async () => {
    if (watching.current) return;
    watching.current = true;
    try {
      await follow(`${path}/jobs/events`, {
        signal: stop.current.signal,
        event({ event, data }) {
          if (event === "job") setJob(data);
          if (event === "document") {
            setDocuments((before) => merged(before, [data], true));
            soon.current ??= setTimeout(() => {
              soon.current = null;
              onChange(); // what is ready can be asked, while the rest is still being read
            }, 1000);
          }
          return event === "idle";
        },
      });
    } catch (error) {
      complain(error);
    }
    watching.current = false;
    clearTimeout(soon.current);
    soon.current = null;
    if (stop.current.signal.aborted) return;
    setJob(null);
    announce(t("kb.ready"));
    read();
    onChange();
  }, [read]);

  useEffect(() => void read(), [onlyFailed]);
  useEffect(() => {
    const dropped = take(name);
    if (dropped) add(dropped);
    return () => stop.current.abort();
  }, []);
  useEffect(() => {
    if (collection.busy) watch();
  }, [collection.busy]);

  const change = (one, changes) =>
    setMoving((rows) => rows.map((row) => (row.key === one.key ? { ...row, ...changes } : row)));

  const add = async ({ files, failed = [] }) => {
    const rows = files.map((one) => ({ ...one, key: (count += 1), size: one.file.size, state: "sending", fraction: 0 }));
    const bad = failed.map((one) => ({ key: (count += 1), path: one.name, size: 0, state: "failed", reason: one.reason }));
    setMoving((before) => [...before.filter((row) => row.state === "sending"), ...bad, ...rows]);
    announce(t("kb.sending", { n: rows.length }));
    await upload(name, rows, {
      progress: (one, fraction) => change(one, { fraction }),
      taken(batch, answer) {
        setMoving((before) => [...before.filter((row) => !batch.some((one) => one.key === row.key)), ...refused(answer)]);
        setDocuments((before) => merged(before, answer.documents, true));
        if (answer.job) watch();
      },
      failed(batch, error) {
        for (const one of batch) change(one, { state: "failed", reason: error.what, remedy: error.remedy });
      },
    }, stop.current.signal);
    onChange();
  };

  const addUrl = async () => {
    const url = await prompt(t("kb.url"), { label: t("kb.url.label"), text: t("kb.url.text"), yes: t("kb.url.add") });
    if (!url?.trim()) return;
    const row = { key: (count += 1), path: url.trim(), size: 0, state: "fetching" };
    setMoving((rows) => [...rows, row]);
    try {
      const answer = await api.post(`${path}/documents/url`, { url: url.trim() });
      setMoving((rows) => [...rows.filter((one) => one.key !== row.key), ...refused(answer)]);
      setDocuments((before) => merged(before, answer.documents, true));
      watch();
      onChange();
    } catch (error) {
      change(row, { state: "failed", reason: error.what, remedy: error.remedy });
    }
  };

  const remove = async (document) => {
    const sure = await confirm(t("kb.remove", { name: document.name }), t("kb.remove.text"), { yes: t("delete"), danger: true });
    if (!sure) return;
    try {
      await api.delete(`${path}/documents/${encodeURIComponent(document.id)}`);
      setDocuments((before) => before.filter((one) => one.id !== document.id));
      setTotal((n) => n - 1);
      announce(t("kb.removed", { name: document.name }));
      onChange();
    } catch (error) {
      complain(error);
    }
  };

  const empty = documents?.length === 0 && !moving.length && !onlyFailed;
  return html`<section class="stack" aria-labelledby="documents-title">
    <div class="row wrap">
      <h2 id="documents-title">${t("kb.documents.title")}</h2>
      <span class="quiet small grow">${extent}</span>
      ${collection.failed > 0 && html`<label class="row small"><input type="checkbox" checked=${onlyFailed}
        onChange=${(event) => setOnlyFailed(event.target.checked)} />${t("kb.only.failed", { n: collection.failed })}</label>`}
    </div>
    <${DropTarget} onFiles=${add} slim=${!empty}>
      <${Button} icon="link" onClick=${addUrl}>${t("kb.url")}<//>
    <//>
    ${job && html`<${Job} job=${job} path=${path} />`}
    ${moving.length > 0 && html`<ul class="documents moving" aria-label=${t("kb.moving")}>
      ${moving.map((row) => html`<${Moving} key=${row.key} row=${row}
        onAway=${() => setMoving((rows) => rows.filter((one) => one.key !== row.key))} />`)}</ul>`}
    ${documents === null && html`<p class="quiet">${t("loading")}</p>`}
    ${documents?.length > 0 && html`<ul class="documents" aria-label=${t("kb.documents.title")}>
      ${documents.map((one) => html`<${Document} key=${one.id} document=${one} path=${path} onRemove=${() => remove(one)} />`)}</ul>`}
    ${documents && documents.length < total && html`<p><${Button} onClick=${() => read(documents.length)}>
      ${t("kb.more", { n: total - documents.length })}<//></p>`}
  </section>`;
}

/** Rows by id: what is known keeps its place and takes the news; what is new comes first, or last. */
function merged(before, news, first = false) {
  const known = new Map((before ?? []).map((one) => [one.id, one]));
  const fresh = news.filter((one) => !known.has(one.id));
  for (const one of news) if (known.has(one.id)) known.set(one.id, { ...known.get(one.id), ...one });
  return first ? [...fresh, ...known.values()] : [...known.values(), ...fresh];
}

/** What the server did not take, as rows that say why. */
function refused(answer) {
  return [
    ...(answer.errors ?? []).map((one) => ({ key: (count += 1), path: one.name, state: "failed", reason: one.error, remedy: one.remedy })),
    ...(answer.skipped ?? []).map((one) => ({ key: (count += 1), path: one.name, state: "skipped", reason: one.reason })),
    ...(answer.documents ?? []).filter((one) => one.duplicate).map((one) => ({ key: (count += 1), path: one.name, state: "skipped", reason: t("kb.duplicate") })),
  ];
}

function Moving({ row, onAway }) {
  const ended = row.state === "failed" || row.state === "skipped";
  return html`<li class="document ${row.state}">
    <${Icon} name=${row.state === "failed" ? "warning" : "file"} />
    <div class="grow"><div class="cut" title=${row.path}>${row.path}</div>
      ${row.state === "sending" && html`<progress max="1" value=${row.fraction} aria-label=${t("kb.sending.one", { name: row.path })}></progress>`}
      ${row.state === "fetching" && html`<div class="quiet small">${t("kb.fetching")}</div>`}
      ${ended && html`<div class="small ${row.state === "failed" ? "red" : "quiet"}">${row.reason}${row.remedy && html` <span class="quiet">${row.remedy}</span>`}</div>`}
    </div>
    ${row.size > 0 && html`<span class="quiet small">${bytes(row.size)}</span>`}
    ${ended && html`<${IconButton} icon="close" label=${t("kb.dismiss", { name: row.path })} onClick=${onAway} />`}
  </li>`;
}

function Document({ document, path, onRemove }) {
  const { name, folder, state } = document;
  // Not a plain link: where the server wants a key, only a request of ours carries it.
  const download = async () => {
    try {
      const address = URL.createObjectURL(await api.blob(`${path}/documents/${encodeURIComponent(document.id)}/file`));
      Object.assign(window.document.createElement("a"), { href: address, download: name }).click();
      setTimeout(() => URL.revokeObjectURL(address), 60_000);
    } catch (error) {
      complain(error);
    }
  };
  const facts = [
    bytes(document.size),
    document.pages ? t("kb.pages", { n: document.pages }) : "",
    state === "ready" ? t("kb.passages", { n: document.passages }) : "",
  ].filter(Boolean).join(" · ");
  return html`<li class="document ${state}">
    <${Icon} name=${state === "failed" ? "warning" : "file"} />
    <div class="grow">
      <div class="cut" title=${folder ? `${folder}/${name}` : name}>${folder && html`<span class="quiet">${folder}/</span>`}${name}</div>
      <div class="small quiet">${facts}</div>
      ${state === "failed" && html`<div class="small red">${document.error}</div>`}
    </div>
    ${(state === "waiting" || state === "reading") && html`<span class="tag">${t(`kb.state.${state}`)}</span>`}
    <${IconButton} icon="download" label=${t("kb.download", { name })} onClick=${download} />
    <${IconButton} icon="trash" label=${t("kb.remove", { name })} onClick=${onRemove} />
  </li>`;
}

function Job({ job, path }) {
  if (job.state !== "queued" && job.state !== "running") return null;
  const stop = () => api.delete(`${path}/jobs/${encodeURIComponent(job.id)}`).catch(complain);
  const said = job.state === "queued" ? t("kb.stage.waiting") : t(`kb.stage.${job.stage || "looking"}`);
  return html`<div class="job row">
    <div class="grow">
      <div class="small cut">${said}${job.file ? ` ${job.file}` : ""}${job.total ? ` · ${job.done}/${job.total}` : ""}</div>
      <progress max=${job.total || 1} value=${job.total ? job.done : undefined} aria-label=${said}></progress>
    </div>
    <${Button} icon="stop" onClick=${stop}>${t("stop")}<//>
  </div>`;
}
