// The drawer: the system prompt and how the next word is drawn. Kept with the conversation as they are typed.

import { html, useRef, useState } from "../html.js";
import { number, t } from "../i18n.js";
import { useCell } from "../state.js";
import { setSettings, thread } from "../thread.js";
import { Button } from "./button.js";
import { Dialog } from "./dialog.js";

const USUAL = { temperature: 0.8, top_p: 0.9, top_k: 40, min_p: 0, repetition_penalty: 1.1, max_tokens: 1024, seed: null };
const FIELDS = [
  ["temperature", 0, 2, 0.1],
  ["top_p", 0.01, 1, 0.01],
  ["top_k", 0, 1000, 1],
  ["min_p", 0, 1, 0.01],
  ["repetition_penalty", 0.5, 2, 0.05],
  ["max_tokens", 1, 1_000_000, 1],
  ["seed", 0, 2 ** 53, 1],
];

export function Drawer({ onClose }) {
  const { settings } = useCell(thread);
  const sampling = settings.sampling ?? {};
  const timer = useRef(null);
  const [system, setSystem] = useState(settings.system ?? "");
  const write = (value) => {
    setSystem(value);
    clearTimeout(timer.current);
    timer.current = setTimeout(() => setSettings({ system: value }), 400);
  };
  const close = () => {
    clearTimeout(timer.current);
    if (system !== (settings.system ?? "")) setSettings({ system });
    onClose();
  };
  const set = (name, value) => {
    const next = { ...sampling, [name]: value };
    if (value === null) delete next[name];
    setSettings({ sampling: Object.keys(next).length ? next : null });
  };
  const actions = html`<${Button} disabled=${!Object.keys(sampling).length} onClick=${() => setSettings({ sampling: null })}>${t("drawer.reset")}<//>`;
  return html`<${Dialog} title=${t("drawer")} side onClose=${close} actions=${actions}>
    <label class="field"><span>${t("drawer.system")}</span>
      <textarea rows="5" value=${system} onInput=${(event) => write(event.target.value)}></textarea>
      <span class="note">${t(settings.collection ? "drawer.system.collection" : "drawer.system.note")}</span></label>
    ${FIELDS.map(([name, least, most, step]) => html`<${NumberField} key=${name} name=${name} least=${least} most=${most} step=${step}
      value=${sampling[name] ?? null} onChange=${(value) => set(name, value)} />`)}
  <//>`;
}

function NumberField({ name, least, most, step, value, onChange }) {
  const [text, setText] = useState(null); // while it is typed, which may be wrong
  const shown = text ?? (value === null ? "" : String(value));
  const input = (event) => {
    const typed = event.target.value;
    const parsed = typed === "" ? null : Number(typed);
    const good = parsed === null || (Number.isFinite(parsed) && parsed >= least && parsed <= most && (step < 1 || Number.isInteger(parsed)));
    setText(good ? null : typed);
    if (good) onChange(parsed);
  };
  const usual = USUAL[name] === null ? t("drawer.random") : t("drawer.usual", { value: number(USUAL[name], 2) });
  return html`<label class="field"><span>${t(`drawer.${name}`)}</span>
    <input type="number" min=${least} max=${most} step=${step} value=${shown} placeholder=${usual} inputmode="decimal"
      aria-invalid=${text === null ? undefined : "true"} onInput=${input} onBlur=${() => setText(null)} />
    ${text === null ? html`<span class="note">${t(`drawer.${name}.note`)}</span>`
      : html`<span class="wrong">${t("drawer.wrong", { least, most })}</span>`}</label>`;
}
