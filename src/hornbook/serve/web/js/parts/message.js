// A question and a reply as the thread shows them.

import "../words/chat.js";
import { collections } from "../house.js";
import { html, useEffect, useRef, useState } from "../html.js";
import { number, t } from "../i18n.js";
import { choose, editQuestion, regenerate, versions } from "../thread.js";
import { Button, IconButton } from "./button.js";
import { Cited, Writing } from "./cited.js";
import { Hits } from "./hits.js";
import { Icon } from "./icons.js";
import { Markdown, copyText } from "./markdown.js";
import { complain } from "./toast.js";

export function Question({ message, editing, onEdit, busy }) {
  if (editing) return html`<${Editor} message=${message} onEnd=${() => onEdit(null)} />`;
  return html`<article class="turn question" aria-label=${t("you")} data-id=${message.id}>
    <div class="asked-text">${message.content}</div>
    <div class="acts">
      <${Versions} message=${message} busy=${busy} />
      <${IconButton} icon="edit" label=${t("question.edit")} disabled=${busy} onClick=${() => onEdit(message.id)} />
      <${CopyButton} label=${t("question.copy")} text=${message.content} />
    </div>
  </article>`;
}

function Editor({ message, onEnd }) {
  const [text, setText] = useState(message.content);
  const [sending, setSending] = useState(false);
  const field = useRef(null);
  useEffect(() => {
    field.current.focus();
    field.current.setSelectionRange(text.length, text.length);
  }, []);
  useEffect(() => grow(field.current, 400), [text]);
  const send = async () => {
    if (!text.trim() || sending) return;
    setSending(true);
    try {
      await editQuestion(message, text.trim());
      onEnd();
    } catch (error) {
      setSending(false);
      complain(error);
    }
  };
  const keys = (event) => {
    if (event.isComposing) return;
    if (event.key === "Enter" && !event.shiftKey) send();
    else if (event.key === "Escape") onEnd();
    else return;
    event.preventDefault();
    event.stopPropagation();
  };
  return html`<article class="turn question editing" aria-label=${t("question.edit")}>
    <textarea ref=${field} value=${text} aria-label=${t("question.edit")} onInput=${(event) => setText(event.target.value)} onKeyDown=${keys}></textarea>
    <div class="row end">
      <${Button} onClick=${onEnd}>${t("cancel")}<//>
      <${Button} kind="main" disabled=${!text.trim() || sending} onClick=${send}>${t("question.send")}<//>
    </div>
  </article>`;
}

/** A reply that is done, or failed, or was stopped. */
export function Reply({ message, collection, busy, last }) {
  const { content, facts, state } = message;
  const again = () => regenerate(message).catch(complain);
  const cited = facts.answer && state === "done";
  return html`<article class="turn reply" aria-label=${t("assistant")} data-id=${message.id} data-state=${state}>
    ${facts.dropped > 0 && html`<p class="notice warn small">${t("reply.dropped", { n: facts.dropped })}</p>`}
    ${facts.thought && html`<${Thought} text=${facts.thought} />`}
    ${cited ? html`<${FromDocuments} answer=${facts.answer} collection=${facts.collection ?? collection} />`
      : content && html`<${Markdown} text=${content} />`}
    ${state === "done" && !content.trim() && html`<p class="quiet">${t("reply.empty")}</p>`}
    ${state === "failed" && html`<div class="notice error">
      <p><strong>${t("reply.failed")}</strong> ${facts.error?.what}</p>
      ${facts.error?.remedy && html`<p class="quiet small">${facts.error.remedy}</p>`}
      ${last && html`<p class="row"><${Button} icon="again" disabled=${busy} onClick=${again}>${t("retry")}<//></p>`}
    </div>`}
    ${state === "interrupted" && html`<div class="notice warn"><p>${t("reply.interrupted")}</p>
      ${last && html`<p class="row"><${Button} icon="again" disabled=${busy} onClick=${again}>${t("retry")}<//></p>`}</div>`}
    ${facts.finish === "length" && html`<p class="quiet small">${t("reply.length")}</p>`}
    <div class="acts">
      <${Versions} message=${message} busy=${busy} />
      ${content && html`<${CopyButton} label=${t("reply.copy")} text=${content} />`}
      <${IconButton} icon="again" label=${t("reply.regenerate")} disabled=${busy} onClick=${again} />
      <span class="facts">${factsOf(message)}</span>
    </div>
  </article>`;
}

function factsOf({ facts, state }) {
  const { answer, usage, seconds } = facts;
  // what documents answer comes when it is checked: the model's own time is told apart
  const writing = answer ? answer.timings?.generate - (answer.timings?.read ?? 0) : seconds && seconds.total - seconds.first;
  const named = collections.get().find((one) => one.name === facts.collection);
  return [
    facts.model,
    named?.title || facts.collection,
    writing > 0 && usage?.completion_tokens > 1 && t("reply.speed", { n: number((usage.completion_tokens - 1) / writing, 0) }),
    seconds && t("reply.seconds", { n: seconds.total }),
    state === "stopped" && t("reply.stopped.note"),
  ].filter(Boolean).join(" · ");
}

