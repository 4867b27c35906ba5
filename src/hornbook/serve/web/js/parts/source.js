// The source pane: the passage behind a citation, highlighted where it stands, with what stands around it.
//
//   openSource(citation, {collection: "papers", citations: [...]})     beside whatever is shown
//
// A citation is what the server calls one: {n, document: {id, name, folder, title}, page, section, start, end, quote}.
// A search hit without n will do. `citations` are those that next and previous go through; default: this one alone.

import { html, useEffect, useLayoutEffect, useRef, useState } from "../html.js";
import { api } from "../api.js";
import { t, useLanguage } from "../i18n.js";
import { source } from "../state.js";
import { IconButton } from "./button.js";
import { segments } from "./spans.js";
import "../words/knowledge.js";

const AROUND = 1500; // characters before and after, at first
const WIDER = 4; // times as much, each time that more is asked for

export function openSource(citation, { collection, citations = [citation] }) {
  const focus = document.activeElement;
  const before = source.get();
  source.set({
    collection,
    citations,
    at: Math.max(0, citations.indexOf(citation)),
    back: before?.back?.isConnected && !focus?.closest?.("main") ? before.back : focus,
  });
}

export function closeSource() {
  source.set(null);
}

/** "p. 7 · Results", as much of it as is known. */
export function placeOf({ page, section }) {
  return [page ? t("source.page", { page: String(page) }) : "", section].filter(Boolean).join(" · ");
}

/** The frame's right column while `source` holds something; its members are the props. */
export function SourcePane({ collection, citations, at, back, onClose = closeSource }) {
  useLanguage();
  const citation = citations[at];
  const [around, setAround] = useState(AROUND);
  const [shown, setShown] = useState(null);
  const [problem, setProblem] = useState(null);
  const body = useRef(null);
  const title = useRef(null);
  const kept = useRef(null); // where the mark stood before more was fetched

  useEffect(() => {
    const stop = new AbortController();
    const { id } = citation.document;
    const query = new URLSearchParams({ start: citation.start, end: citation.end, around });
    const path = `/kb/${encodeURIComponent(collection)}/documents/${encodeURIComponent(id)}/text?${query}`;
    setProblem(null);
    api.get(path, { signal: stop.signal }).then(
      (text) => setShown({ citation, text }),
      (error) => error.name !== "AbortError" && setProblem(error),
    );
    return () => stop.abort();
  }, [collection, citation, around]);

  useEffect(() => {
    title.current.focus({ preventScroll: true });
  }, [citation]);
  useEffect(() => () => {
    // Closed by whatever: the focus goes back to the chip, if nothing else has taken it.
    if (!source.get() && back?.isConnected) back.focus({ preventScroll: true });
  }, [back]);

  useLayoutEffect(() => {
    const mark = body.current?.querySelector("mark");
    if (!mark) return;
    const top = mark.getBoundingClientRect().top - body.current.getBoundingClientRect().top;
    body.current.scrollTop += top - (kept.current ?? body.current.clientHeight / 3);
    kept.current = null;
  }, [shown]);

  const more = () => {
    const mark = body.current.querySelector("mark");
    kept.current = mark.getBoundingClientRect().top - body.current.getBoundingClientRect().top;
    setAround(around * WIDER);
  };
  const turn = (step) => {
    setAround(AROUND);
    source.set({ ...source.get(), at: (at + step + citations.length) % citations.length });
  };
  const keys = (event) => {
    if (event.key === "Escape") onClose();
    else if (citations.length > 1 && event.altKey && event.key === "ArrowLeft") turn(-1);
    else if (citations.length > 1 && event.altKey && event.key === "ArrowRight") turn(1);
    else return;
    event.preventDefault();
    event.stopPropagation();
  };

  const { name, folder } = citation.document;
  const current = shown?.citation === citation ? shown.text : null;
  return html`<aside class="pane source" aria-label=${t("source.title")} onKeyDown=${keys}>
    <header class="source-head">
      <div class="grow">
        <h2 class="source-name" tabindex="-1" ref=${title}>${folder && html`<span class="quiet">${folder}/</span>`}${name}</h2>
        <div class="quiet small">${placeOf(citation) || t("source.whole")}</div>
      </div>
      <${IconButton} icon="close" label=${t("source.close")} onClick=${onClose} />
    </header>
    ${citations.length > 1 && html`<nav class="source-turn" aria-label=${t("source.others")}>
      <${IconButton} icon="left" label=${t("source.previous")} onClick=${() => turn(-1)} />
      <span class="small" aria-live="polite">${t("source.of", { at: String(at + 1), n: citations.length })}</span>
      <${IconButton} icon="right" label=${t("source.next")} onClick=${() => turn(1)} />
    </nav>`}
    <div class="source-body" ref=${body} tabindex="0" role="region" aria-label=${t("source.text")}>
      ${problem && html`<p class="problem" role="alert">${problem.what} <span class="quiet">${problem.remedy}</span></p>`}
      ${!current && !problem && html`<p class="quiet">${t("loading")}</p>`}
      ${current && html`
        ${current.before_start > 0 && html`<button type="button" class="source-more" onClick=${more}>${t("source.above")}</button>`}
        <${Text} text=${current} />
        ${current.after_end < current.length && html`<button type="button" class="source-more" onClick=${more}>${t("source.below")}</button>`}`}
    </div>
  </aside>`;
}

/** The text as it was read, its pages and headings shown as such, the quoted span marked. */
function Text({ text }) {
  return html`<div class="source-text">${segments(text).map((part) => html`
    ${part.page && html`<span class="source-page">${t("source.page.whole", { page: String(part.page) })}</span>`}
    ${part.marked ? html`<mark class=${part.kind}>${part.text}</mark>` : html`<span class=${part.kind}>${part.text}</span>`}`)}</div>`;
}
