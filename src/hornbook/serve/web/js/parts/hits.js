// Passages that a search found, the words of the query marked in them.

import { html } from "../html.js";
import { t } from "../i18n.js";
import { openSource, placeOf } from "./source.js";
import { cut } from "./spans.js";

export function Hits({ hits, searched, collection }) {
  const all = hits.map((hit) => ({ ...hit, quote: hit.text }));
  return html`
    ${searched && html`<p class="quiet small">${t("search.found", { n: hits.length })} · ${t("ask.searched", { n: searched.passages, documents: searched.documents })}</p>`}
    <ol class="hits">${all.map((hit) => html`<li key=${hit.n}>
      <button type="button" class="source-link" onClick=${() => openSource(hit, { collection, citations: all })}>
        <span class="grow"><span class="source-file">${hit.document.name}</span>
          ${placeOf(hit) && html` <span class="quiet small">${placeOf(hit)}</span>`}
          <span class="hit-text">${cut(hit.text, hit.spans).map((part) => (part.marked ? html`<mark>${part.text}</mark>` : part.text))}</span></span>
      </button></li>`)}</ol>`;
}
