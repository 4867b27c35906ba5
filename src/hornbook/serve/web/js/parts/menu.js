// A button that opens a list of things to do or to choose from. Arrow keys, Home, End and letters move; Esc closes.

import { html, useEffect, useLayoutEffect, useRef, useState } from "../html.js";
import { Icon } from "./icons.js";

/**
 * items: [{label, note, icon, run, chosen, danger, disabled} | null for a line]
 * Choosing lists give `chosen` (true or false) to each item. `up`: opens upwards.
 */
export function Menu({ label, items, children, class: more = "", up = false, title, onOpen, empty }) {
  const [open, setOpen] = useState(false);
  const box = useRef(null);
  const list = useRef(null);
  const typed = useRef({ text: "", at: 0 });

  const entries = () => [...(list.current?.querySelectorAll("[role^=menuitem]:not([aria-disabled=true])") ?? [])];
  const close = (refocus = true) => {
    setOpen(false);
    if (refocus) box.current.querySelector("button").focus();
  };

  useEffect(() => {
    if (!open) return undefined;
    onOpen?.();
    const away = (event) => {
      if (!box.current.contains(event.target)) close(false);
    };
    document.addEventListener("pointerdown", away);
    return () => document.removeEventListener("pointerdown", away);
  }, [open]);

  useLayoutEffect(() => {
    if (!open) return;
    place(box.current, list.current, up);
    const chosen = list.current.querySelector("[aria-checked=true]");
    (chosen ?? entries()[0])?.focus({ preventScroll: true });
    chosen?.scrollIntoView({ block: "nearest" });
  }, [open]);

  const keys = (event) => {
    if (!open) return;
    const all = entries();
    const here = all.indexOf(document.activeElement);
    const moves = { ArrowDown: here + 1, ArrowUp: here - 1, Home: 0, End: all.length - 1 };
    if (event.key in moves) all.at(moves[event.key] % all.length)?.focus();
    else if (event.key === "Escape") close();
    else if (event.key === "Tab") return void close(false);
    else if (event.key.length === 1 && event.key !== " " && !event.ctrlKey && !event.metaKey) {
      const now = Date.now();
      typed.current = { text: (now - typed.current.at < 600 ? typed.current.text : "") + event.key.toLowerCase(), at: now };
      all.find((entry) => entry.textContent.trim().toLowerCase().startsWith(typed.current.text))?.focus();
    } else return;
    event.preventDefault();
    event.stopPropagation();
  };

  const choose = (item) => {
    if (item.disabled) return;
    close();
    item.run();
  };

  return html`<div class="menu" ref=${box} onKeyDown=${keys}>
    <button type="button" class=${more} aria-haspopup="menu" aria-expanded=${open ? "true" : "false"} aria-label=${label}
      title=${title} onClick=${() => setOpen(!open)}>${children}</button>
    ${open && html`<div class="menu-list" role="menu" aria-label=${label} ref=${list}>
      ${items.length === 0 && html`<div class="menu-empty">${empty}</div>`}
      ${items.map((item) => item === null
        ? html`<div class="menu-line" role="separator"></div>`
        : html`<div class="menu-item ${item.danger ? "danger" : ""}" tabindex="-1" aria-disabled=${item.disabled ? "true" : "false"}
            role=${item.chosen === undefined ? "menuitem" : "menuitemradio"}
            aria-checked=${item.chosen === undefined ? undefined : String(item.chosen)}
            onClick=${() => choose(item)}
            onKeyDown=${(event) => (event.key === "Enter" || event.key === " ") && (event.preventDefault(), event.stopPropagation(), choose(item))}>
          <span class="menu-tick">${item.chosen ? html`<${Icon} name="check" />` : item.icon && html`<${Icon} name=${item.icon} />`}</span>
          <span class="grow"><span class="menu-name">${item.label}</span>${item.note && html`<span class="menu-note">${item.note}</span>`}</span>
        </div>`)}
    </div>`}
  </div>`;
}

/** Beside its button, inside the window, whatever scrolls or clips around it: CSS cannot promise that alone. */
function place(box, list, up) {
  const button = box.querySelector("button").getBoundingClientRect();
  const room = { up: button.top - 16, down: innerHeight - button.bottom - 16 };
  const wanted = list.scrollHeight + 2;
  const upward = up ? room.up >= Math.min(wanted, 160) || room.up > room.down : room.down < wanted && room.up > room.down;
  const width = list.offsetWidth;
  list.style.maxHeight = `${Math.max(96, upward ? room.up : room.down)}px`;
  list.style.left = `${Math.max(8, Math.min(button.left, innerWidth - width - 8))}px`;
  if (upward) list.style.bottom = `${innerHeight - button.top + 4}px`;
  else list.style.top = `${button.bottom + 4}px`;
}
