// Every number, sortable; by default one line per sampler and block length, the one with the best reward.
const tableState = { all: false, column: "reward", up: false };

const COLUMNS = [
  { key: "label", name: "sampler", value: (arm) => arm.label, text: (arm) => arm.label },
  { key: "block", name: "block", value: (arm) => arm.block, text: (arm) => String(arm.block) },
  { key: "accuracy", name: "accuracy", value: (arm) => arm.accuracy[0], text: (arm) => percent(arm.accuracy[0]), small: (arm) => `[${percent(arm.accuracy[1])}, ${percent(arm.accuracy[2])}]` },
  { key: "nfe", name: "NFE", value: (arm) => arm.nfe[0], text: (arm) => fixed(arm.nfe[0]), small: (arm) => (arm.spread.nfe == null ? "" : `±${fixed(arm.spread.nfe)}`) },
  { key: "reward", name: "reward", value: (arm) => arm.reward[0], text: (arm) => fixed(arm.reward[0], 4), small: (arm) => `[${fixed(arm.reward[1], 3)}, ${fixed(arm.reward[2], 3)}]` },
  { key: "difference", name: "vs best heuristic", value: (arm) => arm.difference?.[0] ?? 0, text: (arm) => (arm.difference ? signed(arm.difference[0]) : "–"), small: (arm) => (arm.difference ? `${chance(arm.difference[4])} (Holm)` : "") },
  { key: "tokens_per_pass", name: "tokens/pass", value: (arm) => arm.tokens_per_pass, text: (arm) => fixed(arm.tokens_per_pass) },
  { key: "tokens_per_second", name: "tokens/s", value: (arm) => arm.tokens_per_second ?? 0, text: (arm) => (arm.tokens_per_second == null ? "–" : Math.round(arm.tokens_per_second).toLocaleString("en")) },
  { key: "num_examples", name: "problems", value: (arm) => arm.num_examples, text: (arm) => String(arm.num_examples) },
  { key: "num_seeds", name: "seeds", value: (arm) => arm.num_seeds, text: (arm) => String(arm.num_seeds) },
];

function tableRow(view, arm) {
  const isWinner = arm === view.arms[0];
  const cells = COLUMNS.map((column) => {
    const small = column.small?.(arm);
    const badge = column.key === "label" && isWinner ? el("span", { class: "crown" }, "best") : null;
    return el("td", {}, column.text(arm), small ? el("small", {}, ` ${small}`) : null, badge);
  });
  const notes = [arm.num_step_limit ? `${plural(arm.num_step_limit, "row")} hit the step cap` : "", arm.num_grader_errors ? plural(arm.num_grader_errors, "grader error") : ""];
  return el("tr", { class: `${arm.learned ? "learned" : ""} ${isWinner ? "winner" : ""}`, title: notes.filter(Boolean).join(", ") || null }, cells);
}

function renderTable(view) {
  const best = view.arms[view.best_heuristic];
  byId("table-note").textContent = `${plural(view.num_examples, "held-out problem")}; 95% intervals (Wilson, bootstrap over problems), ± is the standard deviation over seeds. `
    + (best ? `Differences in reward and their p-values (sign-flip test) are paired by problem against ${best.label}, block ${best.block}: the best heuristic, chosen with hindsight, which favours the heuristics. ` : "")
    + "Tokens are those of the answer; tokens per second are per actor and leave its first shard out.";
  const arms = view.arms.filter((arm) => tableState.all || arm.order || arm.learned);
  const column = COLUMNS.find((one) => one.key === tableState.column);
  const sign = tableState.up ? 1 : -1;
  const compare = (a, b) => (a < b ? -1 : a > b ? 1 : 0);
  const rows = [...arms].sort((a, b) => sign * compare(column.value(a), column.value(b)));
  const heads = COLUMNS.map((one) => {
    const isSorted = one === column;
    const name = `${one.name}${isSorted ? (tableState.up ? " ↑" : " ↓") : ""}`;
    const sort = () => {
      Object.assign(tableState, { column: one.key, up: isSorted ? !tableState.up : one.key === "label" || one.key === "nfe" });
      renderTable(view);
      byId(`sort-${one.key}`).focus();
    };
    return el("th", { scope: "col", "aria-sort": isSorted ? (tableState.up ? "ascending" : "descending") : null }, el("button", { type: "button", id: `sort-${one.key}`, onclick: sort }, name));
  });
  const toggle = () => { tableState.all = !tableState.all; renderTable(view); byId("table-all").focus(); };
  clear(byId("table")).append(
    el("div", { class: "controls" }, el("button", { type: "button", id: "table-all", "aria-pressed": String(tableState.all), onclick: toggle }, `All ${view.arms.length} settings`)),
    el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Table of results" }, el("table", {}, el("thead", {}, el("tr", {}, heads)), el("tbody", {}, rows.map((arm) => tableRow(view, arm))))));
}
