// The line above a view: the way to the rail where that is hidden, the way back, a title, and what can be done.

import { toggleRail } from "../house.js";
import { html } from "../html.js";
import { t } from "../i18n.js";
import { railFolded, useCell } from "../state.js";
import { IconButton } from "./button.js";
import { Icon } from "./icons.js";

/** back: {href, label}. */
export function Topbar({ title, back, children }) {
  const folded = useCell(railFolded);
  return html`<header class="topbar">
    <span class=${folded ? "" : "narrow-only"}><${IconButton} icon="rail" label=${t("rail.unfold")} onClick=${toggleRail} /></span>
    ${back && html`<a class="icon-button" href=${back.href} aria-label=${back.label} title=${back.label}><${Icon} name="left" /></a>`}
    <h1 class="grow cut">${title}</h1>
    ${children}
  </header>`;
}
