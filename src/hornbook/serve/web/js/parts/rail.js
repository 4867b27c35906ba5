// The rail: a new chat, the search, the rooms, the conversations by day, language and theme.

import { list, more, older, query, refresh, remove, rename, save } from "../conversations.js";
import { html, useEffect } from "../html.js";
import { LANGUAGES, language, setLanguage, t } from "../i18n.js";
import { collections, toggleRail } from "../house.js";
import { go, railOpen, route, setTheme, theme, useCell } from "../state.js";
import { views } from "../views/registry.js";
import { IconButton } from "./button.js";
import { confirm, prompt } from "./dialog.js";
import { Icon } from "./icons.js";
import { Menu } from "./menu.js";
import { complain, toast } from "./toast.js";

const KNOWLEDGE = "/knowledge";
const SHOWN = 5; // collections

export function Rail({ hidden, onHelp }) {
  const address = useCell(route);
  const dark = useCell(theme) === "dark";
  useEffect(() => void refresh(), []);
  return html`<nav class="rail" hidden=${hidden} aria-label=${t("rail")}>
    <div class="rail-top">
      <div class="rail-head">
        <a class="wordmark" href="#/" onClick=${() => railOpen.set(false)}>Hornbook</a>
        <${IconButton} icon="rail" label=${t("rail.fold")} onClick=${toggleRail} />
      </div>
      <a class="button" href="#/" onClick=${() => railOpen.set(false)}><${Icon} name="plus" />${t("new-chat")}</a>
      <${Search} />
    </div>
    <div class="rail-nav">${views.filter((view) => view.rail).map((view) => html`
      <div class="rail-item" data-here=${address.split("?")[0] === view.path} key=${view.path}>
        <a class="rail-link" href=${`#${view.path}`} onClick=${() => railOpen.set(false)}
          aria-current=${address.split("?")[0] === view.path ? "page" : undefined}>
          <${Icon} name=${view.rail.icon} /><span class="cut">${t(view.rail.word)}</span></a>
      </div>
      ${view.path === KNOWLEDGE && html`<${Collections} address=${address} />`}`)}</div>
    <div class="rail-scroll"><${Conversations} address=${address} /></div>
    <div class="rail-foot">
      <${Menu} label=${t("language")} title=${t("language")} class="button plain" up items=${LANGUAGES.map(([code, name]) => ({
        label: name, chosen: language.get() === code, run: () => setLanguage(code),
      }))}><${Icon} name="globe" /><span>${LANGUAGES.find(([code]) => code === language.get())[1]}</span><//>
      <span class="grow"></span>
      <${IconButton} icon="help" label=${t("keys.help")} onClick=${onHelp} />
      <${IconButton} icon=${dark ? "sun" : "moon"} label=${t(dark ? "theme.light" : "theme.dark")}
        onClick=${() => setTheme(dark ? "light" : "dark")} />
    </div>
  </nav>`;
}

/** The newest collections; all of them are in the room that the link above leads to. */
function Collections({ address }) {
  const all = useCell(collections).toSorted((one, other) => (one.created < other.created ? 1 : -1)).slice(0, SHOWN);
  return all.length > 0 && html`<ul class="rail-sub" aria-label=${t("nav.knowledge")}>${all.map((one) => {
    const at = `${KNOWLEDGE}/${encodeURIComponent(one.name)}`;
    const here = address.split("?")[0] === at;
    return html`<li class="rail-item" data-here=${here} key=${one.name}>
      <a class="rail-link" href=${`#${at}`} aria-current=${here ? "page" : undefined} onClick=${() => railOpen.set(false)}>
        <span class="cut">${one.title || one.name}</span></a></li>`;
  })}</ul>`;
}

function Search() {
  const text = useCell(query);
  useEffect(() => {
    const timer = setTimeout(refresh, text ? 150 : 0);
    return () => clearTimeout(timer);
  }, [text]);
  const keys = (event) => {
    if (event.key === "Escape" && text) {
      query.set("");
      event.stopPropagation();
    } else if (event.key === "ArrowDown") {
      document.querySelector(".rail-scroll .rail-link")?.focus();
      event.preventDefault();
    }
  };
  return html`<label class="search"><span class="unseen">${t("search")}</span>
    <${Icon} name="search" />
    <input id="search" type="search" placeholder=${t("search")} value=${text} autocomplete="off"
      onInput=${(event) => query.set(event.target.value)} onKeyDown=${keys} />
  </label>`;
}

function Conversations({ address }) {
  const all = useCell(list);
  const rest = useCell(more);
  const text = useCell(query).trim();
  if (all === null) return html`<p class="rail-group">${t("loading")}</p>`;
  if (all.length === 0) {
    return html`<p class="rail-group" role="status">${text ? t("search.none", { query: text }) : t("rail.empty")}</p>`;
  }
  const groups = text ? [["rail.found", all]] : byDay(all);
  return html`${groups.map(([word, some]) => html`<section key=${word} aria-label=${t(word)}>
      <h2 class="rail-group">${t(word)}</h2>
      <ul>${some.map((one) => html`<${Row} key=${one.id} one=${one} here=${address === `/c/${one.id}`} />`)}</ul>
    </section>`)}
    ${rest && html`<button type="button" class="text-button rail-group" onClick=${() => older().catch(complain)}>${t("rail.older")}</button>`}`;
}

function byDay(all) {
  const start = new Date();
  start.setHours(0, 0, 0, 0);
  const today = start.getTime() / 1000;
  const bounds = [["rail.today", today], ["rail.yesterday", today - 86400], ["rail.week", today - 7 * 86400], ["rail.earlier", -Infinity]];
  const groups = new Map();
  for (const one of all) {
    const [word] = bounds.find(([, from]) => one.updated >= from);
    groups.set(word, [...(groups.get(word) ?? []), one]);
  }
  return [...groups];
}

function Row({ one, here }) {
  const title = one.title || t("untitled");
  const items = [
    { label: t("rename"), icon: "edit", run: () => askRename(one) },
    { label: t("conversation.markdown"), icon: "download", run: () => save(one.id, "markdown").catch(complain) },
    { label: t("conversation.json"), icon: "download", run: () => save(one.id, "json").catch(complain) },
    null,
    { label: t("delete"), icon: "trash", danger: true, run: () => askRemove(one, here) },
  ];
  return html`<li>
    <div class="rail-item" data-here=${here}>
      <a class="rail-link" href=${`#/c/${one.id}`} aria-current=${here ? "page" : undefined} title=${title}
        onClick=${() => railOpen.set(false)}>
        <span class="cut grow">${title}</span>
        ${one.writing && html`<span class="pulse" role="img" aria-label=${t("conversation.writing")}></span>`}
      </a>
      <${Menu} label=${t("conversation.menu", { title })} class="icon-button rail-more" items=${items}><${Icon} name="more" /><//>
    </div>
    ${one.snippet && html`<p class="rail-snippet">${one.snippet.map((part, i) => (i % 2 ? html`<mark>${part}</mark>` : part))}</p>`}
  </li>`;
}

export async function askRename(one) {
  const title = await prompt(t("conversation.rename"), { value: one.title, yes: t("rename") });
  if (title?.trim()) await rename(one.id, title.trim()).catch(complain);
}

export async function askRemove(one, here) {
  const title = one.title || t("untitled");
  if (!(await confirm(t("conversation.delete", { title }), t("conversation.delete.text"), { yes: t("delete"), danger: true }))) return;
  try {
    await remove(one.id);
    if (here) go("/");
    toast(t("conversation.deleted"));
  } catch (error) {
    complain(error);
  }
}
