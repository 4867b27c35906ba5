// The items of an evaluation: chosen, searched and shown some at a time. Whatever stands in them becomes text, never markup.
"use strict";
(() => {
  const { models, tasks } = JSON.parse(document.getElementById("data").textContent);
  const at = (id) => document.getElementById(id);
  const [taskBox, showBox, groupBox, searchBox, list, count] = ["task", "show", "group", "search", "list", "count"].map(at);
  const SOME = 60; // rows that are made at a time
  const two = models.length > 1;
  let chosen = [];
  let made = 0;
  let words = [];
  let waiting = 0; // for a pause in typing

  // ---------------------------------------------------------------------------------------------------- elements

  function element(name, attributes = {}, ...inside) {
    const node = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    node.append(...inside.filter((one) => one !== null && one !== undefined));
    return node;
  }

  // Control characters are made visible, as the rest of the page has them.
  const visible = (text) =>
    String(text).replace(/[\u0000-\u0008\u000b-\u001f\u007f\ufffe\uffff]/g, (char) =>
      char < " " ? String.fromCharCode(0x2400 + char.charCodeAt(0)) : "\ufffd");

  // A text with what was searched for marked in it.
  function marked(text) {
    const shown = visible(text);
    if (!words.length) return [shown];
    const low = shown.toLowerCase();
    if (low.length !== shown.length) return [shown]; // a letter that grows when it is made small: places would not agree
    const parts = [];
    let from = 0;
    for (;;) {
      let next = -1;
      let length = 0;
      for (const word of words) {
        const found = low.indexOf(word, from);
        if (found >= 0 && (next < 0 || found < next)) [next, length] = [found, word.length];
      }
      if (next < 0) break;
      parts.push(shown.slice(from, next), element("mark", {}, shown.slice(next, next + length)));
      from = next + length;
    }
    return [...parts, shown.slice(from)];
  }

  const block = (text, attributes = {}) =>
    text === "" ? element("p", { class: "nothing" }, "(nothing)") : element("pre", attributes, ...marked(text));

  const digits = (value) =>
    value === null || value === undefined ? "–" : Number.isInteger(value) ? String(value) : String(+value.toPrecision(4));

  // ------------------------------------------------------------------------------------------------------ grades

  const WORDS = { right: "right", wrong: "wrong", partly: "partly right", even: "not asked" };
  const SIGNS = { right: "✓", wrong: "✗", partly: "◐", even: "–" };

  const task = () => tasks[+taskBox.value];
  const place = () => task().columns.indexOf(task().known_by);

  function grade(item, model) {
    const grades = item.grades[model];
    return grades && place() >= 0 ? grades[place()] : null;
  }

  function verdict(item, model) {
    const value = grade(item, model);
    return value === null || value === undefined ? "even" : value >= 1 ? "right" : value <= 0 ? "wrong" : "partly";
  }

  const last = models.length - 1;
  const gained = (item) => {
    const [one, other] = [grade(item, 0), grade(item, last)];
    return one === null || other === null ? 0 : other - one;
  };

  // Name, whether an item belongs to it; the last model is the one that is looked at.
  function filters() {
    const whose = (model) => (two ? `: ${models[model]}` : "");
    const all = [["all", "all", () => true]];
    if (place() < 0) return all;
    if (two)
      all.push(
        ["down", `went down with ${models[last]}`, (item) => gained(item) < 0],
        ["up", `went up with ${models[last]}`, (item) => gained(item) > 0],
      );
    for (let model = last; model >= 0; model--)
      all.push(
        [`failed${model}`, `not right${whose(model)}`, (item) => ["wrong", "partly"].includes(verdict(item, model))],
        [`right${model}`, `right${whose(model)}`, (item) => verdict(item, model) === "right"],
      );
    if (two)
      all.push(["both", "not right with either", (item) => models.every((_, model) => ["wrong", "partly"].includes(verdict(item, model)))]);
    return all;
  }

  // ------------------------------------------------------------------------------------------------------ search

  const fold = (text) => text.normalize("NFKC").toLowerCase();
  const texts = new WeakMap();

  const promptText = (prompt) =>
    prompt === undefined ? "" : typeof prompt === "string" ? prompt : prompt.map((turn) => turn[1]).join("\n");

  // All that is an item's own: not the solved examples, which many share.
  function ownText(item) {
    if (!texts.has(item)) {
      const asked = (item.asked || []).flatMap((ones) => ones || []);
      const parts = asked.flatMap((one) => [promptText(one.prompt), ...(one.options || []), ...one.answers.filter((answer) => typeof answer === "string")]);
      texts.set(item, fold([item.id, item.group, item.target || "", item.data || "", ...parts].join("\n")));
    }
    return texts.get(item);
  }

  function preview(item) {
    const asked = (item.asked || []).flatMap((ones) => ones || []);
    const prompt = asked.length ? asked[0].prompt : undefined;
    const text = Array.isArray(prompt) ? prompt[prompt.length - 1][1] : promptText(prompt) || item.data || "";
    return visible(text.slice(0, 600).replace(/\s+/g, " ").trim()).slice(0, 240);
  }

  // -------------------------------------------------------------------------------------------------------- rows

  const end = element("div"); // below the rows: where it comes into sight, more are made
  const seen = new IntersectionObserver((ones) => ones.some((one) => one.isIntersecting) && more(), { rootMargin: "800px" });

  function marks(item) {
    if (place() < 0) return element("span", { class: "marks" });
    const each = models.map((name, model) => {
      const which = verdict(item, model);
      const title = two ? `${name}: ${WORDS[which]}` : WORDS[which];
      return element("span", { class: which, title: visible(title) }, element("span", { "aria-hidden": "true" }, SIGNS[which]), element("span", { class: "hidden" }, visible(`${title}. `)));
    });
    return element("span", { class: "marks" }, ...each);
  }

  function row(item) {
    const between = models.some((_, model) => verdict(item, model) === "partly");
    const grades = between ? models.map((_, model) => digits(grade(item, model))).join(" → ") : "";
    const summary = element(
      "summary",
      {},
      marks(item),
      element("bdi", { class: "id", title: visible(item.id) }, ...marked(item.id)),
      element("bdi", { class: "preview" }, ...marked(preview(item))),
      element("span", { class: "grade" }, grades),
    );
    const node = element("details", { class: "item" }, summary);
    node.addEventListener("toggle", () => {
      if (node.open && node.childElementCount < 2) node.append(inside(item));
    });
    return node;
  }

  function inside(item) {
    const node = element("div", { class: "inside" });
    if (item.group) node.append(element("h4", {}, "group"), element("bdi", {}, visible(item.group)));
    if (item.left_out) node.append(element("p", { class: "nothing" }, "Its texts are left out, for the page would be too large to open. The run's folder holds them, with --log-samples."));
    else if (!item.asked) node.append(element("p", { class: "nothing" }, "Its texts were not kept."));
    else node.append(...asked(item));
    if (item.data) node.append(element("h4", {}, "what it is about"), block(item.data, { class: "code" }));
    if (item.target) node.append(element("div", { class: "target" }, element("h4", {}, "right answer"), block(item.target)));
    node.append(element("h4", {}, "grades"), grades(item));
    return node;
  }

  function asked(item) {
    const sides = item.asked;
    const first = sides.find((ones) => ones) || [];
    const likeliest = sides.map((ones) => Math.max(...(ones || []).filter((one) => one.kind === "likelihood").flatMap((one) => one.answers.map((answer) => answer[0] ?? -Infinity))));
    if (first.length > 1 && first.every((one) => one.kind === "likelihood" && one.options.length === 1 && typeof one.prompt === "string"))
      return completions(sides, first, likeliest, item);
    return first.flatMap((one, number) => {
      const all = sides.map((ones) => (ones ? ones[number] : null));
      const nodes = prompts(all);
      if (one.kind === "likelihood") nodes.push(options(one, all, likeliest, item));
      else if (one.kind === "rolling") nodes.push(beside(all, (answer) => element("p", {}, `log-probability ${digits(answer[0])} of ${answer[2]} tokens`)));
      else nodes.push(beside(all, (answer) => block(answer, one.kind === "trial" ? { class: "code" } : {})));
      return nodes;
    });
  }

  // What was asked: once where it was the same for all models.
  function prompts(all) {
    return all.flatMap((one, model) => {
      if (!one || one.prompt === undefined) return [];
      const whose = two && all.filter((other) => other && other.prompt !== undefined).length > 1 ? `${models[model]}, ` : "";
      const nodes = [];
      if (one.begins !== undefined) {
        const beginning = task().beginnings[one.begins];
        const shared = element("details", {}, element("summary", {}, "begins with solved examples, as others do"));
        shared.addEventListener("toggle", () => shared.childElementCount < 2 && shared.append(...said(beginning, whose)));
        nodes.push(element("h4", {}, ""), shared);
      }
      if (one.prompt !== "") nodes.push(...said(one.prompt, whose));
      return nodes;
    });
  }

  const said = (prompt, whose) =>
    typeof prompt === "string"
      ? [element("h4", {}, visible(`${whose}prompt`)), block(prompt)]
      : prompt.flatMap(([role, content]) => [element("h4", {}, visible(`${whose}${role}`)), block(content)]);

  function beside(all, show) {
    const sides = all.map((one, model) => {
      if (!one) return element("div", {}, element("h4", {}, visible(models[model])), element("p", { class: "nothing" }, "(not asked)"));
      const title = two ? models[model] : one.kind === "writing" ? "answer" : "";
      return element("div", {}, element("h4", { class: two ? ["head-first", "head-second"][model] : "" }, visible(title)), ...one.answers.map(show));
    });
    return element("div", { class: "sides" }, ...sides);
  }

  // Several prompts of which each has one continuation: the prompts are what is chosen between.
  function completions(sides, first, likeliest, item) {
    const beginning = first[0].begins === undefined ? [] : prompts([{ ...first[0], prompt: "" }]);
    const texts = first.map((one) => ({ before: one.prompt, option: one.options[0] }));
    const answers = sides.map((ones) => first.map((_, number) => ones?.[number]?.answers[0]));
    return [...beginning, likelihoods(texts, answers, likeliest, item)];
  }

  function options(one, all, likeliest, item) {
    const answers = all.map((side) => one.options.map((_, number) => side?.answers[number]));
    return likelihoods(one.options.map((option) => ({ before: "", option })), answers, likeliest, item);
  }

  // A table of what was compared; answers: of each model, of each text.
  function likelihoods(texts, answers, likeliest, item) {
    const target = (item.target || "").trim();
    const right = new Set([target, ...target.split(" | ").map((text) => text.trim())].filter(Boolean));
    const head = element("tr", {}, element("th", { scope: "col", class: "text" }, "continuation"), ...models.map((name, model) => element("th", { scope: "col", class: two ? ["head-first", "head-second"][model] : "" }, visible(two ? name : "log-probability"))), element("th", { scope: "col" }, "tokens"));
    const rows = texts.map(({ before, option }, number) => {
      const here = answers.map((each) => each[number]);
      const cells = here.map((answer, model) => element("td", answer && answer[0] === likeliest[model] ? { class: "likeliest", title: "the likeliest" } : {}, answer ? digits(answer[0]) : "–"));
      const tokens = [...new Set(here.filter(Boolean).map((answer) => answer[2]))].join(" / ");
      const good = right.has(option.trim()) || right.has(before.trim()) || right.has((before + option).trim());
      const text = element("td", { class: good ? "text right" : "text" }, before ? element("span", { class: "before" }, ...marked(before)) : null, ...marked(option));
      if (good) text.append(element("span", { "aria-label": "right", role: "img" }, " ✓"));
      return element("tr", {}, text, ...cells, element("td", {}, tokens));
    });
    return element("table", { class: "options" }, element("thead", {}, head), element("tbody", {}, ...rows));
  }

  function grades(item) {
    const rows = task().columns.map((name, column) =>
      element("tr", {}, element("th", { scope: "row" }, visible(name)), ...item.grades.map((each) => element("td", {}, each ? digits(each[column]) : "–"))));
    const head = two ? element("thead", {}, element("tr", {}, element("td"), ...models.map((name) => element("th", { scope: "col" }, visible(name))))) : null;
    return element("table", { class: "grades" }, head, element("tbody", {}, ...rows));
  }

  // ---------------------------------------------------------------------------------------------------- choosing

  function fill(box, choices, wanted) {
    box.replaceChildren(...choices.map(([value, text]) => element("option", { value }, visible(text))));
    box.value = choices.some(([value]) => value === wanted) ? wanted : choices[0][0];
  }

  function offer(wanted = {}) {
    const groups = [...new Set(task().items.map((item) => item.group).filter(Boolean))];
    fill(groupBox, [["", "all"], ...groups.map((name) => [name, name])], wanted.group || "");
    at("groups").hidden = groups.length < 2;
    fill(showBox, filters(), wanted.show || "all");
  }

  function choose() {
    clearTimeout(waiting); // what was typed is taken in now
    const belongs = filters().find(([name]) => name === showBox.value)[2];
    const group = groupBox.value;
    words = fold(searchBox.value).split(/\s+/).filter(Boolean);
    chosen = task().items.filter((item) => belongs(item) && (!group || item.group === group) && words.every((word) => ownText(item).includes(word)));
    // The worst first; of two models those that lost most. Alike ones stay in the order of the data.
    const rank = (item) => (two ? [gained(item), grade(item, last) ?? 2] : [grade(item, last) ?? 2]);
    if (place() >= 0)
      chosen = chosen
        .map((item) => [rank(item), item])
        .sort(([one], [other]) => one[0] - other[0] || (one[1] ?? 0) - (other[1] ?? 0))
        .map(([, item]) => item);
    list.replaceChildren();
    made = 0;
    more();
    const all = task().items.length;
    count.textContent = chosen.length === all ? `${all.toLocaleString("en")} items` : `${chosen.length.toLocaleString("en")} of ${all.toLocaleString("en")} items`;
    keep();
  }

  function more() {
    const rows = chosen.slice(made, made + SOME).map(row);
    made += rows.length;
    list.append(...rows);
    seen.disconnect(); // looked at anew: a long window may still show the end
    if (made < chosen.length) seen.observe(end);
  }

  // What is looked at stands in the address, so that it can be sent on.
  function keep() {
    const state = new URLSearchParams();
    if (tasks.length > 1) state.set("task", task().task);
    if (showBox.value !== "all") state.set("show", showBox.value);
    if (groupBox.value) state.set("group", groupBox.value);
    if (searchBox.value) state.set("search", searchBox.value);
    try {
      history.replaceState(null, "", `${state}` ? `#${state}` : location.pathname + location.search);
    } catch {
      // A page that has no address of its own, such as one in a frame, keeps nothing.
    }
  }

  function recall() {
    const state = new URLSearchParams(location.hash.slice(1));
    const found = tasks.findIndex((one) => one.task === state.get("task"));
    taskBox.value = String(Math.max(found, 0));
    searchBox.value = state.get("search") || "";
    offer({ group: state.get("group"), show: state.get("show") });
    choose();
  }

  // ---------------------------------------------------------------------------------------------------- keyboard

  function step(by) {
    const rows = list.children;
    const here = [...rows].indexOf(document.activeElement?.closest?.(".item"));
    const next = here < 0 ? 0 : here + by;
    if (next >= rows.length - 5) more();
    const summary = rows[next]?.firstElementChild;
    summary?.focus();
    summary?.scrollIntoView({ block: "nearest" });
  }

  document.addEventListener("keydown", (event) => {
    const typing = event.target.matches("input, select, textarea");
    if (event.key === "Escape" && event.target === searchBox) searchBox.blur();
    if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
    const does = {
      "/": () => searchBox.focus(),
      j: () => step(1),
      k: () => step(-1),
      f: () => {
        showBox.selectedIndex = (showBox.selectedIndex + 1) % showBox.options.length;
        choose();
      },
    }[event.key];
    if (does) {
      event.preventDefault();
      does();
    }
  });

  // ----------------------------------------------------------------------------------------------------- opening

  if (!tasks.length) return at("items").remove();
  const form = document.querySelector(".controls");
  form.hidden = false;
  document.querySelector(".hint").hidden = false;
  form.addEventListener("submit", (event) => event.preventDefault());
  fill(taskBox, tasks.map((one, number) => [String(number), one.task]), "0");
  taskBox.parentElement.hidden = tasks.length < 2;
  taskBox.addEventListener("change", () => (offer({ show: showBox.value }), choose()));
  for (const box of [showBox, groupBox]) box.addEventListener("change", choose);
  searchBox.addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(choose, 150);
  });
  window.addEventListener("hashchange", recall);
  list.after(end);
  recall();
})();
