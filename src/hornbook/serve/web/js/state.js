// What several parts of the page share: cells that tell who watches them, and what the browser remembers.

import { useLayoutEffect, useState } from "./html.js";

export function cell(value) {
  const watchers = new Set();
  return {
    get: () => value,
    set(next) {
      const settled = typeof next === "function" ? next(value) : next;
      if (settled === value) return;
      value = settled;
      for (const watcher of [...watchers]) watcher(value);
    },
    watch(watcher) {
      watchers.add(watcher);
      return () => watchers.delete(watcher);
    },
  };
}

/** The cell's value, in a component that is drawn anew when it changes. */
export function useCell(source) {
  const [, redraw] = useState(0);
  const value = source.get();
  useLayoutEffect(() => {
    const again = () => redraw((n) => n + 1);
    if (source.get() !== value) again(); // it changed between the drawing and now
    return source.watch(again);
  }, [source]);
  return value;
}

/** What survives a reload, by browser. Where storage is off it lasts as long as the page. */
export const memory = {
  kept: new Map(),
  get(key, otherwise = null) {
    try {
      const text = localStorage.getItem(`hornbook.${key}`);
      return text === null ? otherwise : JSON.parse(text);
    } catch {
      return this.kept.has(key) ? this.kept.get(key) : otherwise;
    }
  },
  set(key, value) {
    this.kept.set(key, value);
    try {
      if (value === null || value === undefined || value === "") localStorage.removeItem(`hornbook.${key}`);
      else localStorage.setItem(`hornbook.${key}`, JSON.stringify(value));
    } catch {
      // storage is off or full: kept above
    }
  },
};

/** What is plain text and not JSON, because boot.js reads it before any module. */
export function remember(key, text) {
  try {
    localStorage.setItem(`hornbook.${key}`, text);
  } catch {
    memory.kept.set(key, text);
  }
}

export const theme = cell(document.documentElement.dataset.theme);
export function setTheme(name) {
  document.documentElement.dataset.theme = name;
  remember("theme", name);
  theme.set(name);
}

export const route = cell(location.hash.slice(1) || "/");
export const railOpen = cell(false); // the sheet, where the page is narrow
export const railFolded = cell(memory.get("rail-folded", false)); // the column, where it is wide
export const source = cell(null); // the cited passage that is open beside the thread: see parts/source.js
export const house = cell(null); // what /api/hornbook/status says: version, models, collections, default_model
export const link = cell("open"); // to the server: "open" | "lost"

export function go(path) {
  if (location.hash.slice(1) !== path) location.hash = path;
  railOpen.set(false);
}

export const isNarrow = () => matchMedia("(max-width: 880px)").matches;
