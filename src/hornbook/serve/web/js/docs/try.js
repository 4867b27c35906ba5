// One operation, sent for real: its parameters and body as fields, its answer as it comes.

import { html, useEffect, useRef, useState } from "../html.js";
import { t } from "../i18n.js";
import { Button } from "../parts/button.js";
import { example, resolve, typeOf } from "./schema.js";

const SHOWN = 200_000; // characters of an answer

export function Try({ one, api, headers }) {
  const { parameters, body, method } = one;
  const form = body?.type === "multipart/form-data";
  const [values, setValues] = useState({});
  const [text, setText] = useState(() => (body && !form ? JSON.stringify(example(api, body.schema) ?? {}, null, 2) : ""));
  const [answer, setAnswer] = useState(null); // {status, ms, text}
  const [wrong, setWrong] = useState("");
  const [copied, setCopied] = useState(false);
  const running = useRef(null);
  const fields = useRef(null);
  useEffect(() => () => running.current?.abort(), []);

  const address = () => {
    const query = new URLSearchParams();
    let path = one.path;
    for (const each of parameters) {
      const value = values[each.name] ?? "";
      if (each.in === "path") path = path.replace(`{${each.name}}`, encodeURIComponent(value));
      else if (each.in === "query" && value !== "") query.set(each.name, value);
    }
    return path + (query.size ? `?${query}` : "");
  };
  const send = async (event) => {
    event.preventDefault();
    setWrong("");
    let data;
    if (form) {
      data = new FormData();
      for (const input of fields.current.querySelectorAll("[data-part]")) {
        if (input.type === "file") for (const file of input.files) data.append(input.dataset.part, file);
        else if (input.value) data.append(input.dataset.part, input.value);
      }
    } else if (body) {
      try {
        data = JSON.stringify(JSON.parse(text));
      } catch (error) {
        return setWrong(t("docs.json.wrong", { why: error.message }));
      }
    }
    running.current?.abort();
    const stop = new AbortController();
    running.current = stop;
    const begun = performance.now();
    const ms = () => Math.round(performance.now() - begun);
    setAnswer({ running: true, text: "" });
    try {
      const came = await fetch(address(), {
        method, body: data, signal: stop.signal, headers: { ...headers, ...(data && !form ? { "Content-Type": body.type } : {}) },
      });
      let whole = "";
      const reader = came.body.pipeThrough(new TextDecoderStream()).getReader();
      for (;;) {
        const { value, done } = await reader.read();
        if (done) break;
        whole += value;
        if (whole.length > SHOWN) {
          whole = `${whole.slice(0, SHOWN)}\n…`;
          stop.abort();
          break;
        }
        setAnswer({ running: true, status: came.status, ms: ms(), text: whole });
      }
      setAnswer({ status: came.status, ms: ms(), text: pretty(whole) });
    } catch (error) {
      if (error.name === "AbortError") setAnswer((before) => before && { ...before, running: false });
      else setAnswer({ status: 0, ms: ms(), text: t("error.unreached") });
    }
  };
  const copy = async () => {
    const quoted = (word) => `'${word.replaceAll("'", "'\\''")}'`;
    const key = headers.Authorization ? ` -H ${quoted("Authorization: Bearer $KEY").replaceAll("'", '"')}` : "";
    const payload = body && !form ? ` -H 'Content-Type: ${body.type}' -d ${quoted(text)}` : "";
    await navigator.clipboard.writeText(`curl -X ${method} ${quoted(location.origin + address())}${key}${payload}`);
    setCopied(true);
    setTimeout(() => setCopied(false), 1500);
  };

  const busy = answer?.running;
  const taken = parameters.filter((each) => each.in === "path" || each.in === "query");
  return html`<form class="try" onSubmit=${send} ref=${fields}><h3>${t("docs.try")}</h3>
    ${taken.length > 0 && html`<div class="inputs">${taken.map((each) => html`<label class="field" key=${each.name}><span>${each.name}</span>
      <input value=${values[each.name] ?? ""} required=${each.required} placeholder=${typeOf(api, each.schema)} autocomplete="off"
        onInput=${(event) => setValues({ ...values, [each.name]: event.target.value })} /></label>`)}</div>`}
    ${form && html`<div class="inputs">${Object.entries(resolve(api, body.schema).properties ?? {}).map(([name, schema]) => html`<label class="field" key=${name}><span>${name}</span>
      ${/file|array/.test(typeOf(api, schema)) ? html`<input type="file" multiple data-part=${name} />` : html`<input data-part=${name} />`}</label>`)}</div>`}
    ${body && !form && html`<label class="field"><span>${t("docs.json")}</span>
      <textarea rows=${Math.min(16, text.split("\n").length + 1)} spellcheck="false" value=${text} onInput=${(event) => setText(event.target.value)}></textarea></label>`}
    ${wrong && html`<p class="notice error" role="alert">${wrong}</p>`}
    <div class="row">
      ${busy ? html`<${Button} icon="stop" onClick=${() => running.current.abort()}>${t("docs.stop")}<//>` : html`<button type="submit" class="button main">${t("docs.send")}</button>`}
      <${Button} icon="copy" onClick=${copy}>${copied ? t("docs.copied") : t("docs.curl")}<//>
      <span class="quiet small" role="status">${answer && (answer.status === undefined ? t("docs.sending") : t("docs.status", { status: String(answer.status), n: answer.ms }))}</span>
    </div>
    ${answer?.text && html`<pre class="answer" tabindex="0" aria-label=${t("docs.answer")}>${answer.text}</pre>`}
  </form>`;
}

function pretty(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}
