// Elements, numbers and colours. Text enters the page through text nodes only: what a model wrote never becomes markup.
const data = JSON.parse(document.getElementById("data").textContent);
const SVG = "http://www.w3.org/2000/svg";
const byId = (id) => document.getElementById(id);

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value != null) node.setAttribute(name, value);
  }
  for (const child of children.flat(Infinity)) if (child != null) node.append(child);
  return node;
}
const el = (name, attributes, ...children) => fill(document.createElement(name), attributes, children);
const draw = (name, attributes, ...children) => fill(document.createElementNS(SVG, name), attributes, children);
const clear = (node) => { node.replaceChildren(); return node; };

const percent = (value, digits = 1) => `${(100 * value).toFixed(digits)}%`;
const fixed = (value, digits = 2) => value.toFixed(digits);
const signed = (value, digits = 4) => (value < 0 ? "−" : "+") + Math.abs(value).toFixed(digits);
const chance = (p) => (p < 0.0005 ? "p < 0.001" : `p = ${p.toFixed(3)}`);
const plural = (count, noun) => `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`;

const PALETTE = ["#2f78c4", "#2f9e63", "#8e5bd0", "#c98a12", "#1b9aaa", "#d0588f", "#7d8b2c", "#9a6a4a", "#5d6dd8", "#6f7782", "#38a3a5", "#b5651d"];
const SHAPES = ["circle", "square", "triangle", "diamond", "down", "cross"];
const SIGNS = { circle: "●", square: "■", triangle: "▲", diamond: "◆", down: "▼", cross: "✚" };
const families = [...new Set(data.views.flatMap((view) => view.arms.map((arm) => arm.family)))].sort();
const learnedFamilies = new Set(data.views.flatMap((view) => view.arms.filter((arm) => arm.learned).map((arm) => arm.family)));
const REDS = ["var(--accent)", "#e0892b", "#c2417f", "#a0522d"];

function colour(family) {
  const members = families.filter((name) => learnedFamilies.has(name) === learnedFamilies.has(family));
  const palette = learnedFamilies.has(family) ? REDS : PALETTE;
  return palette[members.indexOf(family) % palette.length];
}

function shapePath(shape, r) {
  switch (shape) {
    case "star": {
      const points = [...Array(10).keys()].map((i) => {
        const [radius, angle] = [i % 2 ? r * 0.75 : r * 1.75, (i * Math.PI) / 5 - Math.PI / 2];
        return `${radius * Math.cos(angle)},${radius * Math.sin(angle)}`;
      });
      return `M${points.join("L")}Z`;
    }
    case "square": return `M${-r},${-r}H${r}V${r}H${-r}Z`;
    case "triangle": return `M0,${-r * 1.2}L${r * 1.1},${r}H${-r * 1.1}Z`;
    case "down": return `M0,${r * 1.2}L${r * 1.1},${-r}H${-r * 1.1}Z`;
    case "diamond": return `M0,${-r * 1.3}L${r * 1.3},0L0,${r * 1.3}L${-r * 1.3},0Z`;
    case "cross": return `M${-r},-1.5H-1.5V${-r}H1.5V-1.5H${r}V1.5H1.5V${r}H-1.5V1.5H${-r}Z`;
    default: return `M${-r},0A${r},${r} 0 1 0 ${r},0A${r},${r} 0 1 0 ${-r},0Z`;
  }
}

const tip = byId("tip");
function showTip(lines, x, y) {
  clear(tip).append(el("b", {}, lines[0]), ...lines.slice(1).map((line) => el("div", {}, line)));
  tip.hidden = false;
  const width = document.documentElement.clientWidth;
  tip.style.left = `${Math.max(8, Math.min(x + 14, width - tip.offsetWidth - 8))}px`;
  tip.style.top = `${Math.max(8, y + 14)}px`;
}
const hideTip = () => { tip.hidden = true; };
