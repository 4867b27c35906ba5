// Mathematics in Markdown: $…$, \(…\) in a line, $$…$$, \[…\] and \begin{…} on lines of their own. The rules only mark the
// place and keep the source; KaTeX draws it after the sanitizer has seen the text, and it is fetched only when there is any.

/** A plugin of markdown-it. A dollar opens before a character and closes behind one, so that "$5 and $6" is money. */
export function maths(md) {
  md.inline.ruler.before("escape", "maths", inline);
  md.block.ruler.before("fence", "maths_block", block, { alt: ["paragraph", "blockquote", "list"] });
  const rule = (tag, display) => (tokens, i) =>
    `<${tag} class="maths ${display}">${md.utils.escapeHtml(tokens[i].content)}</${tag}>`;
  md.renderer.rules.maths = rule("span", "");
  md.renderer.rules.maths_display = rule("span", "display");
  md.renderer.rules.maths_block = rule("div", "display");
}

const PAIRS = [["$$", "$$"], ["\\[", "\\]"], ["\\(", "\\)"], ["$", "$"]];

const CHINESE = /[\u3000-\u9fff\uac00-\ud7af\uff00-\uffef]/;

function inline(state, silent) {
  const { src, pos } = state;
  const pair = PAIRS.find(([open]) => src.startsWith(open, pos));
  if (!pair) return false;
  const [open, close] = pair;
  const start = pos + open.length;
  let end = src.indexOf(close, start);
  if (open === "$") {
    while (end >= 0 && src[end - 1] === "\\") end = src.indexOf(close, end + 1);
    const between = src.slice(start, Math.max(start, end));
    if (CHINESE.test(between) && !between.includes("\\text")) return false; // 价格$5元。公式$x$
    if (/\s|\$/.test(src[start] ?? " ") || /\s/.test(src[end - 1] ?? " ") || /\d/.test(src[end + 1] ?? "")) return false;
  }
  if (end <= start || end >= state.posMax + 1) return false;
  if (!silent) {
    const token = state.push(open === "$" || open === "\\(" ? "maths" : "maths_display", "", 0);
    token.content = src.slice(start, end).trim();
  }
  state.pos = end + close.length;
  return true;
}

function block(state, from, to, silent) {
  const lineAt = (n) => state.src.slice(state.bMarks[n] + state.tShift[n], state.eMarks[n]);
  const first = lineAt(from).trim();
  const opening = ["$$", "\\["].find((open) => first.startsWith(open));
  if (!opening) return false;
  const closing = opening === "$$" ? "$$" : "\\]";
  let line = from;
  let text = first.slice(opening.length);
  while (!text.trimEnd().endsWith(closing)) {
    line += 1;
    if (line >= to || (state.sCount[line] < state.blkIndent && lineAt(line))) return false; // not closed, or not yet
    text += `\n${lineAt(line)}`;
  }
  if (silent) return true;
  const token = state.push("maths_block", "", 0);
  token.block = true;
  token.content = text.trimEnd().slice(0, -closing.length).trim();
  token.map = [from, line + 1];
  state.line = line + 1;
  return true;
}

let library = null;

function fetched() {
  library ??= new Promise((resolve, reject) => {
    const style = document.createElement("link");
    style.rel = "stylesheet";
    style.href = "vendor/katex-0.19.1/katex.min.css";
    document.head.append(style);
    import("../../vendor/katex-0.19.1/katex.min.js").then(() => resolve(globalThis.katex), reject);
  });
  return library;
}

// What comes from a model may not link, nor grow without bound, nor fill the console.
const CAREFUL = { throwOnError: true, trust: false, strict: false, maxExpand: 200, maxSize: 20 };

/** KaTeX gives a few drawings (the arrow of \vec) their width as a style attribute, which the page's policy forbids. As a
    property it may be set: for the time of one drawing it is. */
function withoutStyleAttributes(draw) {
  const { setAttribute } = Element.prototype;
  SVGElement.prototype.setAttribute = function (name, value) {
    if (name === "style") this.style.cssText = value;
    else setAttribute.call(this, name, value);
  };
  try {
    draw();
  } finally {
    delete SVGElement.prototype.setAttribute;
  }
}

/** Draw what the rules marked inside an element. What KaTeX cannot read stays as it was written. */
export async function drawMaths(element) {
  const places = [...element.querySelectorAll(".maths:not([data-drawn])")];
  if (places.length === 0) return;
  const katex = await fetched();
  for (const place of places) {
    if (place.dataset.drawn) continue;
    const source = place.textContent;
    place.dataset.drawn = "yes";
    place.title = source;
    try {
      withoutStyleAttributes(() => katex.render(source, place, { ...CAREFUL, displayMode: place.classList.contains("display") }));
    } catch {
      place.textContent = source;
      place.classList.add("unread");
    }
  }
}
