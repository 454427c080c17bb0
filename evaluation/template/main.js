// Which task is shown, light or dark, and the words at the top and at the end.
let current = data.views[0];
const NOTHING = "No answer of this evaluation could be graded.";

function headline(view) {
  const [winner, best] = [view.arms[0], view.arms[view.best_heuristic]];
  const head = clear(byId("headline"));
  const figures = (arm) => `${percent(arm.accuracy[0])} right in ${fixed(arm.nfe[0])} passes`;
  if (winner.learned && best) head.append("The ", el("em", {}, "learned policy"), ` gets ${figures(winner)}. The best heuristic: ${figures(best)}.`);
  else head.append(`${winner.label}, block ${winner.block}, is ahead: `, el("em", {}, figures(winner)), ".");
  const models = [...new Set(data.runs.flatMap((run) => run.models.map((model) => model.name)))].join(", ");
  byId("byline").textContent = `${data.runs.map((run) => run.name).join(", ")}; model ${models}, ${view.name}, ${plural(view.num_examples, "held-out problem")}, canvas of ${view.canvas_length} tokens${data.alpha == null ? "" : `, alpha = ${data.alpha}`}`;
  document.title = `${view.name}: evaluation of ${data.runs.map((run) => run.name).join(", ")}`;
}

function tiles(view) {
  const [winner, best] = [view.arms[0], view.arms[view.best_heuristic]];
  const learned = view.arms.find((arm) => arm.learned);
  const found = [[winner.label, `best reward, ${fixed(winner.reward[0], 4)}, block ${winner.block}`]];
  if (learned?.difference) found.push([signed(learned.difference[0]), `reward over the best heuristic [${signed(learned.difference[1])}, ${signed(learned.difference[2])}], ${chance(learned.difference[3])}`]);
  if (learned && best) found.push([`${fixed(best.nfe[0] / learned.nfe[0])}×`, `passes of ${best.label} over those of the learned policy`]);
  found.push([percent(view.hypervolume.all), `hypervolume: share of (log NFE) × accuracy that is dominated; heuristics alone ${percent(view.hypervolume.heuristics)}`]);
  clear(byId("tiles")).append(...found.map(([big, small]) => el("div", { class: "tile" }, el("b", {}, big), el("span", {}, small))));
}

function about() {
  const holder = clear(byId("about"));
  for (const run of data.runs) {
    const { code = {}, driver = {}, actors = [], settings = {}, command = [], written } = run.manifest;
    const actor = actors[0] ?? driver;
    const rows = [
      ["written", written], ["command", command.join(" ")],
      ["code", code.commit ? `${code.commit}${code.has_changes ? " with changes" : ""}` : code.source && `source ${code.source.slice(0, 16)}`],
      ["libraries", ["python", "torch", "transformers", "ray", "numpy"].filter((name) => actor[name]).map((name) => `${name} ${actor[name]}`).join(", ")],
      ["device", [run.models[0].device, actor.device, actor.driver && `driver ${actor.driver}`, actor.platform].filter(Boolean).join(", ")],
      ["model", run.models.map((model) => [model.name, model.revision, model.dtype].filter(Boolean).join(", ")).join("; ")],
      ["settings", JSON.stringify(settings)],
    ].filter(([, value]) => value);
    holder.append(el("h3", {}, run.name), el("dl", {}, rows.map(([name, value]) => [el("dt", {}, name), el("dd", {}, value)])));
  }
}

function tabs() {
  const holder = clear(byId("tasks"));
  if (data.views.length < 2) return;
  for (const view of data.views) {
    holder.append(el("button", { type: "button", "aria-current": String(view === current), onclick: () => { current = view; render(); [...holder.children].find((tab) => tab.textContent === view.name).focus(); } }, view.name));
  }
}

function render() {
  hideTip();
  tabs(); headline(current); tiles(current); renderPareto(current); renderReplay(current); renderSamplers(current); renderTable(current); renderCurves();
}

const systemTheme = window.matchMedia("(prefers-color-scheme: dark)");
function setTheme(isDark) {
  document.documentElement.dataset.theme = isDark ? "dark" : "light";
  if (current) renderSamplers(current);
}
byId("theme").addEventListener("click", () => setTheme(document.documentElement.dataset.theme !== "dark"));
systemTheme.addEventListener("change", () => setTheme(systemTheme.matches));
document.documentElement.dataset.theme = systemTheme.matches ? "dark" : "light";

let lastWidth = document.documentElement.clientWidth;
window.addEventListener("resize", () => {
  if (document.documentElement.clientWidth === lastWidth) return;
  lastWidth = document.documentElement.clientWidth;
  if (current) renderPareto(current);
});
about();
if (current) render();
else { byId("headline").textContent = NOTHING; for (const section of document.querySelectorAll("main section:not(:last-child)")) section.hidden = true; }
