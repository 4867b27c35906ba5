// The thread and its composer; with nothing said yet, the welcome.

import "../words/chat.js";
import "../words/knowledge.js";
import { attach, clear } from "../attachments.js";
import { html, useEffect, useLayoutEffect, useRef, useState } from "../html.js";
import { t } from "../i18n.js";
import { useShortcuts } from "../keys.js";
import { Button } from "../parts/button.js";
import { Composer } from "../parts/composer.js";
import { Drawer } from "../parts/drawer.js";
import { filesOf } from "../parts/dropped.js";
import { Icon } from "../parts/icons.js";
import { Live, Question, Reply } from "../parts/message.js";
import { Topbar } from "../parts/topbar.js";
import { Welcome } from "../parts/welcome.js";
import { useCell } from "../state.js";
import { branch, leave, live, load, open, stop, thread } from "../thread.js";

export default function Chat({ id = null }) {
  const now = useCell(thread);
  const writing = useCell(live);
  const [editing, setEditing] = useState(null);
  const [drawer, setDrawer] = useState(false);
  const [over, setOver] = useState(0);

  useEffect(() => {
    setEditing(null);
    if (thread.get().id !== id) clear();
    open(id);
  }, [id]);
  useEffect(() => leave, []);
  useEffect(() => {
    document.title = now.title ? `${now.title} · Hornbook` : "Hornbook";
  }, [now.title]);
  useShortcuts([
    { keys: "enter", word: "keys.send" },
    { keys: "shift+enter", word: "keys.break" },
    { keys: "arrowup", word: "keys.edit" },
    { keys: "escape", word: "keys.stop", typing: true, run: () => (live.get() ? void stop() : false) },
    { keys: "mod+,", word: "keys.drawer", typing: true, run: () => setDrawer(true) },
    { keys: "/", word: "keys.composer", run: () => document.getElementById("composer")?.focus() },
  ]);

  const path = branch(now);
  const editLast = () => {
    const last = path.findLast((message) => message.role === "user");
    if (last) setEditing(last.id);
    return Boolean(last);
  };
  const carries = (event) => [...event.dataTransfer.types].includes("Files");
  const drop = async (event) => {
    if (!carries(event)) return;
    event.preventDefault();
    setOver(0);
    attach(await filesOf(event.dataTransfer));
    document.getElementById("composer")?.focus();
  };

  return html`<div class="chat" onDragEnter=${(event) => carries(event) && (event.preventDefault(), setOver((n) => n + 1))}
      onDragOver=${(event) => carries(event) && event.preventDefault()}
      onDragLeave=${() => setOver((n) => Math.max(0, n - 1))} onDrop=${drop}>
    <${Topbar} title=${now.title || t("untitled")} />
    ${now.missing ? html`<${Missing} />`
      : now.error ? html`<${Unread} error=${now.error} />`
      : now.loading ? html`<p class="thread-wait quiet" role="status">${t("loading")}</p>`
      : path.length === 0 ? html`<${Welcome} />`
      : html`<${Thread} path=${path} now=${now} writing=${writing} editing=${editing} onEdit=${setEditing} />`}
    ${!now.missing && html`<${Composer} onEditLast=${editLast} onDrawer=${() => setDrawer(true)} />`}
    ${over > 0 && html`<div class="drop-veil"><${Icon} name="file" />${t("drop.now")}</div>`}
    ${drawer && html`<${Drawer} onClose=${() => setDrawer(false)} />`}
  </div>`;
}

function Thread({ path, now, writing, editing, onEdit }) {
  const box = useRef(null);
  const [away, setAway] = useState(false); // from the latest: the person reads above
  const kept = useRef(true);
  const toEnd = () => {
    box.current.scrollTop = box.current.scrollHeight;
  };
  useLayoutEffect(() => {
    kept.current = true;
    setAway(false);
    toEnd();
  }, [now.id, path.length]);
  useLayoutEffect(() => {
    if (kept.current) toEnd();
  }, [writing, now.leaf]);
  const scrolled = () => {
    const { scrollTop, scrollHeight, clientHeight } = box.current;
    kept.current = scrollHeight - scrollTop - clientHeight < 48;
    setAway(!kept.current);
  };
  const end = () => {
    onEdit(null);
    document.getElementById("composer")?.focus();
  };
  return html`<div class="thread" ref=${box} onScroll=${scrolled} tabindex="0" role="region" aria-label=${t("thread")}>
      <div class="turns">
        ${path.map((message, i) => message.role === "user"
          ? html`<${Question} key=${message.id} message=${message} editing=${editing === message.id} busy=${Boolean(writing)} onEdit=${(id) => (id === null ? end() : onEdit(id))} />`
          : writing && (writing.id === message.id || (writing.id === null && i === path.length - 1))
            ? html`<${Live} key="live" now=${writing} />`
            : html`<${Reply} key=${message.id} message=${message} collection=${now.settings.collection} busy=${Boolean(writing)} last=${i === path.length - 1} />`)}
      </div>
    </div>
    ${away && html`<div class="latest"><${Button} icon="down" onClick=${toEnd}>${t("thread.latest")}<//></div>`}`;
}

function Missing() {
  return html`<div class="page stack"><h2>${t("thread.missing")}</h2><p class="quiet">${t("thread.missing.text")}</p>
    <p><a href="#/">${t("nowhere.link")}</a></p></div>`;
}

function Unread({ error }) {
  return html`<div class="page stack" role="alert"><h2>${t("thread.failed")}</h2>
    <p class="quiet">${error.what} ${error.remedy}</p><p><${Button} icon="again" onClick=${() => load()}>${t("retry")}<//></p></div>`;
}
