// A model of one's own: a name and a Modelfile, checked while it is written, its fault shown at its line.

import { api } from "../api.js";
import { html, useEffect, useRef, useState } from "../html.js";
import { t } from "../i18n.js";
import { memory } from "../state.js";
import { Button } from "./button.js";
import { confirm, Dialog } from "./dialog.js";

const begin = (base) => `FROM ${base}\nSYSTEM ${t("modelfile.example")}\nPARAMETER temperature 0.7\n`;

/** text: what it opens with; "" is the draft that was left, or a small example. */
export function ModelfileForm({ text: given, models, onClose, onMade }) {
  const base = models.find((model) => model.kind === "llm")?.name ?? "smollm2:135m";
  const [name, setName] = useState("");
  const [text, setText] = useState(given || memory.get("modelfile") || begin(base));
  const [problem, setProblem] = useState(null);
  const [failed, setFailed] = useState(null);
  const [busy, setBusy] = useState(false);
  const lines = useRef(null);
  const area = useRef(null);
  const field = useRef(null);

  useEffect(() => {
    memory.set("modelfile", text);
    const stop = new AbortController();
    const timer = setTimeout(async () => {
      try {
        setProblem((await api.post("/api/hornbook/models/check", { modelfile: text }, { signal: stop.signal })).problem);
      } catch {
        // creating it will say what is wrong
      }
    }, 250);
    return () => {
      clearTimeout(timer);
      stop.abort();
    };
  }, [text]);

  const create = async (event) => {
    event?.preventDefault();
    setFailed(null);
    if (!name.trim()) return field.current.focus();
    if (models.some((model) => model.name === name.trim() && model.made_from)) {
      if (!(await confirm(t("modelfile.replace", { name: name.trim() }), t("modelfile.replace.text"), { yes: t("modelfile.replace.yes") }))) return;
    }
    setBusy(true);
    try {
      const made = await api.post("/api/hornbook/models/create", { name: name.trim(), modelfile: text });
      memory.set("modelfile", null);
      onMade(made.name);
    } catch (error) {
      setFailed(error);
      setBusy(false);
    }
  };
  const count = text.split("\n").length;
  const scroll = () => {
    lines.current.scrollTop = area.current.scrollTop;
  };
  const actions = html`<${Button} onClick=${onClose}>${t("cancel")}<//>
    <${Button} kind="main" disabled=${busy || Boolean(problem)} onClick=${create}>${t("models.create")}<//>`;
  return html`<${Dialog} title=${t("models.create")} wide onClose=${onClose} actions=${actions}>
    <form class="stack" onSubmit=${create}>
      <label class="field"><span>${t("modelfile.name")}</span>
        <input ref=${field} name="model-name" maxlength="200" value=${name} autocomplete="off" spellcheck="false" required
          onInput=${(event) => setName(event.target.value)} placeholder="terse" /></label>
      <div class="field"><label for="modelfile-text"><strong>Modelfile</strong></label>
        <div class="editor">
          <div class="editor-lines" aria-hidden="true" ref=${lines}>${Array.from({ length: count }, (_, i) => html`
            <span class=${problem?.line === i + 1 ? "wrong" : ""}>${i + 1}</span>`)}</div>
          <textarea id="modelfile-text" ref=${area} rows="10" spellcheck="false" wrap="off" value=${text} onScroll=${scroll}
            aria-invalid=${String(Boolean(problem))} aria-describedby="modelfile-problem" onInput=${(event) => setText(event.target.value)}></textarea>
        </div>
        <p id="modelfile-problem" class=${problem ? "wrong" : "note"} aria-live="polite">${problem
          ? `${problem.line ? `${t("modelfile.line", { line: String(problem.line) })} ` : ""}${problem.what}. ${problem.remedy}`
          : t("modelfile.sound")}</p>
      </div>
      ${failed && html`<div class="notice error" role="alert">${failed.what} <span class="quiet">${failed.remedy}</span></div>`}
    </form>
  <//>`;
}
