// One problem under two samplers, pass by pass.
const replay = { view: null, example: 0, sides: [0, 1], pass: 0, timer: null, delay: 700 };

const shade = (confidence, weight = 1) => {
  const [tone, strength] = confidence < 50 ? ["--unsure", 0.65 - confidence / 110] : ["--sure", 0.12 + (confidence - 50) / 95];
  return `background: rgb(var(${tone}) / ${Math.round(100 * weight * strength)}%)`;
};
const END = /^<\|?(eos|\/s|endoftext|eot_id|im_end|pad)\|?>$/i;

function tokenChip(text, attributes) {
  const shown = text === "" ? " " : text.replaceAll("\n", "↵");
  return el("span", { ...attributes, class: `token ${attributes.class}` }, shown);
}

// Passes that a row took: samplers that look ahead take several for one decision.
const numPasses = (row) => row.passes.at(-1)?.nfe ?? 0;

// What stands at every position after `pass` passes: text, confidence, and since when.
function stateAfter(row, pass) {
  const done = row.passes.filter((one) => one.nfe <= pass).length;
  const next = row.passes[done];
  const canvas = next ? next.canvas : row.final;
  const states = canvas.map((piece) => ({ piece, masked: piece === row.mask, since: 0, confidence: null }));
  row.passes.slice(0, done).forEach((one) => {
    const place = new Map(one.asked.map((position, i) => [position, i]));
    for (const position of one.commit) {
      states[position].since = one.nfe;
      states[position].confidence = one.confidence[place.get(position)] ?? null;
    }
  });
  if (next) next.asked.forEach((position, i) => {
    if (!states[position].masked) return;
    states[position].guess = next.guess[i];
    states[position].confidence = next.confidence[i];
  });
  return { states, isOver: !next, last: done ? row.passes[done - 1].nfe : 0 };
}

function chipOf(row, state, position, last) {
  const sure = state.confidence == null ? "" : `, confidence ${state.confidence}%`;
  if (state.masked) {
    const guess = state.guess == null ? "" : row.pieces[state.guess];
    return tokenChip(guess, { class: "masked", style: state.guess == null ? null : shade(state.confidence, 0.45), title: `position ${position + 1}, masked; the model would write ${JSON.stringify(guess)}${sure}` });
  }
  if (state.since === 0) return tokenChip(row.pieces[state.piece], { class: "given", title: `position ${position + 1}, given` });
  const text = row.pieces[state.piece];
  const kind = [state.since === last ? "fresh" : "", END.test(text.trim()) ? "end" : ""].join(" ");
  return tokenChip(text, { class: kind, style: state.confidence == null ? null : shade(state.confidence), title: `position ${position + 1}, pass ${state.since}${sure}` });
}

function renderSide(holder, row, arm) {
  const { states, isOver, last } = stateAfter(row, replay.pass);
  const pass = Math.min(replay.pass, numPasses(row));
  const filled = states.filter((state) => !state.masked).length;
  const chips = [];
  states.forEach((state, position) => {
    if (position && position % arm.block === 0) chips.push(el("span", { class: "wall", "aria-hidden": "true" }));
    chips.push(chipOf(row, state, position, last));
  });
  const kind = ["correct", "wrong"].includes(row.grade) ? row.grade : "other";
  clear(holder).append(
    el("div", { class: "meter" }, el("i", { style: `width:${(100 * filled) / states.length}%` })),
    el("p", { class: "muted" }, `pass ${pass} of ${numPasses(row)}, ${filled} of ${states.length} tokens `, isOver ? el("span", { class: `badge ${kind}` }, row.grade.replaceAll("_", " ")) : null),
    el("div", { class: "canvas", role: "img", "aria-label": `canvas after pass ${pass}: ${states.map((state) => (state.masked ? "_" : row.pieces[state.piece])).join(" ")}` }, chips));
}

const currentRows = () => replay.view.replays[replay.example].rows;
const chosenRow = (side) => currentRows()[Math.min(replay.sides[side], currentRows().length - 1)];
const lastPass = () => Math.max(...[0, 1].map((side) => numPasses(chosenRow(side))));

function goTo(pass) {
  replay.pass = Math.max(0, Math.min(pass, lastPass()));
  for (const side of [0, 1]) renderSide(byId(`canvas-${side}`), chosenRow(side), replay.view.arms[chosenRow(side).arm]);
  const slider = byId("replay-slider");
  slider.max = lastPass();
  slider.value = replay.pass;
  slider.setAttribute("aria-valuetext", `pass ${replay.pass} of ${lastPass()}`);
}

