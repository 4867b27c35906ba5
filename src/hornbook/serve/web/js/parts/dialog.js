// Modal dialogs, on the browser's own <dialog>: it holds the focus, gives it back, and closes with Esc.

import { html, useLayoutEffect, useRef } from "../html.js";
import { t } from "../i18n.js";
import { cell, useCell } from "../state.js";
import { Button, IconButton } from "./button.js";

let count = 0;

/** side: as a drawer at the right edge. */
export function Dialog({ title, onClose, children, actions, side = false, wide = false }) {
  const box = useRef(null);
  const id = useRef(`dialog-${(count += 1)}`);
  useLayoutEffect(() => {
    const dialog = box.current;
    const before = document.activeElement;
    dialog.showModal();
    return () => {
      if (dialog.open) dialog.close();
      if (before instanceof HTMLElement && before.isConnected) before.focus();
    };
  }, []);
  const outside = (event) => {
    if (event.target === box.current) onClose();
  };
  return html`<dialog ref=${box} class="dialog ${side ? "drawer" : ""} ${wide ? "wide" : ""}" aria-labelledby=${id.current}
      onCancel=${(event) => { event.preventDefault(); onClose(); }} onMouseDown=${outside}>
    <div class="dialog-box">
      <header class="dialog-head">
        <h2 id=${id.current}>${title}</h2>
        <${IconButton} icon="close" label=${t("close")} onClick=${onClose} />
      </header>
      <div class="dialog-body">${children}</div>
      ${actions && html`<footer class="dialog-foot">${actions}</footer>`}
    </div>
  </dialog>`;
}

const asked = cell(null);

function ask(question) {
  return new Promise((resolve) => asked.set({ ...question, resolve }));
}

/** Whether the person agrees. `danger`: what is agreed to cannot be undone. */
export const confirm = (title, text, { yes, danger = false } = {}) => ask({ title, text, yes, danger });

/** What the person types, or null. `secret`: not shown. */
export const prompt = (title, { text = "", value = "", label, yes, secret = false } = {}) =>
  ask({ title, text, value, label: label ?? title, yes, secret, input: true });

/** Where confirm and prompt are drawn; once, in app.js. */
export function Asker() {
  const question = useCell(asked);
  const field = useRef(null);
  if (!question) return null;
  const answer = (value) => {
    asked.set(null);
    question.resolve(value);
  };
  const no = () => answer(question.input ? null : false);
  const yes = () => answer(question.input ? field.current.value : true);
  const submit = (event) => {
    event.preventDefault();
    yes();
  };
  const actions = html`
    <${Button} autofocus=${!question.input && question.danger} onClick=${no}>${t("cancel")}<//>
    <${Button} autofocus=${!question.input && !question.danger} kind=${question.danger ? "danger" : "main"} onClick=${yes}>${question.yes ?? t("ok")}<//>`;
  return html`<${Dialog} title=${question.title} onClose=${no} actions=${actions}>
    ${question.text && html`<p>${question.text}</p>`}
    ${question.input && html`<form onSubmit=${submit}><label class="field"><span class="unseen">${question.label}</span>
      <input ref=${field} autofocus onFocus=${(event) => event.target.select()} type=${question.secret ? "password" : "text"} value=${question.value} autocomplete="off" />
    </label></form>`}
  <//>`;
}
