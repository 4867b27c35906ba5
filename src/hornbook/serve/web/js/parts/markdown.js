// Markdown that a model, a document or a person wrote, as elements. Whatever it says, it becomes no script, no form, no style,
// no request: markdown-it leaves HTML as text, DOMPurify cleans what comes out, pictures become links, links open apart.
//
// While a text grows only its last blocks are drawn anew: each top-level block is kept with the lines it came from.

import DOMPurify from "../../vendor/dompurify-3.4.18/purify.es.mjs";
import hljs from "../../vendor/highlightjs-cdn-assets-11.12.0/highlight.min.js";
import MarkdownIt from "../../vendor/markdown-it-15.0.3/markdown-it.esm.min.mjs";
import { html, useLayoutEffect, useRef } from "../html.js";
import { t, useLanguage } from "../i18n.js";
import { drawMaths, maths } from "./maths.js";
import { announce } from "./toast.js";

const md = new MarkdownIt({ html: false, linkify: true, breaks: false }).use(maths);
md.linkify.set({ fuzzyLink: false, fuzzyEmail: false });

md.renderer.rules.image = (tokens, i) => {
  const source = tokens[i].attrGet("src") ?? "";
  const name = md.utils.escapeHtml(tokens[i].content || source);
  return `<a href="${md.utils.escapeHtml(source)}">${name}</a>`;
};
md.renderer.rules.fence = (tokens, i) => codeBlock(tokens[i].content, tokens[i].info.trim().split(/\s+/)[0]);
md.renderer.rules.code_block = (tokens, i) => codeBlock(tokens[i].content, "");
// A column's side as an attribute: markdown-it writes a style, which the page's policy forbids even where nobody sees it.
md.renderer.rules.th_open = md.renderer.rules.td_open = (tokens, i) => {
  const side = /text-align:(left|center|right)/.exec(tokens[i].attrGet("style") ?? "");
  return `<${tokens[i].tag}${side ? ` align="${side[1]}"` : ""}>`;
};
md.renderer.rules.table_open = () => '<div class="table"><table>';
md.renderer.rules.table_close = () => "</table></div>";

const LONGEST_COLOURED = 40_000; // characters; longer code is shown plain

function codeBlock(code, name) {
  const known = name && hljs.getLanguage(name);
  const coloured = known && code.length < LONGEST_COLOURED
    ? hljs.highlight(code, { language: name, ignoreIllegals: true }).value
    : md.utils.escapeHtml(code);
  return `<div class="code"><div class="code-head"><span>${md.utils.escapeHtml(known ? name : "")}</span></div>`
    + `<pre><code>${coloured}</code></pre></div>`;
}

const CLEAN = {
  ALLOWED_TAGS: ["p", "br", "hr", "h1", "h2", "h3", "h4", "h5", "h6", "em", "strong", "s", "code", "pre", "blockquote", "ul",
    "ol", "li", "a", "table", "thead", "tbody", "tr", "th", "td", "div", "span"],
  ALLOWED_ATTR: ["href", "title", "class", "start", "align"],
  ALLOWED_URI_REGEXP: /^(?:https?|mailto):/i,
  ADD_URI_SAFE_ATTR: ["align", "start"],
  ALLOW_DATA_ATTR: false,
};
const CLASSES = /^(?:hljs-[\w-]+|function_|class_|inherited__|code|code-head|table|maths|display|language-[\w+#.-]+)$/;

DOMPurify.addHook("afterSanitizeAttributes", (node) => {
  if (node.hasAttribute("class")) {
    node.className = node.className.split(/\s+/).filter((name) => CLASSES.test(name)).join(" ");
  }
  if (node.tagName === "A") {
    node.setAttribute("target", "_blank");
    node.setAttribute("rel", "noopener noreferrer");
  }
  // headings of a text begin below those of the page
  if (/^H[1-6]$/.test(node.tagName)) {
    node.setAttribute("role", "heading");
    node.setAttribute("aria-level", String(Math.min(6, Number(node.tagName[1]) + 2)));
  }
});

/** [{key, html}] of the top-level blocks of a text. */
function blocksOf(text) {
  const env = {};
  const tokens = md.parse(text, env);
  const lines = text.split("\n");
  const blocks = [];
  for (let from = 0; from < tokens.length; ) {
    let to = from;
    let depth = 0;
    do {
      depth += tokens[to].nesting;
      to += 1;
    } while (to < tokens.length && depth > 0);
    const [first, last] = tokens[from].map ?? [0, 0];
    blocks.push({ key: lines.slice(first, last).join("\n"), tokens: tokens.slice(from, to), env });
    from = to;
  }
  return blocks;
}

/** Text in Markdown. `growing`: more is to come, so that what is not closed yet may change. */
export function Markdown({ text, growing = false, inline: one = false }) {
  const language = useLanguage();
  const box = useRef(null);
  const drawn = useRef([]);
  useLayoutEffect(() => {
    const element = box.current;
    const blocks = one ? [{ key: text, inline: true }] : blocksOf(text);
    blocks.forEach((block, i) => {
      if (drawn.current[i] === block.key && element.children[i] && i < blocks.length - 1) return;
      const place = element.children[i] ?? element.appendChild(document.createElement(one ? "span" : "div"));
      const raw = block.inline ? md.renderInline(text) : md.renderer.render(block.tokens, md.options, block.env);
      place.innerHTML = DOMPurify.sanitize(raw, CLEAN);
      dress(place);
    });
    while (element.children.length > blocks.length) element.lastElementChild.remove();
    drawn.current = blocks.map((block) => block.key);
    if (!growing || text.length < 20_000) drawMaths(element).catch((error) => console.info(error.message));
  }, [text, growing, language]);
  return one ? html`<span ref=${box}></span>` : html`<div class="prose" ref=${box}></div>`;
}

/** What the sanitizer may not let through: the button that copies code, and a name for what scrolls. */
function dress(element) {
  for (const head of element.querySelectorAll(".code-head")) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "text-button";
    button.textContent = t("copy");
    button.addEventListener("click", async () => {
      await copyText(head.parentElement.querySelector("code").textContent);
      button.textContent = t("copied");
      setTimeout(() => (button.textContent = t("copy")), 1500);
    });
    head.append(button);
  }
  for (const scroller of element.querySelectorAll(".table, .code > pre")) {
    scroller.tabIndex = 0;
    scroller.setAttribute("role", "group");
    scroller.setAttribute("aria-label", t(scroller.className === "table" ? "table" : "code"));
  }
}

/** To the clipboard, also where the page came over plain HTTP from another machine and has no right to it. */
export async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = document.createElement("textarea");
    area.value = text;
    area.className = "unseen";
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  announce(t("copied"));
}

/** The sentences of a text that are whole, for a screen reader that hears them as they come. */
export function sentences(text) {
  const end = /[.!?](?=\s)|[。！？]|\n/g;
  const found = [];
  let from = 0;
  for (let match = end.exec(text); match; match = end.exec(text)) {
    const sentence = text.slice(from, match.index + 1).trim();
    if (sentence) found.push(sentence);
    from = match.index + 1;
  }
  return [found, text.slice(from)];
}
