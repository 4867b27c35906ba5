// Knowledge: the collections, and one of them with its documents, a question and a search.

import { api } from "../api.js";
import { refreshHouse } from "../house.js";
import { html, useEffect, useRef, useState } from "../html.js";
import { bytes, t, useLanguage } from "../i18n.js";
import { Asking } from "../parts/asking.js";
import { Button } from "../parts/button.js";
import { chatWith } from "../parts/chat_with.js";
import { confirm } from "../parts/dialog.js";
import { Documents } from "../parts/documents.js";
import { Menu } from "../parts/menu.js";
import { Icon } from "../parts/icons.js";
import { DropTarget } from "../parts/drop_target.js";
import { Topbar } from "../parts/topbar.js";
import { announce, complain, toast } from "../parts/toast.js";
import { go } from "../state.js";
import { hand } from "../parts/handed.js";

export default function Knowledge({ name }) {
  useLanguage();
  return name === undefined ? html`<${Shelf} />` : html`<${Collection} key=${name} name=${name} />`;
}

/** "3 documents · 41 passages · 2.1 MB" */
function extent(collection) {
  return [
    t("kb.documents", { n: collection.documents }),
    t("kb.passages", { n: collection.passages }),
    collection.bytes ? bytes(collection.bytes) : "",
  ].filter(Boolean).join(" · ");
}

// ---------------------------------------------------------------------------------------------------------- the shelf

function Shelf() {
  const [collections, setCollections] = useState(null);
  const [problem, setProblem] = useState(null);
  const [busy, setBusy] = useState(false);
  const field = useRef(null);

  const read = () => api.get("/kb").then((answer) => setCollections(answer.collections), setProblem);
  useEffect(() => {
    document.title = `${t("nav.knowledge")} · Hornbook`;
    read();
  }, []);

  const make = async (title) => {
    setBusy(true);
    try {
      const made = await api.post("/kb", { title });
      refreshHouse();
      return made;
    } catch (error) {
      complain(error);
      return null;
    } finally {
      setBusy(false);
    }
  };
  const submit = async (event) => {
    event.preventDefault();
    const title = field.current.value.trim();
    if (!title) return field.current.focus();
    const made = await make(title);
    if (made) go(`/knowledge/${encodeURIComponent(made.name)}`);
  };
  // What is dropped before there is a collection makes one, called after the folder or the first file.
  const dropped = async ({ files, failed }) => {
    if (!files.length) return failed.forEach((one) => toast(one.name, { kind: "error", remedy: one.reason }));
    const [top] = files[0].path.split("/");
    const made = await make(field.current.value.trim() || top.replace(/\.[^.]+$/, "") || top);
    if (!made) return;
    hand(made.name, { files, failed });
    go(`/knowledge/${encodeURIComponent(made.name)}`);
  };

  return html`<${Topbar} title=${t("nav.knowledge")} />
    <div class="page"><div class="stack">
      <p class="quiet">${t("kb.about")}</p>
      <form class="make row" onSubmit=${submit}>
        <label class="grow"><span class="unseen">${t("kb.title")}</span>
          <input ref=${field} name="title" maxlength="100" placeholder=${t("kb.title.hint")} autocomplete="off" /></label>
        <button type="submit" class="button main" disabled=${busy}>${t("kb.make")}</button>
      </form>
      <${DropTarget} onFiles=${dropped} />
      ${problem && html`<div class="notice error" role="alert">${problem.what} <span class="quiet">${problem.remedy}</span>
        <${Button} onClick=${() => { setProblem(null); read(); }}>${t("retry")}<//></div>`}
      ${!collections && !problem && html`<p class="quiet">${t("loading")}</p>`}
      ${collections?.length === 0 && html`<p class="quiet">${t("kb.none")}</p>`}
      ${collections?.length > 0 && html`<ul class="shelf" aria-label=${t("kb.collections")}>${collections.map((one) => html`
        <li key=${one.name}><a class="shelf-row" href=${`#/knowledge/${encodeURIComponent(one.name)}`}>
          <${Icon} name="book" />
          <span class="grow"><span class="shelf-name">${one.title || one.name}</span>
            <span class="quiet small">${extent(one)}</span></span>
          ${one.busy && html`<span class="tag">${t("kb.busy")}</span>`}
          ${one.failed > 0 && html`<span class="tag warn">${t("kb.failed", { n: one.failed })}</span>`}
        </a></li>`)}</ul>`}
    </div></div>`;
}

// ------------------------------------------------------------------------------------------------------ one collection

function Collection({ name }) {
  const [collection, setCollection] = useState(null);
  const [problem, setProblem] = useState(null);
  const path = `/kb/${encodeURIComponent(name)}`;
  const read = () => api.get(path).then(setCollection, setProblem);

  useEffect(() => {
    read();
  }, []);
  useEffect(() => {
    if (collection) document.title = `${collection.title || name} · Hornbook`;
  }, [collection]);

  const reindex = async () => {
    if (!(await confirm(t("kb.reindex"), t("kb.reindex.text"), { yes: t("kb.reindex") }))) return;
    try {
      await api.post(`${path}/reindex`);
      read();
    } catch (error) {
      complain(error);
    }
  };
  const remove = async () => {
    const title = collection.title || name;
    const sure = await confirm(t("kb.delete", { title }), t("kb.delete.text", { n: collection.documents }), {
      yes: t("delete"), danger: true,
    });
    if (!sure) return;
    try {
      await api.delete(path);
      announce(t("kb.deleted", { title }));
      refreshHouse();
      go("/knowledge");
    } catch (error) {
      complain(error);
    }
  };

  if (problem) {
    return html`<${Topbar} title=${name} back=${{ href: "#/knowledge", label: t("kb.all") }} /><div class="page"><div class="notice error" role="alert">${problem.what}
      <span class="quiet">${problem.remedy}</span> <a href="#/knowledge">${t("kb.all")}</a></div></div>`;
  }
  if (!collection) return html`<${Topbar} title=${name} back=${{ href: "#/knowledge", label: t("kb.all") }} /><div class="page"><p class="quiet">${t("loading")}</p></div>`;
  const menu = [
    { label: t("kb.chat"), icon: "send", run: () => chatWith({ collection: name }), disabled: !collection.passages },
    { label: t("kb.reindex"), icon: "again", run: reindex, disabled: collection.busy || !collection.documents },
    null,
    { label: t("delete"), icon: "trash", danger: true, run: remove },
  ];
  return html`<${Topbar} title=${collection.title || name} back=${{ href: "#/knowledge", label: t("kb.all") }}>
      <${Menu} label=${t("kb.menu")} items=${menu} class="icon-button"><${Icon} name="more" /><//>
    <//>
    <div class="page"><div class="stack wide-gaps">
      ${(collection.notices ?? []).map((notice) => html`<div class="notice warn" key=${notice}>${notice}</div>`)}
      <${Asking} name=${name} passages=${collection.passages} busy=${collection.busy} />
      <${Documents} name=${name} collection=${collection} onChange=${read} extent=${extent(collection)} />
    </div></div>`;
}
