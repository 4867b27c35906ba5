// Shortcuts: a list that parts of the page add to while they are shown, and that "?" shows.

import { useEffect } from "./html.js";
import { cell } from "./state.js";

export const shortcuts = cell([]); // {keys: "mod+k", word: "keys.search", run, typing: also while typing}

const APPLE = /Mac|iPhone|iPad/.test(navigator.platform);

function comboOf(event) {
  const parts = [];
  if (event.metaKey || event.ctrlKey) parts.push("mod");
  if (event.altKey) parts.push("alt");
  if (event.shiftKey && event.key.length > 1) parts.push("shift");
  else if (event.shiftKey && parts.length) parts.push("shift");
  parts.push(event.key === " " ? "space" : event.key.toLowerCase());
  return parts.join("+");
}

const isTyping = (target) =>
  target instanceof HTMLElement &&
  (target.isContentEditable || ["TEXTAREA", "SELECT"].includes(target.tagName) || (target.tagName === "INPUT" && !["checkbox", "radio", "range", "button"].includes(target.type)));

document.addEventListener("keydown", (event) => {
  if (event.defaultPrevented || event.isComposing) return;
  const combo = comboOf(event);
  const dialog = document.querySelector("dialog[open]");
  for (const shortcut of [...shortcuts.get()].reverse()) {
    if (shortcut.keys !== combo || !shortcut.run) continue;
    if (dialog || (isTyping(event.target) && !shortcut.typing)) continue;
    if (shortcut.run(event) === false) continue; // not its moment: the next one may
    event.preventDefault();
    return;
  }
});

/** Shortcuts that hold while the component is shown. Those without `run` are only listed: the part itself hears them. */
export function useShortcuts(list, changes = []) {
  useEffect(() => {
    shortcuts.set((known) => [...known, ...list]);
    return () => shortcuts.set((known) => known.filter((one) => !list.includes(one)));
  }, changes);
}

/** A combination as it is written on this machine's keys. */
export function written(keys) {
  const names = {
    mod: APPLE ? "⌘" : "Ctrl", alt: APPLE ? "⌥" : "Alt", shift: APPLE ? "⇧" : "Shift", escape: "Esc", enter: "Enter",
    arrowup: "↑", arrowdown: "↓", arrowleft: "←", arrowright: "→",
  };
  return keys.split("+").map((key) => names[key] ?? key.toUpperCase());
}
