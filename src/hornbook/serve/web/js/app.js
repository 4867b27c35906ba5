// The frame: rail, the view that the address names, and the source pane; dialogs and notes over them.

import "./words/frame.js";
import { keyWanted } from "./api.js";
import { refreshHouse, toggleRail } from "./house.js";
import { html, render, useEffect, useRef, useState } from "./html.js";
import { t, useLanguage } from "./i18n.js";
import { shortcuts, useShortcuts, written } from "./keys.js";
import { Button } from "./parts/button.js";
import { Asker, Dialog, prompt } from "./parts/dialog.js";
import { Rail } from "./parts/rail.js";
import { SourcePane } from "./parts/source.js";
import { Toasts, announce } from "./parts/toast.js";
import { go, isNarrow, link, memory, railFolded, railOpen, route, source, useCell } from "./state.js";
import { match } from "./views/registry.js";

function App() {
  useLanguage();
  const [help, setHelp] = useState(false);
  const open = useCell(railOpen);
  const folded = useCell(railFolded);
  const cited = useCell(source);
  const view = useRef(null);
  useShortcuts([
    { keys: "?", word: "keys.help", run: () => setHelp(true) },
    { keys: "mod+shift+o", word: "keys.new", typing: true, run: () => go("/") },
    { keys: "mod+k", word: "keys.search", typing: true, run: search },
    { keys: "mod+b", word: "keys.rail", typing: true, run: toggleRail },
    { keys: "escape", word: "keys.close", typing: true, run: closeSheet },
  ]);
  return html`
    <a class="skip" href="#main" onClick=${(event) => { event.preventDefault(); view.current.focus(); }}>${t("skip")}</a>
    <div class="frame">
      <${Rail} hidden=${isNarrow() ? !open : folded} onHelp=${() => setHelp(true)} />
      ${open && isNarrow() && html`<button type="button" class="shade" aria-label=${t("close")} onClick=${() => railOpen.set(false)}></button>`}
      <main class="view" id="main" tabindex="-1" ref=${view}><${LostLink} /><${View} /></main>
      ${cited && html`
        <button type="button" class="shade" aria-label=${t("close")} onClick=${() => source.set(null)}></button>
        <${SourcePane} ...${cited} onClose=${() => source.set(null)} />`}
    </div>
    ${help && html`<${Shortcuts} onClose=${() => setHelp(false)} />`}
    <${Asker} /><${Toasts} />`;
}

function search() {
  if (isNarrow()) railOpen.set(true);
  else railFolded.set(false);
  setTimeout(() => document.getElementById("search")?.focus());
}


function closeSheet() {
  if (source.get()) source.set(null);
  else if (railOpen.get()) railOpen.set(false);
  else return false;
}

/** The room that the address names, its module fetched when it is first wanted. */
function View() {
  const address = useCell(route);
  const found = match(address);
  const [room, setRoom] = useState(null); // {view, component} | {view, error}
  useEffect(() => {
    if (!found || room?.view.load === found[0].load) return;
    found[0].load().then(
      (module) => setRoom({ view: found[0], component: module.default }),
      (error) => setRoom({ view: found[0], error }),
    );
  }, [address]);
  if (!found) {
    return html`<div class="page stack"><h1>${t("nowhere")}</h1><p><a href="#/">${t("nowhere.link")}</a></p></div>`;
  }
  if (!room || room.view.load !== found[0].load) return null;
  if (room.error) {
    return html`<div class="page stack" role="alert"><h1>${t("error.page")}</h1><p class="quiet">${t("error.page.text")}</p>
      <p><${Button} onClick=${() => location.reload()}>${t("reload")}<//></p></div>`;
  }
  return html`<${room.component} ...${found[1]} />`;
}

/** Said while the server is away; asks after it, so that the page comes back by itself. */
function LostLink() {
  const state = useCell(link);
  const was = useRef(state);
  useEffect(() => {
    if (was.current === "lost" && state === "open") announce(t("link.back"));
    if (was.current === "open" && state === "lost") announce(t("link.lost"));
    was.current = state;
    if (state === "open") return undefined;
    const timer = setInterval(refreshHouse, 2000);
    return () => clearInterval(timer);
  }, [state]);
  if (state === "open") return null;
  return html`<div class="lost notice warn row"><span class="grow">${t("link.lost")}</span>
    <${Button} onClick=${refreshHouse}>${t("link.again")}<//></div>`;
}

function Shortcuts({ onClose }) {
  const list = useCell(shortcuts);
  return html`<${Dialog} title=${t("keys.title")} onClose=${onClose}>
    <dl class="shortcut-list">${list.map((one) => html`
      <dt key=${one.keys}>${t(one.word)}</dt>
      <dd>${written(one.keys).map((key) => html`<kbd>${key}</kbd>`)}</dd>`)}</dl>
  <//>`;
}


async function askForKey() {
  if (!keyWanted.get()) return;
  const key = await prompt(t("key.title"), { text: t("key.text"), label: t("key.label"), secret: true });
  keyWanted.set(false);
  if (key) {
    memory.set("key", key.trim());
    location.reload();
  }
}

window.addEventListener("hashchange", () => route.set(location.hash.slice(1) || "/"));
window.addEventListener("offline", () => link.set("lost"));
window.addEventListener("online", refreshHouse);
matchMedia("(max-width: 880px)").addEventListener("change", () => railOpen.set(false));
keyWanted.watch(askForKey);

refreshHouse();
render(html`<${App} />`, document.getElementById("app"));
