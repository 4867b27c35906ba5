// The thread and its composer.

import { html } from "../html.js";
import { t } from "../i18n.js";

export default function Chat() {
  return html`<h1 class="unseen">${t("new-chat")}</h1>`;
}
