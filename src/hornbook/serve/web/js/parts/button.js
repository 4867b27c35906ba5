// Buttons: with a word (kind "plain", "main", "danger"), or with an icon and a name for those who do not see it.

import { html } from "../html.js";
import { Icon } from "./icons.js";

export function Button({ kind = "plain", icon, children, ...rest }) {
  return html`<button type="button" class="button ${kind}" ...${rest}>
    ${icon && html`<${Icon} name=${icon} />`}<span>${children}</span>
  </button>`;
}

export function IconButton({ icon, label, class: more = "", ...rest }) {
  return html`<button type="button" class="icon-button ${more}" aria-label=${label} title=${label} ...${rest}>
    <${Icon} name=${icon} />
  </button>`;
}
