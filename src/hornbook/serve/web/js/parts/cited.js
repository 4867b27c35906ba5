// An answer whose sentences carry their sources: numbered chips, a quote under the pointer, a dotted line where none is.

import { html, useLayoutEffect, useRef, useState } from "../html.js";
import { t } from "../i18n.js";
import { openSource, placeOf } from "./source.js";
import "../words/knowledge.js";

/** `citation`: what the chip stands for; null while the answer is still written, when only its number is known. */
export function Chip({ n, citation, collection, citations }) {
  const [near, setNear] = useState(false);
  const button = useRef(null);
  if (!citation) return html`<span class="chip pending">${n}</span>`;
  const place = [citation.document.name, placeOf(citation)].filter(Boolean).join(", ");
  const close = (event) => {
    if (event.key === "Escape" && near) {
      setNear(false);
      event.stopPropagation();
    }
  };
  return html`<span class="chip-box" onMouseEnter=${() => setNear(true)} onMouseLeave=${() => setNear(false)} onKeyDown=${close}>
    <button type="button" class="chip" ref=${button} aria-label=${t("cite.label", { at: String(n), place })}
      onFocus=${() => button.current.matches(":focus-visible") && setNear(true)} onBlur=${() => setNear(false)}
      onClick=${() => { setNear(false); openSource(citation, { collection, citations }); }}>${n}</button>
    ${near && html`<${Quote} citation=${citation} place=${place} button=${button} />`}
  </span>`;
}

/** Beside its chip and inside the window; the pointer may rest on it. */
function Quote({ citation, place, button }) {
  const box = useRef(null);
  useLayoutEffect(() => {
    const chip = button.current.getBoundingClientRect();
    const { offsetWidth: width, offsetHeight: height } = box.current;
    box.current.style.left = `${Math.max(8, Math.min(chip.left - 16, innerWidth - width - 8))}px`;
    const under = chip.bottom + height + 8 < innerHeight;
    box.current.style.top = `${under ? chip.bottom : Math.max(8, chip.top - height)}px`;
  }, []);
  return html`<span class="quote-card" role="tooltip" ref=${box}>
    <span class="quote-text">${citation.quote}</span>
    <span class="quiet small">${place}</span>
  </span>`;
}

/** A sentence whose last word stays on one line with its chips: [all but that word, the word]. */
function held(text) {
  const word = /[!-\u2e7f]{1,24}$/.exec(text)?.[0] ?? Array.from(text).at(-1) ?? "";
  return [text.slice(0, text.length - word.length), word];
}

/** A checked answer: {sentences, citations}. */
export function Cited({ answer, collection }) {
  const { citations } = answer;
  const chips = (sentence) => sentence.citations.map((n) => {
    const citation = citations.find((one) => one.n === n);
    return html`<${Chip} key=${n} n=${n} citation=${citation} citations=${citations} collection=${collection} />`;
  });
  const words = (sentence, after = "") => {
    const [most, last] = held(sentence.text + after);
    return html`${most}<span class="held">${last}${chips(sentence)}</span>`;
  };
  const bare = answer.sentences.some((sentence) => !sentence.citations.length);
  return html`<div class="cited">
    <p class="cited-text">${answer.sentences.map((sentence) => {
      if (sentence.quoted) return html`<span>${t("ask.says")}“${words(sentence, "”")}</span> `;
      if (sentence.citations.length) return html`<span>${words(sentence)}</span> `;
      return html`<span class="unsupported" title=${t("ask.unsupported")}>${sentence.text}<span class="unseen"> (${t("ask.unsupported")})</span></span> `;
    })}</p>
    ${bare && html`<p class="quiet small"><span class="unsupported" aria-hidden="true">${t("ask.dotted")}</span> ${t("ask.dotted.means")}</p>`}
    ${citations.length > 0 && html`<ol class="sources" aria-label=${t("ask.sources")}>
      ${citations.map((citation) => html`<li key=${citation.n}>
        <button type="button" class="source-link" onClick=${() => openSource(citation, { collection, citations })}>
          <span class="chip" aria-hidden="true">${citation.n}</span>
          <span class="grow"><span class="source-file">${citation.document.name}</span>
            ${placeOf(citation) && html` <span class="quiet small">${placeOf(citation)}</span>`}
            <span class="source-quote quiet small">${citation.quote}</span></span>
        </button>
      </li>`)}
    </ol>`}
  </div>`;
}

/** What is written so far, its [n] as numbers that will be chips. */
export function Writing({ text }) {
  const pieces = text.split(/\[(\d+)\]/);
  return pieces.map((piece, i) => (i % 2 ? html`<span class="chip pending">${piece}</span>` : piece));
}
