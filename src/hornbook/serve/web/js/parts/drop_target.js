// Where files are dropped, with buttons for those who do not drag: files, or a whole folder.

import { html, useRef, useState } from "../html.js";
import { t } from "../i18n.js";
import { Button } from "./button.js";
import { filesOf, filesOfInput } from "./dropped.js";

/** onFiles({files: [{file, path}], failed: [{name, reason}]}). `children`: more buttons. */
export function DropTarget({ onFiles, children, slim = false }) {
  const [over, setOver] = useState(0); // entering a child leaves its parent: depth tells whether it is still here
  const file = useRef(null);
  const folder = useRef(null);
  const carries = (event) => [...event.dataTransfer.types].includes("Files");
  const enter = (event) => {
    if (!carries(event)) return;
    event.preventDefault();
    setOver((depth) => depth + 1);
  };
  const drop = async (event) => {
    if (!carries(event)) return;
    event.preventDefault();
    setOver(0);
    onFiles(await filesOf(event.dataTransfer));
  };
  const chosen = (event) => {
    const files = filesOfInput(event.target);
    event.target.value = "";
    if (files.length) onFiles({ files, failed: [] });
  };
  return html`<div class="drop ${slim ? "slim" : ""}" data-over=${over > 0 ? "true" : "false"} onDragEnter=${enter}
      onDragOver=${(event) => carries(event) && event.preventDefault()} onDragLeave=${() => setOver((depth) => Math.max(0, depth - 1))} onDrop=${drop}>
    <span class="drop-words">${over > 0 ? t("kb.drop.now") : t("kb.drop")}</span>
    <span class="row wrap">
      <${Button} icon="file" onClick=${() => file.current.click()}>${t("kb.files")}<//>
      <${Button} icon="folder" onClick=${() => folder.current.click()}>${t("kb.folder")}<//>
      ${children}
    </span>
    <input type="file" multiple hidden ref=${file} onChange=${chosen} data-role="files" aria-label=${t("kb.files")} />
    <input type="file" multiple webkitdirectory hidden ref=${folder} onChange=${chosen} data-role="folder" aria-label=${t("kb.folder")} />
  </div>`;
}
