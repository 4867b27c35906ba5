// Two quiet pickers below the composer: which model writes, which documents are asked.

import { collections } from "../house.js";
import { html } from "../html.js";
import { bytes, t } from "../i18n.js";
import { go, house, useCell } from "../state.js";
import { setSettings, thread } from "../thread.js";
import { Icon } from "./icons.js";
import { Menu } from "./menu.js";

/** The model that would be asked: the one chosen, else the server's usual one, else any. */
export function modelOf(settings, status) {
  const names = (status?.models ?? []).map((model) => model.name);
  if (settings.model) return settings.model;
  return names.includes(status?.usual) ? status.usual : (names[0] ?? null);
}

/** [model, adapter] of a name; an adapter is what stands behind the colon of a model that is here. */
function parts(name, models) {
  if (name === null || models.some((model) => model.name === name)) return [name, null];
  const at = name.lastIndexOf(":");
  return at > 0 && models.some((model) => model.name === name.slice(0, at)) ? [name.slice(0, at), name.slice(at + 1)] : [name, null];
}

export function ModelPicker() {
  const status = useCell(house);
  const { settings } = useCell(thread);
  const models = status?.models ?? [];
  const chosen = modelOf(settings, status);
  const [base, adapter] = parts(chosen, models);
  const items = models.map((model) => ({
    label: model.name,
    note: [model.name === status.usual && t("model.usual"), bytes(model.size), model.quantisation, model.context && t("model.context", { n: model.context })].filter(Boolean).join(" · "),
    chosen: model.name === base,
    run: () => setSettings({ model: model.name }),
  }));
  if (status?.adapters.length && base) {
    items.push(null, { label: t("model.adapter.none"), chosen: adapter === null, run: () => setSettings({ model: base }) });
    for (const name of status.adapters) {
      items.push({ label: t("model.adapter", { name }), chosen: adapter === name, run: () => setSettings({ model: `${base}:${name}` }) });
    }
  }
  items.push(...(items.length ? [null] : []), { label: t("model.all"), icon: "box", run: () => go("/models") });
  return html`<${Menu} label=${`${t("model")}: ${chosen ?? t("model.none")}`} class="picker" up items=${items}>
    <span class="cut">${chosen ?? t("model.none")}</span><${Icon} name="down" />
  <//>`;
}

export function CollectionPicker() {
  const all = useCell(collections);
  const { settings } = useCell(thread);
  const here = all.find((one) => one.name === settings.collection);
  const items = [
    { label: t("collection.none"), chosen: !settings.collection, run: () => setSettings({ collection: null }) },
    ...all.map((one) => ({
      label: one.title || one.name,
      note: one.documents ? t("collection.files", { n: one.documents }) : t("collection.empty"),
      chosen: one.name === settings.collection,
      run: () => setSettings({ collection: one.name }),
    })),
    null,
    { label: t("collection.all"), icon: "book", run: () => go("/knowledge") },
  ];
  const name = here?.title || settings.collection;
  return html`<${Menu} label=${`${t("collection")}: ${name ?? t("collection.none")}`} class="picker ${name ? "on" : "none"}" up items=${items}>
    <${Icon} name="book" /><span class="cut">${name ?? t("collection.none")}</span><${Icon} name="down" />
  <//>`;
}