/** The documents' answer: cited, or that there is none, with what was searched and what came nearest. */
function FromDocuments({ answer, collection }) {
  if (!answer.abstained) {
    return html`<${Cited} answer=${answer} collection=${collection} />
      ${answer.withheld?.length > 0 && html`<details class="withheld"><summary>${t("ask.withheld", { n: answer.withheld.length })}</summary>
        <ul>${answer.withheld.map((sentence) => html`<li class="unsupported">${sentence.text}</li>`)}</ul></details>`}`;
  }
  const { documents, passages } = answer.searched;
  return html`<div class="notice warn abstained">
      <p><strong>${t("ask.abstained")}</strong></p>
      <p class="small">${t("ask.abstained.searched", { n: passages, documents })}</p>
    </div>
    ${answer.nearest?.length > 0 && html`<details><summary>${t("ask.nearest")}</summary>
      <${Hits} hits=${answer.nearest} collection=${collection} /></details>`}`;
}

/** The reply that is being written: what it waits for, what it says so far. */
export function Live({ now }) {
  const { text, thought, draft, phase, link, stopping } = now;
  const documents = phase.name === "searching" || phase.name === "found";
  return html`<article class="turn reply live" aria-label=${t("assistant")} aria-busy="true" data-phase=${phase.name}>
    ${thought && html`<${Thought} text=${thought} open=${!text} />`}
    ${documents ? (text || draft) && html`<p class="cited-text"><${Writing} text=${text} /> <span class="draft">${draft}</span></p>`
      : text && html`<${Markdown} text=${text} growing />`}
    <${Phase} now=${now} key=${phase.name} stopping=${stopping} link=${link} />
  </article>`;
}

const SLOW = 8_000; // ms in one phase, after which the page says that it is still at it

function Phase({ now, stopping, link }) {
  const { phase, began, tokens, first } = now;
  const [, tick] = useState(0);
  useEffect(() => {
    const timer = setInterval(() => tick((n) => n + 1), 1000);
    return () => clearInterval(timer);
  }, []);
  const spent = Date.now() - began;
  const writes = phase.name === "writing" && tokens > 0;
  const word = stopping ? t("phase.stopping") : link === "reconnecting" ? t("phase.reconnecting") : writes ? "" : t(`phase.${phase.name}`, phase);
  const speed = writes && link !== "reconnecting" && first && Date.now() - first > 1000 ? t("reply.speed", { n: number((1000 * tokens) / (Date.now() - first), 0) }) : "";
  const slow = !writes && !stopping && link !== "reconnecting" && spent > SLOW && t("phase.slow", { n: Math.round(spent / 1000) });
  return html`<p class="phase quiet small"><span class="pulse" aria-hidden="true"></span>${[word, slow, speed].filter(Boolean).join(" ")}</p>`;
}

function Thought({ text, open = false }) {
  return html`<details class="thought" open=${open}><summary>${t(open ? "reply.thinking" : "reply.thoughts")}</summary>
    <div class="thought-text"><${Markdown} text=${text} growing=${open} /></div></details>`;
}

function Versions({ message, busy }) {
  const all = versions(message);
  if (all.length < 2) return null;
  const at = all.findIndex((one) => one.id === message.id);
  const step = (by) => choose(all[at + by]);
  return html`<span class="versions" role="group" aria-label=${t("version", { at: at + 1, n: all.length })}>
    <${IconButton} icon="left" label=${t("version.previous")} disabled=${busy || at === 0} onClick=${() => step(-1)} />
    <span aria-hidden="true">${at + 1}/${all.length}</span>
    <${IconButton} icon="right" label=${t("version.next")} disabled=${busy || at === all.length - 1} onClick=${() => step(1)} />
  </span>`;
}

function CopyButton({ label, text }) {
  const [done, setDone] = useState(false);
  const copy = async () => {
    await copyText(text);
    setDone(true);
    setTimeout(() => setDone(false), 1500);
  };
  return html`<button type="button" class="icon-button" aria-label=${label} title=${done ? t("copied") : label} onClick=${copy}>
    <${Icon} name=${done ? "check" : "copy"} /></button>`;
}

/** As high as its text, up to `most` pixels. */
export function grow(field, most) {
  if (!field) return;
  field.style.height = "auto";
  field.style.height = `${Math.min(field.scrollHeight + 2, most)}px`;
  field.style.overflowY = field.scrollHeight + 2 > most ? "auto" : "hidden";
}
