// A question to a collection, or a search in it: one field, two ways, answers below, the latest first.

import { api } from "../api.js";
import { html, useEffect, useRef, useState } from "../html.js";
import { t } from "../i18n.js";
import { memory } from "../state.js";
import { Button, IconButton } from "./button.js";
import { Cited, Writing } from "./cited.js";
import { Hits } from "./hits.js";
import { announce } from "./toast.js";

const kept = new Map(); // collection -> what was asked of it while this page is open

export function Asking({ name, passages, busy: reading }) {
  const path = `/kb/${encodeURIComponent(name)}`;
  const [way, setWay] = useState(memory.get("kb-way", "ask"));
  const [strict, setStrict] = useState(memory.get("kb-strict", true));
  const [asked, setAsked] = useState(kept.get(name) ?? []);
  const [text, setText] = useState(memory.get(`kb-draft.${name}`, ""));
  const running = useRef(null);
  const field = useRef(null);

  useEffect(() => {
    kept.set(name, asked.filter((one) => one.state !== "running"));
  }, [asked]);
  useEffect(() => () => running.current?.abort(), []);
  const write = (value) => {
    setText(value);
    memory.set(`kb-draft.${name}`, value);
  };
  const choose = (value) => {
    setWay(value);
    memory.set("kb-way", value);
    field.current.focus();
  };

  const submit = async (event) => {
    event?.preventDefault();
    const question = text.trim();
    if (!question) return field.current.focus();
    if (!passages) return announce(t(reading ? "ask.being.read" : "ask.nothing.yet"));
    running.current?.abort();
    const stop = new AbortController();
    running.current = stop;
    const key = Date.now();
    const change = (changes) =>
      setAsked((all) => all.map((one) => (one.key === key ? { ...one, ...(typeof changes === "function" ? changes(one) : changes) } : one)));
    setAsked((all) => [{ key, way, question, state: "running", text: "", draft: "" }, ...all.filter((one) => one.state !== "running")].slice(0, 20));
    announce(t(way === "ask" ? "ask.asking" : "ask.searching"));
    try {
      if (way === "search") {
        const found = await api.post(`${path}/search`, { query: question, k: 10 }, { signal: stop.signal });
        change({ state: "done", hits: found.hits, searched: found.searched });
        announce(t("search.found", { n: found.hits.length }));
      } else {
        await stream(`${path}/ask`, { question, strict, stream: true }, stop.signal, change);
      }
      write("");
    } catch (error) {
      // Whatever happens, what was typed stays in the field.
      if (error.name === "AbortError") change({ state: "stopped" });
      else change({ state: "failed", problem: error });
    } finally {
      if (running.current === stop) running.current = null;
    }
  };
  const keys = (event) => {
    if (event.isComposing) return;
    if (event.key === "Enter" && !event.shiftKey) submit(event);
    else if (event.key === "Escape" && running.current) {
      running.current.abort();
      event.preventDefault();
      event.stopPropagation();
    } else if (event.key === "ArrowUp" && !text && asked.length) {
      write(asked[0].question);
      event.preventDefault();
    }
  };

  const busy = asked[0]?.state === "running";
  return html`<section class="stack" aria-label=${t("ask.title")}>
    <form class="asking" onSubmit=${submit}>
      <label class="unseen" for="question">${t(way === "ask" ? "ask.label" : "ask.search.label")}</label>
      <textarea id="question" ref=${field} rows="2" value=${text} placeholder=${t(way === "ask" ? "ask.hint" : "ask.search.hint")}
        onInput=${(event) => write(event.target.value)} onKeyDown=${keys}></textarea>
      <div class="row wrap">
        <div class="ways" role="group" aria-label=${t("ask.way")}>
          ${["ask", "search"].map((one) => html`<button type="button" key=${one} aria-pressed=${String(way === one)}
            onClick=${() => choose(one)}>${t(`ask.way.${one}`)}</button>`)}
        </div>
        ${way === "ask" && html`<label class="row small" title=${t("ask.loose.title")}><input type="checkbox" checked=${!strict}
          onChange=${(event) => { setStrict(!event.target.checked); memory.set("kb-strict", !event.target.checked); }} />${t("ask.loose")}</label>`}
        ${busy
          ? html`<${Button} icon="stop" onClick=${() => running.current?.abort()}>${t("stop")}<//>`
          : html`<button type="submit" class="button main" disabled=${!passages}>${t(`ask.way.${way}`)}</button>`}
      </div>
    </form>
    ${!passages && html`<p class="quiet small">${t(reading ? "ask.being.read" : "ask.nothing.yet")}</p>`}
    ${asked.map((one) => html`<${Asked} key=${one.key} one=${one} collection=${name} reading=${reading}
      onAway=${() => setAsked((all) => all.filter((other) => other.key !== one.key))} />`)}
  </section>`;
}

async function stream(path, body, signal, change) {
  for await (const one of api.events(path, body, { signal })) {
    if (one === null) continue;
    const { event, data } = one;
    if (event === "retrieval") change({ hits: data.hits, searched: data.searched, answers: data.answers });
    else if (event === "draft") change((before) => ({ draft: before.draft + data.text }));
    else if (event === "token") change((before) => ({ text: before.text + data.text, draft: "" }));
    else if (event === "answer") {
      change({ state: "done", answer: data, searched: data.searched });
      announce(data.abstained ? t("ask.abstained") : data.answer);
      return;
    } else if (event === "error") {
      const error = data.error ?? data;
      throw Object.assign(new Error(error.message), { what: error.message, remedy: error.remedy });
    }
  }
  throw Object.assign(new Error(t("ask.cut")), { what: t("ask.cut"), remedy: t("error.unreached.remedy") });
}

function Asked({ one, collection, reading, onAway }) {
  const { searched, answer, state } = one;
  return html`<article class="asked" aria-busy=${String(state === "running")}>
    <header class="row"><h3 class="grow">${one.question}</h3>
      ${state !== "running" && html`<${IconButton} icon="close" label=${t("ask.dismiss")} onClick=${onAway} />`}</header>
    ${state === "failed" && html`<div class="notice error" role="alert">${one.problem.what ?? one.problem.message} <span class="quiet">${one.problem.remedy}</span></div>`}
    ${state === "stopped" && html`<p class="quiet">${one.text} ${t("ask.stopped")}</p>`}
    ${state === "running" && html`<p class="quiet small">${searched ? t("ask.reading", { n: searched.passages, hits: searched.hits }) : t("ask.searching")}</p>
      ${(one.text || one.draft) && html`<p class="cited-text"><${Writing} text=${one.text} /> <span class="draft">${one.draft}</span></p>`}`}
    ${one.way === "search" && state === "done" && html`<${Hits} hits=${one.hits} searched=${searched} collection=${collection} />`}
    ${answer?.abstained && html`<${Abstained} one=${one} collection=${collection} reading=${reading} />`}
    ${answer && !answer.abstained && html`<${Cited} answer=${answer} collection=${collection} />
      ${answer.withheld.length > 0 && html`<details class="withheld"><summary>${t("ask.withheld", { n: answer.withheld.length })}</summary>
        <ul>${answer.withheld.map((sentence) => html`<li class="unsupported">${sentence.text}</li>`)}</ul></details>`}`}
    ${answer && html`<${Foot} answer=${answer} />`}
  </article>`;
}

/** A state of its own: what was searched, and the passages that came nearest, which is often what was meant. */
function Abstained({ one, collection, reading }) {
  const { documents, passages } = one.answer.searched;
  return html`<div class="notice warn abstained">
      <p><strong>${t("ask.abstained")}</strong></p>
      <p class="small">${t("ask.abstained.searched", { n: passages, documents })}${reading && ` ${t("ask.abstained.reading")}`}</p>
    </div>
    ${one.hits?.length > 0 && html`<details><summary>${t("ask.nearest")}</summary>
      <${Hits} hits=${one.hits} collection=${collection} /></details>`}`;
}

function Foot({ answer }) {
  const seconds = answer.timings?.total;
  return html`<p class="quiet small">${[
    answer.model,
    seconds ? t("seconds", { n: Math.max(0.1, seconds) }) : "",
    answer.searched ? t("ask.searched", { n: answer.searched.passages, documents: answer.searched.documents }) : "",
  ].filter(Boolean).join(" · ")}</p>`;
}
