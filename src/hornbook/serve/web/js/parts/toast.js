// Short notes at the foot of the page, and what a screen reader is told. Both are polite: nothing interrupts.

import { html } from "../html.js";
import { t } from "../i18n.js";
import { cell, useCell } from "../state.js";
import { IconButton } from "./button.js";

const toasts = cell([]);
const spoken = cell("");
let count = 0;

/** kind: "note" (goes by itself) or "error" (stays until it is closed). action: {label, run}. */
export function toast(text, { kind = "note", remedy = "", action } = {}) {
  const id = (count += 1);
  const away = () => toasts.set((all) => all.filter((one) => one.id !== id));
  toasts.set((all) => [...all.slice(-2), { id, text, kind, remedy, action, away }]);
  if (kind === "note") setTimeout(away, 5000);
  announce(remedy ? `${text} ${remedy}` : text);
}

/** An ApiError, or any other, as a note that stays. */
export function complain(error) {
  if (error?.name === "AbortError") return;
  toast(error.what ?? error.message, { kind: "error", remedy: error.remedy });
}

/** Say something to a screen reader only. The same text twice is said twice. */
export function announce(text) {
  spoken.set("");
  requestAnimationFrame(() => spoken.set(text));
}

export function Toasts() {
  const all = useCell(toasts);
  return html`<div class="toasts">
    ${all.map((one) => html`<div class="toast ${one.kind}" key=${one.id}>
      <div class="grow"><div>${one.text}</div>${one.remedy && html`<div class="quiet small">${one.remedy}</div>`}</div>
      ${one.action && html`<button type="button" class="button plain" onClick=${() => { one.away(); one.action.run(); }}>${one.action.label}</button>`}
      <${IconButton} icon="close" label=${t("close")} onClick=${one.away} />
    </div>`)}
  </div>
  <${Voice} />`;
}

function Voice() {
  const text = useCell(spoken);
  return html`<div class="unseen" role="status" aria-live="polite" id="voice">${text}</div>`;
}
