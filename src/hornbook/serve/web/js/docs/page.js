// The API's page: every operation of /openapi.json, what it takes and gives, and a way to try it.

import "../words/docs.js";
import { html, render, useEffect, useState } from "../html.js";
import { t } from "../i18n.js";
import { memory } from "../state.js";
import { operations, rows, typeOf } from "./schema.js";
import { Try } from "./try.js";

function Docs() {
  const [api, setApi] = useState(null);
  const [problem, setProblem] = useState(false);
  const [filter, setFilter] = useState("");
  const [key, setKey] = useState(memory.get("key", ""));
  const wanted = key ? { Authorization: `Bearer ${key}` } : {};
  useEffect(() => {
    const stop = new AbortController();
    const timer = setTimeout(async () => {
      try {
        const answer = await fetch("/openapi.json", { headers: wanted, signal: stop.signal });
        if (!answer.ok) throw new Error(answer.status);
        setApi(await answer.json());
        setProblem(false);
      } catch (error) {
        if (error.name !== "AbortError") setProblem(true);
      }
    }, api ? 0 : 100);
    return () => {
      clearTimeout(timer);
      stop.abort();
    };
  }, [key]);

  const text = filter.trim().toLowerCase();
  const fits = (one) => `${one.method} ${one.path} ${gist(one.about)}`.toLowerCase().includes(text);
  const groups = api ? operations(api).map(([tag, all]) => [tag, all.filter(fits)]).filter(([, all]) => all.length) : [];
  return html`<main class="docs">
    <header class="docs-head">
      <div class="grow"><h1>${t("docs.title")} ${api && html`<span class="quiet small">${api.info.version}</span>`}</h1>
        <p class="quiet">${t("docs.about")} <a href="/">${t("docs.home")}</a></p></div>
      <form onSubmit=${(event) => event.preventDefault()}><label class="field"><span>${t("docs.key")}</span><input type="password" value=${key} autocomplete="off" onInput=${(event) => setKey(event.target.value)} /></label></form>
      <label class="field"><span>${t("docs.filter")}</span><input type="search" value=${filter} placeholder=${t("docs.filter.hint")}
        onInput=${(event) => setFilter(event.target.value)} /></label>
    </header>
    ${problem && html`<div class="notice error" role="alert">${t("docs.failed")}</div>`}
    ${!api && !problem && html`<p class="quiet">${t("loading")}</p>`}
    ${api && groups.length === 0 && html`<p class="quiet" role="status">${t("docs.none")}</p>`}
    ${groups.map(([tag, all]) => html`<section key=${tag} aria-label=${tag}><h2>${tag}</h2>
      ${all.map((one) => html`<${Operation} key=${one.id} one=${one} api=${api} headers=${wanted} />`)}</section>`)}
  </main>`;
}

function Operation({ one, api, headers }) {
  const [open, setOpen] = useState(false);
  const { about, parameters, body } = one;
  return html`<details class="operation" open=${open} onToggle=${(event) => setOpen(event.currentTarget.open)}>
    <summary><span class="method ${one.method}">${one.method}</span><span class="path">${one.path}</span>
      <span class="quiet small">${gist(about)}</span></summary>
    ${open && html`<div class="inside">
      ${about.description && html`<p class="prose">${about.description}</p>`}
      ${parameters.length > 0 && html`<${Members} title=${t("docs.parameters")} list=${parameters.map((each) => ({
        name: each.name, depth: 0, type: `${typeOf(api, each.schema)} (${each.in})`, required: each.required, text: each.description ?? "", limits: "",
      }))} />`}
      ${body && html`<${Members} title=${`${t("docs.body")} · ${body.type}`} list=${rows(api, body.schema)} />`}
      <p class="small quiet">${t("docs.answers")}: ${Object.entries(about.responses ?? {}).map(([status, { description }]) => `${status} ${description}`).join(" · ")}</p>
      <${Try} one=${one} api=${api} headers=${headers} />
    </div>`}
  </details>`;
}

/** What it is for, in one line: of its description, where it has one; a bare summary is only the handler's name. */
function gist({ summary = "", description = "" }) {
  return description.trim().split(/\n|(?<=[.?!])\s/)[0] || summary;
}

function Members({ title, list }) {
  return html`<div class="scrolls" tabindex="0" role="region" aria-label=${title}><table class="members"><caption class="unseen">${title}</caption>
    <thead><tr><th scope="col">${title}</th><th scope="col">${t("docs.type")}</th><th scope="col">${t("docs.means")}</th></tr></thead>
    <tbody>${list.map((row) => html`<tr><td class=${`deep-${row.depth}`}><code>${row.name}</code>${row.required && html` <span class="quiet">${t("docs.required")}</span>`}</td>
      <td><code>${row.type}</code></td><td>${[row.text, row.limits].filter(Boolean).join(" · ")}</td></tr>`)}</tbody>
  </table></div>`;
}

render(html`<${Docs} />`, document.getElementById("app"));
