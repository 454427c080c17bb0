// One card per sampler: its heat map of unmasking order and its histogram of passes.
function heatMap(order) {
  const [rows, columns] = [order.cells.length, order.cells[0].length];
  const canvas = el("canvas", { class: "heat", width: columns, height: rows, role: "img", "aria-label": `order of unmasking over ${order.num_passes} passes` });
  const context = canvas.getContext("2d");
  const tone = getComputedStyle(document.documentElement).getPropertyValue("--heat").trim().split(" ").join(",");
  order.cells.forEach((line, y) => line.forEach((share, x) => {
    if (!share) return;
    context.fillStyle = `rgba(${tone},${0.08 + 0.92 * Math.sqrt(share / 100)})`;
    context.fillRect(x, y, 1, 1);
  }));
  return canvas;
}

function histogram(arm, width, limit) {
  const height = 96;
  const total = arm.histogram.reduce((sum, [, count]) => sum + count, 0);
  const numBins = Math.min(limit, 40);
  const bins = Array(numBins).fill(0);
  for (const [nfe, count] of arm.histogram) bins[Math.min(numBins - 1, Math.floor(((nfe - 1) * numBins) / limit))] += count / total;
  const top = Math.max(...bins);
  const svg = draw("svg", { viewBox: `0 0 ${width} ${height}`, height, role: "img", "aria-label": `passes per answer: mean ${fixed(arm.nfe[0])}` });
  bins.forEach((share, i) => {
    const tall = (share / top) * (height - 24);
    if (share) svg.append(draw("rect", { x: (i * width) / numBins + 0.5, width: Math.max(1, width / numBins - 1), y: height - 18 - tall, height: tall, rx: 1.5, fill: colour(arm.family) }));
  });
  svg.append(
    draw("line", { class: "axis", x1: 0, x2: width, y1: height - 18, y2: height - 18 }),
    draw("text", { x: 0, y: height - 4 }, "1"),
    draw("text", { x: width / 2, y: height - 4, "text-anchor": "middle" }, `mean ${fixed(arm.nfe[0])}`),
    draw("text", { x: width, y: height - 4, "text-anchor": "end" }, `${limit} passes`));
  return svg;
}

function samplerCard(view, family, limit) {
  const arms = view.arms.filter((arm) => arm.family === family && arm.order);
  const body = el("div");
  const show = (index) => {
    const arm = arms[index];
    clear(body).append(
      el("p", { class: "muted figures" }, `${percent(arm.accuracy[0])} right in ${fixed(arm.nfe[0])} passes`),
      heatMap(arm.order),
      el("div", { class: "ends" }, el("span", {}, "first token"), el("span", {}, `${arm.order.num_passes} passes, top to bottom`), el("span", {}, "last")),
      histogram(arm, 280, limit));
  };
  show(0);
  const names = arms.map((arm) => `${arm.label}, block ${arm.block}`);
  return el("article", { class: "card" }, el("h3", { style: `color:${colour(family)}` }, family), chooser(`Setting of ${family}`, names, 0, show), body);
}

function renderSamplers(view) {
  const own = [...new Set(view.arms.filter((arm) => arm.order).map((arm) => arm.family))];
  const limit = Math.max(2, ...view.arms.filter((arm) => arm.order).map((arm) => arm.histogram.at(-1)[0]));
  clear(byId("samplers")).append(...own.map((family) => samplerCard(view, family, limit)));
}
