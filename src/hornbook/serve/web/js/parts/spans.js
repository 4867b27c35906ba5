// Offsets from the server count characters (code points); JavaScript's strings count UTF-16 units.

/** The text cut at spans [[start, end], ...] of code points: [{text, marked}], joined the text again. Spans may touch or overlap. */
export function cut(text, spans) {
  const characters = Array.from(text);
  const pieces = [];
  let at = 0;
  for (const [start, end] of [...spans].sort((a, b) => a[0] - b[0])) {
    const from = Math.max(start, at);
    if (end <= from) continue;
    if (from > at) pieces.push({ text: characters.slice(at, from).join(""), marked: false });
    pieces.push({ text: characters.slice(from, end).join(""), marked: true });
    at = end;
  }
  if (at < characters.length) pieces.push({ text: characters.slice(at).join(""), marked: false });
  return pieces;
}

/** Code points from start to end. */
export function slice(text, start, end) {
  return Array.from(text).slice(start, end).join("");
}

/**
 * A stretch of a document as GET .../text gives it, cut where its pieces and the quoted span begin and end:
 * [{text, marked, kind, page}]. kind: "text" | "heading" | "table" | "list" | "code" | "" between pieces; page: only where a new one begins.
 */
export function segments({ before, quote, after, before_start: first, start, end, after_end: last, places }) {
  const characters = Array.from(before + quote + after);
  const edges = new Set([first, start, end, last]);
  for (const place of places) {
    edges.add(Math.min(Math.max(place.start, first), last));
    edges.add(Math.min(Math.max(place.end, first), last));
  }
  const sorted = [...edges].sort((a, b) => a - b);
  const found = [];
  let page = null;
  for (let i = 0; i + 1 < sorted.length; i += 1) {
    const [from, to] = [sorted[i], sorted[i + 1]];
    const place = places.find((one) => one.start <= from && to <= one.end);
    const turned = place?.page && place.page !== page;
    if (turned) page = place.page;
    found.push({
      text: characters.slice(from - first, to - first).join(""),
      marked: start <= from && to <= end,
      kind: place?.kind ?? "",
      page: turned ? page : null,
    });
  }
  return found;
}