function play(on) {
  clearInterval(replay.timer);
  replay.timer = null;
  if (on) {
    if (replay.pass >= lastPass()) goTo(0);
    replay.timer = setInterval(() => {
      goTo(replay.pass + 1);
      if (replay.pass >= lastPass()) play(false);
    }, replay.delay);
  }
  byId("replay-play").textContent = on ? "❚❚ Pause" : "▶ Play";
}

function chooser(label, options, selected, onchange) {
  const select = el("select", { "aria-label": label }, options.map((text, value) => el("option", { value, selected: value === selected }, text)));
  select.addEventListener("change", () => onchange(Number(select.value)));
  return select;
}

function sidePanel(side) {
  const names = currentRows().map((row) => `${replay.view.arms[row.arm].label}, block ${replay.view.arms[row.arm].block}`);
  const choose = chooser(side ? "Sampler on the right" : "Sampler on the left", names, Math.min(replay.sides[side], names.length - 1), (value) => { replay.sides[side] = value; goTo(replay.pass); });
  return el("div", { class: "side" }, el("div", { class: "head" }, choose), el("div", { id: `canvas-${side}` }));
}

function button(text, label, action, extra = {}) {
  return el("button", { type: "button", "aria-label": label, onclick: action, ...extra }, text);
}

function renderReplayBody() {
  play(false);
  const example = replay.view.replays[replay.example];
  clear(byId("replay-prompt")).append(example.prompt.trim());
  clear(byId("replay-sides")).append(sidePanel(0), sidePanel(1));
  goTo(0);
}

// The learned policy against the best heuristic, or else the two best.
function firstSides() {
  const rows = currentRows();
  const learned = rows.findIndex((row) => replay.view.arms[row.arm].learned);
  const other = rows.findIndex((row) => !replay.view.arms[row.arm].learned);
  return learned < 0 || other < 0 ? [0, Math.min(1, rows.length - 1)] : [learned, other];
}

function renderReplay(view) {
  clearInterval(replay.timer);
  byId("replay-section").hidden = !view.replays.length;
  if (!view.replays.length) return;
  Object.assign(replay, { view, example: 0, pass: 0 });
  replay.sides = firstSides();
  const speeds = [["slow", 1400], ["normal", 700], ["fast", 280]];
  clear(byId("replay")).append(
    el("div", { class: "controls" }, chooser("Problem", view.replays.map((example) => example.id), 0, (value) => { replay.example = value; renderReplayBody(); })),
    el("p", { class: "prompt", id: "replay-prompt", tabindex: "0", role: "region", "aria-label": "Prompt" }),
    el("div", { class: "controls" },
      button("«", "First pass", () => { play(false); goTo(0); }),
      button("‹", "One pass back", () => { play(false); goTo(replay.pass - 1); }),
      button("▶ Play", "Play or pause", () => play(replay.timer === null), { id: "replay-play", class: "play" }),
      button("›", "One pass on", () => { play(false); goTo(replay.pass + 1); }),
      button("»", "Last pass", () => { play(false); goTo(lastPass()); }),
      el("input", { type: "range", id: "replay-slider", min: 0, value: 0, "aria-label": "Pass", oninput: (event) => { play(false); goTo(Number(event.target.value)); } }),
      chooser("Speed", speeds.map(([name]) => name), 1, (value) => { replay.delay = speeds[value][1]; if (replay.timer !== null) play(true); })),
    el("div", { class: "sides", id: "replay-sides" }),
    el("div", { class: "scale" }, "confidence 0%", el("i", { "aria-hidden": "true" }), "100%. Dashed: still masked, with what the model would write there. Ringed: unmasked by this pass."));
  renderReplayBody();
}

byId("replay").addEventListener("keydown", (event) => {
  const isField = ["SELECT", "INPUT"].includes(event.target.tagName);
  const moves = { ArrowLeft: replay.pass - 1, ArrowRight: replay.pass + 1, Home: 0, End: Infinity };
  if (event.key === " " && !isField && event.target.tagName !== "BUTTON") { event.preventDefault(); play(replay.timer === null); }
  if (event.key in moves && !isField) { event.preventDefault(); play(false); goTo(moves[event.key]); }
});
