// Work that goes on in the server, followed from wherever the page is opened: pulls and measurements.

import { api, follow as events } from "../api.js";
import { html, useCallback, useEffect, useRef, useState } from "../html.js";
import { bytes, t } from "../i18n.js";
import { Button } from "./button.js";
import { announce, complain } from "./toast.js";

const runs = (job) => job.state === "running" || job.state === "stopping";

/** [jobs, follow]: those of the server, newest last; follow(job) adds one. `onEnd(job)` when one is done. */
export function useJobs(onEnd) {
  const [jobs, setJobs] = useState([]);
  const stop = useRef(null);
  stop.current ??= new AbortController();
  const known = useRef(new Set());

  const put = (job) => setJobs((all) => (all.some((one) => one.id === job.id) ? all.map((one) => (one.id === job.id ? job : one)) : [...all, job]));
  const follow = useCallback((job) => {
    put(job);
    if (known.current.has(job.id) || !runs(job)) return;
    known.current.add(job.id);
    events(`/api/hornbook/jobs/${encodeURIComponent(job.id)}/events`, {
      signal: stop.current.signal,
      event({ data }) {
        put(data);
        if (runs(data)) return false;
        announce(t(`job.${data.state}`, { name: data.name }));
        onEnd(data);
        return true;
      },
    }).catch(complain);
  }, []);

  useEffect(() => {
    api.get("/api/hornbook/jobs").then((answer) => answer.jobs.forEach(follow), complain);
    return () => stop.current.abort();
  }, []);
  return [jobs, follow];
}

export function stopJob(job) {
  return api.delete(`/api/hornbook/jobs/${encodeURIComponent(job.id)}`).catch(complain);
}

/** A pull: how far it is, or why it ended. */
export function JobLine({ job }) {
  if (job.state === "failed") {
    return html`<div class="notice error" role="alert"><strong>${job.name}</strong>: ${job.error.what} <span class="quiet">${job.error.remedy}</span></div>`;
  }
  if (job.state === "cancelled") return html`<p class="quiet small">${t("job.cancelled", { name: job.name })} ${t("job.kept")}</p>`;
  const amount = job.total ? `${bytes(job.done)} / ${bytes(job.total)}` : job.done ? bytes(job.done) : "";
  return html`<div class="job row">
    <div class="grow"><div class="small cut">${job.name} <span class="quiet">${amount}</span></div>
      <progress max=${job.total || 1} value=${job.total ? job.done : undefined} aria-label=${t("job.pulling", { name: job.name })}></progress></div>
    <${Button} icon="stop" disabled=${job.state === "stopping"} onClick=${() => stopJob(job)}>${t("stop")}<//>
  </div>`;
}
