// The first thing a newcomer sees: what this is, the model that is ready or how it gets here, and where files are dropped.

import { api, follow } from "../api.js";
import { attach } from "../attachments.js";
import { refreshHouse } from "../house.js";
import { html, useEffect, useRef, useState } from "../html.js";
import { bytes, t } from "../i18n.js";
import { house, useCell } from "../state.js";
import { thread } from "../thread.js";
import { Button } from "./button.js";
import { filesOfInput } from "./dropped.js";
import { modelOf } from "./pickers.js";
import { complain } from "./toast.js";

export function Welcome() {
  const status = useCell(house);
  const chosen = useRef(null);
  const choose = (event) => {
    const picked = filesOfInput(event.target);
    event.target.value = "";
    if (picked.length) attach({ files: picked });
  };
  return html`<section class="welcome">
    <h1>${t("welcome")}</h1>
    <p class="quiet">${t("welcome.text")}</p>
    ${status && html`<${Ready} status=${status} />`}
    <div class="welcome-drop">
      <span>${t("welcome.drop")}</span>
      <button type="button" class="text-button" onClick=${() => chosen.current.click()}>${t("welcome.choose")}</button>
      <input type="file" multiple hidden ref=${chosen} onChange=${choose} data-role="welcome" aria-label=${t("welcome.choose")} />
    </div>
  </section>`;
}

function Ready({ status }) {
  const { settings } = useCell(thread);
  const name = modelOf(settings, status);
  if (name !== null) return html`<p class="ready"><span class="ready-dot" aria-hidden="true"></span>${t("welcome.ready", { name })}</p>`;
  if (status.offline) return html`<p class="notice warn">${t("welcome.none")} ${t("welcome.offline")}</p>`;
  return html`<${Pull} name=${status.usual} size=${status.usual_download} />`;
}

/** The usual model on its way, with what has come of it; taken up again after a reload. */
function Pull({ name, size }) {
  const [job, setJob] = useState(null);
  const [problem, setProblem] = useState(null);
  const stop = useRef(new AbortController());

  const watch = (begun) => {
    setJob(begun);
    setProblem(null);
    follow(`/api/hornbook/jobs/${begun.id}/events`, {
      signal: stop.current.signal,
      event({ data }) {
        setJob(data);
        if (data.state === "running" || data.state === "stopping") return false;
        if (data.state === "failed") setProblem(data.error);
        setJob(null);
        refreshHouse();
        return true;
      },
    }).catch((error) => {
      setJob(null);
      complain(error);
    });
  };
  useEffect(() => {
    api.get("/api/hornbook/jobs").then(({ jobs }) => {
      const running = jobs.find((one) => one.kind === "pull" && one.name === name && one.state === "running");
      if (running) watch(running);
    }, () => {});
    return () => stop.current.abort();
  }, []);
  const pull = () => api.post("/api/hornbook/jobs/pull", { source: name }).then(watch, complain);

  if (job) {
    const known = job.total > 0;
    return html`<div class="pull" role="status">
      <span>${known ? t("welcome.pulling", { name, done: bytes(job.done), total: bytes(job.total) }) : t("welcome.pulling.begun", { name })}</span>
      <progress max=${known ? job.total : undefined} value=${known ? job.done : undefined} aria-label=${name}></progress>
    </div>`;
  }
  return html`<div class="pull">
    <p>${t("welcome.none")}</p>
    ${problem && html`<p class="notice error" role="alert">${problem.what ?? problem} ${problem.remedy}</p>`}
    <p><${Button} kind="main" icon="download" onClick=${pull}>${t("welcome.pull", { name, size: bytes(size) })}<//></p>
  </div>`;
}
