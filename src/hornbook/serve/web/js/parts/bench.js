// How fast a model is here: measured when asked, figures as they come, and a plot of speed against answers at once.

import { api } from "../api.js";
import { html, useEffect, useRef } from "../html.js";
import { number, t } from "../i18n.js";
import { theme, useCell } from "../state.js";
import { Button, IconButton } from "./button.js";
import { stopJob } from "./jobs.js";
import { complain } from "./toast.js";

export function Bench({ model, jobs, follow, onClose }) {
  const job = jobs.findLast((one) => one.kind === "bench" && one.name === model);
  const running = job && ["running", "stopping"].includes(job.state);
  const begin = async () => {
    try {
      follow(await api.post("/api/hornbook/jobs/bench", { name: model }));
    } catch (error) {
      complain(error);
    }
  };
  return html`<section class="bench" aria-label=${t("bench.title", { name: model })}>
    <div class="row"><h3 class="grow">${t("bench.heading")}</h3>
      ${running
        ? html`<${Button} icon="stop" disabled=${job.state === "stopping"} onClick=${() => stopJob(job)}>${t("stop")}<//>`
        : html`<${Button} icon="chart" onClick=${begin}>${t(job ? "bench.again" : "bench.begin")}<//>
          <${IconButton} icon="close" label=${t("close")} onClick=${onClose} />`}
    </div>
    ${!job && html`<p class="quiet small">${t("bench.about")}</p>`}
    ${running && html`<div><div class="small quiet" aria-live="polite">${job.total ? `${measureName(job.said)} · ${job.done + 1}/${job.total}` : t("bench.loading")}</div>
      <progress max=${job.total || 1} value=${job.total ? job.done : undefined} aria-label=${t("bench.heading")}></progress></div>`}
    ${job?.state === "failed" && html`<div class="notice error" role="alert">${job.error.what} <span class="quiet">${job.error.remedy}</span></div>`}
    ${job?.state === "cancelled" && html`<p class="quiet small">${t("ask.stopped")}</p>`}
    ${job?.rows.length > 0 && html`<${Figures} rows=${job.rows} />`}
  </section>`;
}

const measureName = (key) => (key === "loading" ? t("bench.loading") : t(`bench.${key}`));

function Figures({ rows }) {
  const speeds = rows.filter((row) => row.batch && row.value !== null);
  return html`<div class="figures">
    <table><caption class="unseen">${t("bench.heading")}</caption>
      <thead><tr><th scope="col">${t("bench.what")}</th><th scope="col" class="figure">${t("bench.figure")}</th></tr></thead>
      <tbody>${rows.map((row) => html`<tr key=${row.measure}><th scope="row">${measureName(row.measure)}</th>
        <td class="figure">${row.value === null ? "–" : number(row.value, row.value < 100 ? 1 : 0)} ${t(`bench.unit.${row.unit}`)}</td></tr>`)}</tbody>
    </table>
    ${speeds.length > 1 && html`<${Plot} rows=${speeds} />`}
  </div>`;
}

/** Tokens a second of all answers together, by how many are written at once. The table says the same to who cannot see it. */
function Plot({ rows }) {
  const box = useRef(null);
  const colours = useCell(theme);
  useEffect(() => {
    let plot = null;
    let gone = false;
    import("../../vendor/uplot-1.6.32/uPlot.esm.js").then(({ default: UPlot }) => {
      if (gone) return;
      const style = getComputedStyle(document.documentElement);
      const of = (name) => style.getPropertyValue(name).trim();
      const axis = { stroke: of("--ink-2"), grid: { stroke: of("--line"), width: 1 }, ticks: { stroke: of("--line"), width: 1 } };
      const places = rows.map((row) => row.batch);
      plot = new UPlot({
        width: box.current.clientWidth,
        height: 200,
        legend: { show: false },
        cursor: { show: false },
        scales: { x: { time: false, distr: 3, log: 2 }, y: { range: (_, __, most) => [0, most * 1.1] } },
        axes: [
          { ...axis, label: t("bench.axis.at.once"), labelSize: 24, labelFont: "12px sans-serif", splits: () => places, values: (_, at) => at.map(String), filter: (_, at) => at },
          { ...axis, label: t("bench.axis.speed"), labelSize: 24, labelFont: "12px sans-serif", size: 56 },
        ],
        series: [{}, { stroke: of("--accent"), width: 2, points: { size: 8, fill: of("--accent") } }],
      }, [places, rows.map((row) => row.value)], box.current);
    });
    return () => {
      gone = true;
      plot?.destroy();
    };
  }, [rows.length, colours]);
  return html`<div class="plot" ref=${box} role="img" aria-label=${t("bench.plot")}></div>`;
}
