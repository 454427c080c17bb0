// Accuracy against NFE with intervals; marks by sampler (colour) and block length (shape).
const hiddenFamilies = new Set();

function describe(arm) {
  return [
    `${arm.label}, block ${arm.block}`,
    `accuracy ${percent(arm.accuracy[0])} [${percent(arm.accuracy[1])}, ${percent(arm.accuracy[2])}]`,
    `NFE ${fixed(arm.nfe[0])} [${fixed(arm.nfe[1])}, ${fixed(arm.nfe[2])}]`,
    `reward ${fixed(arm.reward[0], 4)} [${fixed(arm.reward[1], 4)}, ${fixed(arm.reward[2], 4)}]`,
  ];
}

function paretoScales(view) {
  const lowest = Math.min(...view.arms.map((arm) => arm.accuracy[1]));
  const bottom = Math.max(0, Math.floor(20 * (lowest - 0.03)) / 20);
  const right = Math.max(2, ...view.arms.map((arm) => arm.nfe[2])) * 1.12;
  return { x: logarithmic(0.93, right), y: linear(bottom, 1.015) };
}

function renderPareto(view) {
  const holder = byId("pareto");
  const width = Math.max(280, holder.clientWidth);
  const { x, y } = paretoScales(view);
  const powers = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512].filter((tick) => tick <= x.high);
  const { svg, px, py } = frame(width, Math.max(300, Math.min(500, width * 0.52)), {
    x, y, xTicks: powers, yTicks: ticks(y.low, 1, 6), xLabel: "forward passes per answer (NFE, log scale)", yFormat: (v) => percent(v, 0),
  });
  const blocks = [...new Set(view.arms.map((arm) => arm.block))].sort((a, b) => a - b);
  const steps = view.frontier.filter(([nfe]) => nfe <= x.high);
  // The edge of what the heuristics dominate: each holds its accuracy until a better one needs more passes.
  const edge = steps.flatMap(([nfe, accuracy], i) => [[nfe, accuracy], [steps[i + 1]?.[0] ?? x.high, accuracy]]);
  svg.append(draw("polyline", { points: edge.map(([a, b]) => `${px(a)},${py(b)}`).join(" "), fill: "none", stroke: "var(--muted)", "stroke-dasharray": "5 4" }));
  const shown = view.arms.filter((arm) => !hiddenFamilies.has(arm.family));
  const marks = new Map();
  for (const arm of [...shown].sort((a, b) => Number(a.learned) - Number(b.learned))) {
    const [cx, cy, tone] = [px(Math.max(1, arm.nfe[0])), py(arm.accuracy[0]), colour(arm.family)];
    const mark = draw("g", { class: "mark", stroke: tone, fill: tone },
      draw("line", { x1: px(Math.max(0.93, arm.nfe[1])), x2: px(arm.nfe[2]), y1: cy, y2: cy, opacity: 0.5 }),
      draw("line", { x1: cx, x2: cx, y1: py(Math.max(y.low, arm.accuracy[1])), y2: py(arm.accuracy[2]), opacity: 0.5 }),
      draw("path", { d: shapePath(arm.learned ? "star" : SHAPES[blocks.indexOf(arm.block) % SHAPES.length], 5), transform: `translate(${cx},${cy})`, stroke: "var(--card)", "stroke-width": 1 }),
      draw("circle", { cx, cy, r: 13, fill: "transparent", stroke: "none" }));
    mark.addEventListener("pointerenter", (event) => showTip(describe(arm), event.pageX, event.pageY));
    mark.addEventListener("pointerleave", hideTip);
    svg.append(mark);
    marks.set(arm, { cx, cy, mark });
  }
  const champion = shown.find((arm) => arm.learned);
  if (champion) {
    const { cx, cy } = marks.get(champion);
    const side = cx > width * 0.6 ? "end" : "start";
    svg.append(draw("text", { class: "name", x: cx + (side === "end" ? -13 : 13), y: cy + 20, "text-anchor": side }, `${champion.label}: ${percent(champion.accuracy[0])} in ${fixed(champion.nfe[0])}`));
  }
  svg.setAttribute("tabindex", "0");
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", `${plural(shown.length, "mark")}: accuracy against forward passes. Arrow keys step from mark to mark.`);
  let current = -1;
  const byPasses = [...shown].sort((a, b) => a.nfe[0] - b.nfe[0]);
  const leave = () => { hideTip(); for (const { mark } of marks.values()) mark.classList.remove("dim"); };
  svg.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (event.key === "Escape") leave();
    if (!step || !byPasses.length) return;
    event.preventDefault();
    current = (current + step + byPasses.length) % byPasses.length;
    const corner = svg.getBoundingClientRect();
    const { cx, cy } = marks.get(byPasses[current]);
    for (const [arm, { mark }] of marks) mark.classList.toggle("dim", arm !== byPasses[current]);
    showTip(describe(byPasses[current]), corner.left + window.scrollX + cx, corner.top + window.scrollY + cy);
  });
  svg.addEventListener("blur", leave);
  clear(holder).append(svg);
  renderLegend(view, blocks);
}

function renderLegend(view, blocks) {
  const own = [...new Set(view.arms.map((arm) => arm.family))].sort((a, b) => Number(learnedFamilies.has(b)) - Number(learnedFamilies.has(a)) || a.localeCompare(b));
  const holder = clear(byId("legend"));
  for (const family of own) {
    const toggle = el("button", { type: "button", "aria-pressed": String(!hiddenFamilies.has(family)) }, el("i", { style: `background:${colour(family)}` }), family);
    toggle.addEventListener("click", () => {
      if (!hiddenFamilies.delete(family)) hiddenFamilies.add(family);
      renderPareto(view);
      [...byId("legend").querySelectorAll("button")].find((button) => button.textContent === family).focus();
    });
    holder.append(toggle);
  }
  for (const [index, block] of blocks.entries()) holder.append(el("span", { class: "shape" }, `${SIGNS[SHAPES[index % SHAPES.length]]} block ${block}`));
}
