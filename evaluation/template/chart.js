// Axes and lines. A chart is drawn anew at every width, so its text keeps its size.
function ticks(low, high, wanted) {
  const raw = (high - low) / wanted || 1;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 2.5, 5, 10].map((m) => m * power).find((candidate) => candidate >= raw);
  const found = [];
  for (let value = Math.ceil(low / step - 1e-9) * step; value <= high + step * 1e-9; value += step) found.push(Number(value.toPrecision(12)));
  return found;
}

function frame(width, height, { x, y, xTicks, yTicks, xLabel, yFormat, left = 46, bottom = 38 }) {
  const box = { left, right: width - 12, top: 12, bottom: height - bottom };
  const px = (value) => box.left + ((x.map(value) - x.map(x.low)) / (x.map(x.high) - x.map(x.low) || 1)) * (box.right - box.left);
  const py = (value) => box.bottom - ((value - y.low) / (y.high - y.low || 1)) * (box.bottom - box.top);
  const svg = draw("svg", { viewBox: `0 0 ${width} ${height}`, height });
  for (const tick of yTicks) {
    svg.append(draw("line", { class: "gridline", x1: box.left, x2: box.right, y1: py(tick), y2: py(tick) }));
    svg.append(draw("text", { x: box.left - 8, y: py(tick) + 4, "text-anchor": "end" }, yFormat(tick)));
  }
  let last = -Infinity;
  for (const tick of xTicks) {
    svg.append(draw("line", { class: "gridline", x1: px(tick), x2: px(tick), y1: box.top, y2: box.bottom }));
    if (px(tick) - last > 26) {
      svg.append(draw("text", { x: px(tick), y: box.bottom + 17, "text-anchor": "middle" }, String(tick)));
      last = px(tick);
    }
  }
  svg.append(draw("line", { class: "axis", x1: box.left, x2: box.right, y1: box.bottom, y2: box.bottom }));
  if (xLabel) svg.append(draw("text", { x: box.right, y: height - 3, "text-anchor": "end" }, xLabel));
  return { svg, px, py, box };
}

const linear = (low, high) => ({ low, high, map: (value) => value });
const logarithmic = (low, high) => ({ low, high, map: Math.log });

function lineChart(width, series, { yFormat, xLabel }) {
  const points = series.flatMap((one) => one.points);
  const ys = points.map((point) => point[1]);
  const [low, high] = [Math.min(...ys), Math.max(...ys)];
  const pad = (high - low) * 0.08 || 0.05;
  const x = linear(Math.min(...points.map((p) => p[0])), Math.max(1, ...points.map((p) => p[0])));
  const y = linear(low - pad, high + pad);
  const { svg, px, py } = frame(width, 200, { x, y, xTicks: ticks(x.low, x.high, 5), yTicks: ticks(y.low, y.high, 5), xLabel, yFormat });
  for (const one of series) {
    if (one.dots) {
      for (const [a, b] of one.points) svg.append(draw("circle", { cx: px(a), cy: py(b), r: 4, fill: one.colour, stroke: "var(--card)" }));
    } else {
      svg.append(draw("polyline", { points: one.points.map(([a, b]) => `${px(a)},${py(b)}`).join(" "), fill: "none", stroke: one.colour, "stroke-width": 1.6, opacity: 0.6 }));
    }
  }
  return svg;
}
