// How full the model's context is: shown only past 60 %, with what the model would no longer be shown.

import { api } from "../api.js";
import { html, useEffect, useState } from "../html.js";
import { number, t } from "../i18n.js";
import { useCell } from "../state.js";
import { branch, live, thread } from "../thread.js";

const SHOWN = 0.6;
const ASKED = 0.45; // from this guess on the server is asked, which counts
const NAMED = 60; // characters of a message that is left out

export function Meter({ draft }) {
  const now = useCell(thread);
  const writing = useCell(live);
  const [counted, setCounted] = useState(null); // {tokens, context, dropped}, or {error}: too long by itself
  const { id, leaf, settings } = now;
  const path = branch(now);
  const last = path.findLast?.((message) => message.facts?.usage && message.facts.context);

  useEffect(() => {
    setCounted(null);
    if (writing || settings.collection || !last) return undefined; // of a first question nothing can be left out
    const { usage, context } = last.facts;
    const guess = (usage.prompt_tokens + usage.completion_tokens + draft.length / 3) / context;
    if (guess < ASKED) return undefined;
    const stop = new AbortController();
    const timer = setTimeout(() => {
      api.post(`/api/hornbook/conversations/${id}/context`, { leaf, draft, settings }, { signal: stop.signal }).then(setCounted, (error) => error.status === 400 && setCounted({ error }));
    }, 500);
    return () => {
      clearTimeout(timer);
      stop.abort();
    };
  }, [id, leaf, draft, Boolean(writing), settings]);

  if (!counted) return null;
  if (counted.error) return html`<p class="notice warn small">${counted.error.what} ${counted.error.remedy}</p>`;
  const { tokens, context, dropped } = counted;
  const share = tokens / context;
  if (share < SHOWN && !dropped) return null;
  const gone = path.slice(0, dropped).map((message) => `“${message.content.trim().slice(0, NAMED)}${message.content.trim().length > NAMED ? "…" : ""}”`);
  const what = gone.length > 2 ? t("meter.more", { what: gone.slice(0, 2).join(", "), n: gone.length - 2 }) : gone.join(", ");
  const percent = number(Math.min(100, 100 * share), 0);
  return html`<div class="meter" data-dropped=${String(dropped)}>
    <div class="meter-bar" role="meter" aria-valuemin="0" aria-valuemax="100" aria-valuenow=${percent} aria-label=${t("meter", { percent })}><div ref=${(bar) => bar && (bar.style.width = `${Math.min(100, 100 * share)}%`)}></div></div>
    <p class="small"><span class="quiet">${t("meter", { percent })}</span>${dropped > 0 && html` <span class="meter-dropped">${t("meter.dropped", { what })}</span>`}</p>
  </div>`;
}
