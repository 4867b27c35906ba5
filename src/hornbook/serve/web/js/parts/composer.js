// Where a question is written: Enter sends, Shift+Enter breaks the line, Esc stops, Up edits the last question. What is
// written survives a reload and every failure; it leaves the field only when the server has it.

import { attach, busy as filesBusy, files, hide } from "../attachments.js";
import { collections } from "../house.js";
import { html, useEffect, useRef, useState } from "../html.js";
import { t } from "../i18n.js";
import { live, ask, stop, thread } from "../thread.js";
import { memory, useCell } from "../state.js";
import { IconButton } from "./button.js";
import { filesOf, filesOfInput } from "./dropped.js";
import { Icon } from "./icons.js";
import { grow } from "./message.js";
import { Meter } from "./meter.js";
import { CollectionPicker, ModelPicker } from "./pickers.js";

const LONGEST = 400_000; // characters, as the server takes them

export function Composer({ onEditLast, onDrawer }) {
  const { id, settings } = useCell(thread);
  const now = useCell(live);
  const reading = useCell(filesBusy);
  const key = `draft.${id ?? "new"}`;
  const [text, setText] = useState(memory.get(key, ""));
  const [problem, setProblem] = useState("");
  const [sending, setSending] = useState(false);
  const [waits, setWaits] = useState(false); // for files to be read
  const field = useRef(null);
  const chosen = useRef(null);

  useEffect(() => {
    setText(memory.get(key, "") ?? "");
    setProblem("");
    setWaits(false);
    if (matchMedia("(hover: hover)").matches || id === null) field.current.focus();
  }, [key]);
  useEffect(() => grow(field.current, 240), [text]);
  useEffect(() => {
    if (waits && !reading) send();
  }, [waits, reading]);

  const write = (value) => {
    setText(value);
    setProblem("");
    memory.set(key, value);
  };
  const send = async () => {
    const question = text.trim();
    if (!question || sending || live.get()) return;
    if (question.length > LONGEST) {
      setProblem(t("composer.long", { n: question.length }));
      return;
    }
    if (filesBusy.get()) {
      setWaits(true);
      return;
    }
    setWaits(false);
    setSending(true);
    setProblem("");
    try {
      await ask(question);
      setText("");
      memory.set(`draft.${thread.get().id}`, null);
      files.set((rows) => rows.filter((row) => row.state === "failed")); // what could not be read is still to be seen
    } catch (error) {
      setProblem(t("composer.failed", { what: [error.what ?? error.message, error.remedy].filter(Boolean).join(" ") }));
    } finally {
      setSending(false);
      field.current?.focus();
    }
  };
  const keys = (event) => {
    if (event.isComposing || event.keyCode === 229) return;
    if (event.key === "Enter" && !event.shiftKey) send();
    else if (event.key === "Escape" && live.get()) stop();
    else if (event.key === "Escape" && waits) setWaits(false);
    else if (event.key === "ArrowUp" && !text && !live.get() && onEditLast()) return event.preventDefault();
    else return;
    event.preventDefault();
    event.stopPropagation();
  };
  const paste = async (event) => {
    if (![...event.clipboardData.items].some((item) => item.kind === "file")) return;
    event.preventDefault();
    attach(await filesOf(event.clipboardData));
  };
  const choose = (event) => {
    const picked = filesOfInput(event.target);
    event.target.value = "";
    if (picked.length) attach({ files: picked });
  };
  const named = useCell(collections).find((one) => one.name === settings.collection);
  const hint = settings.collection ? t("composer.hint.collection", { name: named?.title || settings.collection }) : t("composer.hint");

  return html`<form class="composer" onSubmit=${(event) => { event.preventDefault(); send(); }}>
    <${FileRows} />
    ${problem && html`<p class="notice error small" role="alert">${problem}</p>`}
    ${waits && html`<p class="notice small" role="status">${t("composer.waits")}</p>`}
    <${Meter} draft=${text} />
    <div class="composer-box">
      <textarea id="composer" ref=${field} rows="1" value=${text} placeholder=${hint} aria-label=${t("composer")}
        onInput=${(event) => write(event.target.value)} onKeyDown=${keys} onPaste=${paste}></textarea>
      <div class="composer-row">
        <${IconButton} icon="attach" label=${t("composer.attach")} onClick=${() => chosen.current.click()} />
        <input type="file" multiple hidden ref=${chosen} onChange=${choose} data-role="attach" aria-label=${t("composer.attach")} />
        <${ModelPicker} /><${CollectionPicker} />
        <${IconButton} icon="sliders" label=${t("drawer.open")} onClick=${onDrawer} />
        <span class="grow"></span>
        ${now
          ? html`<button type="button" class="send" aria-label=${t("composer.stop")} title=${t("composer.stop")} disabled=${now.stopping} onClick=${stop}><${Icon} name="stop" /></button>`
          : html`<button type="submit" class="send" aria-label=${t("composer.send")} title=${t("composer.send")} disabled=${!text.trim() || sending}><${Icon} name="send" /></button>`}
      </div>
    </div>
  </form>`;
}

/** The files that were dropped, each with how far it is or why it could not be read. */
function FileRows() {
  const rows = useCell(files);
  if (rows.length === 0) return null;
  return html`<ul class="file-rows" aria-label=${t("files")}>${rows.map((row) => html`
    <li key=${row.key} class="file-row" data-state=${row.state}>
      <${Icon} name=${row.state === "failed" ? "warning" : "file"} />
      <span class="file-name cut" title=${row.name}>${row.name}</span>
      <span class="file-state quiet small">${t(`file.${row.state}`)}${row.reason ? `: ${row.reason}` : ""}</span>
      ${row.state === "sending" && html`<progress max="1" value=${row.fraction} aria-label=${row.name}></progress>`}
      ${["ready", "failed"].includes(row.state) && html`<${IconButton} icon="close" label=${t("file.remove", { name: row.name })} onClick=${() => hide(row.key)} />`}
    </li>`)}</ul>`;
}
