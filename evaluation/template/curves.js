// Learning curves of every run that has any, one chart per metric.
function renderCurves() {
  const runs = data.runs.filter((run) => Object.keys(run.curves).length);
  byId("curves-section").hidden = !runs.length;
  if (!runs.length) return;
  const metrics = [["reward", "reward", (v) => fixed(v)], ["accuracy", "accuracy", (v) => percent(v, 0)], ["nfe", "NFE", (v) => fixed(v, 1)]];
  const tone = (index) => (runs.length === 1 ? "var(--accent)" : PALETTE[index % PALETTE.length]);
  const charts = metrics.map(([name, title, yFormat]) => {
    const series = runs.flatMap((run, index) => [
      { points: run.curves[name] ?? [], colour: runs.length === 1 ? PALETTE[0] : tone(index), dots: false },
      { points: run.curves[`validation_${name}`] ?? [], colour: tone(index), dots: true },
    ]).filter((one) => one.points.length);
    return series.length ? el("article", { class: "card" }, el("h3", {}, title), lineChart(320, series, { yFormat, xLabel: "policy update" })) : null;
  });
  clear(byId("curves")).append(...charts.filter(Boolean));
  if (runs.length > 1) byId("curves").append(el("div", { class: "legend" }, runs.map((run, index) => el("span", { class: "shape" }, el("i", { style: `background:${tone(index)};display:inline-block;margin-right:6px` }), run.name))));
}
