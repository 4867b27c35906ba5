// The rooms of the page. A room is one row here: its address, its component, and its link in the rail if it has one.
//
//   path     a pattern of the address after "#"; ":name" stands for one part, which the component gets as a prop
//   rail     {word, icon}: its link in the rail
//   load     a module with the component as its default export, fetched when it is first shown

import "../words/knowledge.js";
import "../words/models.js";

const chat = () => import("./chat.js"); // one component for both, so that a first question does not draw it anew

const knowledge = () => import("./knowledge.js");

export const views = [
  { path: "/", load: chat },
  { path: "/c/:id", load: chat },
  { path: "/knowledge", rail: { word: "nav.knowledge", icon: "book" }, load: knowledge },
  { path: "/knowledge/:name", load: knowledge },
  { path: "/models", rail: { word: "nav.models", icon: "box" }, load: () => import("./models.js") },
];

/** [view, props] of an address, or null. */
export function match(address) {
  const [path, query = ""] = address.split("?");
  const parts = path.split("/");
  for (const view of views) {
    const pattern = view.path.split("/");
    if (pattern.length !== parts.length) continue;
    const props = {};
    const fits = pattern.every((part, i) => {
      if (!part.startsWith(":")) return part === parts[i];
      try {
        props[part.slice(1)] = decodeURIComponent(parts[i]);
      } catch {
        return false;
      }
      return parts[i] !== "";
    });
    if (fits) return [view, { ...props, query: new URLSearchParams(query) }];
  }
  return null;
}
