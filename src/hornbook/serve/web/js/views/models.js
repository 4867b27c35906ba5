// Models: what is here and what it needs, what can be fetched, one of one's own, and how fast each is on this machine.

import { api } from "../api.js";
import { html, useCallback, useEffect, useRef, useState } from "../html.js";
import { bytes, moment, number, t, useLanguage } from "../i18n.js";
import { Bench } from "../parts/bench.js";
import { Button } from "../parts/button.js";
import { chatWith } from "../parts/chat_with.js";
import { confirm } from "../parts/dialog.js";
import { Icon } from "../parts/icons.js";
import { JobLine, useJobs } from "../parts/jobs.js";
import { Menu } from "../parts/menu.js";
import { ModelfileForm } from "../parts/modelfile.js";
import { announce, complain } from "../parts/toast.js";
import { Topbar } from "../parts/topbar.js";
import { refreshHouse } from "../house.js";

export default function Models() {
  useLanguage();
  const [shelf, setShelf] = useState(null);
  const [problem, setProblem] = useState(null);
  const [making, setMaking] = useState(null); // the Modelfile that the form opens with
  const read = useCallback(() => {
    refreshHouse();
    return api.get("/api/hornbook/models").then((answer) => { setShelf(answer); setProblem(null); }, setProblem);
  }, []);
  const [jobs, follow] = useJobs(read);
  useEffect(() => {
    document.title = `${t("nav.models")} · Hornbook`;
    read();
  }, []);

  const pull = async (source) => {
    try {
      follow(await api.post("/api/hornbook/jobs/pull", { source }));
      return true;
    } catch (error) {
      complain(error);
      return false;
    }
  };
  // Of each model the last try, as long as it says something that the lists do not.
  const tries = new Map(jobs.filter((job) => job.kind === "pull").map((job) => [job.name, job]));
  const isHere = (name) => shelf?.models.some((model) => model.here && model.name === name);
  const pulls = [...tries.values()].filter((job) => job.state !== "done" && !(job.state === "cancelled" && isHere(job.name)));
  const isPulled = (model) => pulls.some((job) => job.name === model.name && ["running", "stopping"].includes(job.state));
  const here = shelf?.models.filter((model) => model.here) ?? [];
  const away = shelf?.models.filter((model) => !model.here) ?? [];

  return html`<${Topbar} title=${t("nav.models")}>
      <${Button} icon="plus" onClick=${() => setMaking("")}>${t("models.create")}<//>
    <//>
    <div class="page"><div class="stack wide-gaps">
      ${problem && html`<div class="notice error" role="alert">${problem.what} <span class="quiet">${problem.remedy}</span>
        <${Button} onClick=${read}>${t("retry")}<//></div>`}
      ${!shelf && !problem && html`<p class="quiet">${t("loading")}</p>`}
      ${shelf?.damaged.map((one) => html`<div class="notice error" key=${one.name}>${one.what} <span class="quiet">${one.remedy}</span></div>`)}
      ${shelf && html`<section class="stack" aria-labelledby="models-here">
        <h2 id="models-here">${t("models.here")}</h2>
        ${here.length === 0 && html`<p class="quiet">${t("models.none")}</p>`}
        <ul class="shelf">${here.map((model) => html`<${Model} key=${model.name} model=${model} onChange=${read}
          jobs=${jobs} follow=${follow} onMake=${setMaking} isDefault=${model.name === shelf.default} />`)}</ul>
      </section>
      <section class="stack" aria-labelledby="models-away">
        <h2 id="models-away">${t("models.fetch")}</h2>
        ${shelf.offline && html`<p class="notice warn">${t("models.offline")}</p>`}
        <${PullForm} onPull=${pull} />
        ${pulls.map((job) => html`<${JobLine} key=${job.id} job=${job} />`)}
        <ul class="shelf">${away.map((model) => html`<li key=${model.name}><div class="shelf-row">
          <span class="grow"><span class="shelf-name">${model.name}</span><span class="facts quiet small">${model.facts.title}</span>
            <span class="facts quiet small">${[bytes(model.size), t(`models.kind.${model.kind}`)].join(" · ")} · <${Licence} model=${model} /></span></span>
          <${Button} icon="download" disabled=${isPulled(model)} onClick=${() => pull(model.name)}
            aria-label=${t("models.pull.one", { name: model.name })}>${t("models.pull")}<//>
        </div></li>`)}</ul>
      </section>`}
    </div></div>
    ${making !== null && html`<${ModelfileForm} text=${making} models=${here} onClose=${() => setMaking(null)}
      onMade=${(name) => { setMaking(null); announce(t("models.made", { name })); read(); }} />`}`;
}

function Licence({ model }) {
  const name = model.licence || t("models.licence.none");
  return model.terms ? html`<a href=${model.terms} target="_blank" rel="noreferrer noopener">${name}</a>` : name;
}

function PullForm({ onPull }) {
  const field = useRef(null);
  const submit = async (event) => {
    event.preventDefault();
    const source = field.current.value.trim();
    if (!source) return field.current.focus();
    if (await onPull(source)) field.current.value = "";
  };
  return html`<form class="make row" onSubmit=${submit}>
    <label class="grow"><span class="unseen">${t("models.source")}</span>
      <input ref=${field} name="source" maxlength="300" placeholder=${t("models.source.hint")} autocomplete="off" spellcheck="false" /></label>
    <button type="submit" class="button"><${Icon} name="download" /><span>${t("models.pull")}</span></button>
  </form>`;
}

// ----------------------------------------------------------------------------------------------------------- one model

function Model({ model, onChange, jobs, follow, onMake, isDefault }) {
  const [needs, setNeeds] = useState(null);
  const [busy, setBusy] = useState(false);
  const [measuring, setMeasuring] = useState(null); // null: as long as there is a measurement to show
  const name = encodeURIComponent(model.name);
  useEffect(() => {
    const stop = new AbortController();
    api.get(`/api/hornbook/models/needs?name=${name}`, { signal: stop.signal }).then(
      setNeeds,
      (error) => error.name !== "AbortError" && setNeeds({ problem: error.what, remedy: error.remedy }),
    );
    return () => stop.abort();
  }, [model.name, Boolean(model.loaded)]);

  const work = async (doing, done) => {
    setBusy(true);
    try {
      await doing();
      announce(done);
      await onChange();
    } catch (error) {
      complain(error);
    } finally {
      setBusy(false);
    }
  };
  const load = () => work(() => api.post("/api/hornbook/models/load", { name: model.name }), t("models.loaded", { name: model.name }));
  const unload = () => work(() => api.post("/api/hornbook/models/unload", { name: model.name }), t("models.unloaded", { name: model.name }));
  const remove = async () => {
    const text = model.made_from ? t("models.remove.made") : t("models.remove.text", { size: bytes(model.size) });
    if (!(await confirm(t("models.remove", { name: model.name }), text, { yes: t("delete"), danger: true }))) return;
    await work(() => api.delete(`/api/hornbook/models?name=${name}`), t("models.removed", { name: model.name }));
  };
  const copy = async () => {
    try {
      onMake((await api.get(`/api/hornbook/models/modelfile?name=${name}`)).modelfile);
    } catch (error) {
      complain(error);
    }
  };

  const writes = model.kind !== "embedder";
  const menu = [
    writes && { label: t("models.chat"), icon: "send", run: () => chatWith({ model: model.name }) },
    writes && { label: t("models.base"), icon: "edit", run: copy },
    writes && { label: t("models.bench"), icon: "chart", run: () => setMeasuring(true) },
    model.removable && { label: t("delete"), icon: "trash", danger: true, run: remove },
  ].filter(Boolean);
  const { facts } = model;
  const told = [
    t(`models.kind.${model.kind}`),
    model.size ? bytes(model.size) : "",
    facts.parameters ? t("models.parameters", { n: short(facts.parameters) }) : "",
    facts.quantisation ?? "",
    facts.context_length ? t("models.context", { n: facts.context_length }) : "",
  ].filter(Boolean).join(" · ");

  return html`<li class="model">
    <div class="shelf-row">
      <span class="grow"><span class="shelf-name">${model.name}${isDefault && html` <span class="tag">${t("models.default")}</span>`}</span>
        <span class="facts quiet small">${model.made_from && `${t("models.made.from", { name: model.made_from })} · `}${told} · <${Licence} model=${model} /></span>
        <${Needs} needs=${needs} />
        ${model.loaded && html`<span class="facts small loaded">${[
          t("models.in.memory", { size: bytes(model.loaded.bytes) }),
          model.loaded.users ? t("models.in.use") : model.loaded.expires ? t("models.until", { time: moment(model.loaded.expires) }) : "",
        ].filter(Boolean).join(" · ")}</span>`}
      </span>
      ${model.loaded
        ? html`<${Button} icon="eject" disabled=${busy} onClick=${unload} aria-label=${t("models.unload.one", { name: model.name })}>${t("models.unload")}<//>`
        : html`<${Button} icon="play" disabled=${busy || Boolean(needs?.problem)} onClick=${load} aria-label=${t("models.load.one", { name: model.name })}>${busy ? t("models.loading") : t("models.load")}<//>`}
      <${Menu} label=${t("models.menu", { name: model.name })} items=${menu} class="icon-button"><${Icon} name="more" /><//>
    </div>
    ${(measuring ?? jobs.some((job) => job.kind === "bench" && job.name === model.name)) && html`
      <${Bench} model=${model.name} jobs=${jobs} follow=${follow} onClose=${() => setMeasuring(false)} />`}
  </li>`;
}

/** What running it takes, against what is free. */
function Needs({ needs }) {
  if (!needs) return html`<span class="facts quiet small">${t("models.needs.asking")}</span>`;
  if (needs.problem) return html`<span class="facts small red">${needs.problem} <span class="quiet">${needs.remedy}</span></span>`;
  const parts = Object.entries(needs.parts).map(([part, size]) => `${t(`models.part.${part}`)} ${bytes(size)}`).join(", ");
  const words = t("models.needs", { size: bytes(needs.peak), tokens: number(needs.context) });
  return html`<span class="facts small ${needs.fits === false ? "red" : "quiet"}" title=${parts}>${[
    words,
    needs.free === null ? "" : t(needs.fits ? "models.free" : "models.free.not", { size: bytes(needs.free) }),
    needs.fits === false && needs.longest ? t("models.longest", { n: needs.longest }) : "",
    needs.executor,
  ].filter(Boolean).join(" · ")}</span>`;
}

function short(count) {
  const units = ["", "k", "M", "B"];
  let power = 0;
  while (count >= 1000 && power < 3) {
    count /= 1000;
    power += 1;
  }
  return `${number(count, count < 10 ? 1 : 0)}${units[power]}`;
}
