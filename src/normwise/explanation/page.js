"use strict";
// A cube of measured group numbers that can be turned; all its data were measured before and are in `told`.
const told = JSON.parse(document.getElementById("told").textContent);
const cube = document.getElementById("cube");
const find = (id) => document.getElementById(id);
const names = Object.keys(told);
const state = { name: names[0], samples: 0, number: 0, training: true, yaw: 0.6, pitch: 0.45, chosen: null };
const unique = (list) => [...new Set(list)];
const of = () => told[state.name];
const numbers = () => unique(of().map((one) => one.number));
const sizes = () => unique(of().map((one) => one.shape[0])).sort((a, b) => a - b);
const modes = () => unique(of().map((one) => one.training));

function current() {
  const all = of();
  const fits = (one) => one.shape[0] === sizes()[state.samples] && one.number === numbers()[state.number];
  return all.find((one) => fits(one) && one.training === state.training) || all.find(fits) || all[0];
}

function settle() {
  // Another normalizer may have other sizes and numbers.
  state.samples = Math.min(state.samples, sizes().length - 1);
  state.number = Math.min(state.number, numbers().length - 1);
}

// The vertices of a cell of the grid, centred and turned; x: channels, y: positions, z: samples to the back.
function turned(point, [samples, channels, positions]) {
  const long = Math.max(samples, channels, positions);
  const [x, y, z] = [point[0] - channels / 2, point[1] - positions / 2, point[2] - samples / 2].map((v) => v / long);
  const [cy, sy, cp, sp] = [Math.cos(state.yaw), Math.sin(state.yaw), Math.cos(state.pitch), Math.sin(state.pitch)];
  const [ax, az] = [cy * x + sy * z, cy * z - sy * x];
  return [280 + 330 * ax, 230 + 330 * (cp * y - sp * az), cp * az + sp * y];
}

const SIDES = [
  ["z", 0, [[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]]], ["z", 1, [[0, 0, 1], [0, 1, 1], [1, 1, 1], [1, 0, 1]]],
  ["x", 0, [[0, 0, 0], [0, 1, 0], [0, 1, 1], [0, 0, 1]]], ["x", 1, [[1, 0, 0], [1, 0, 1], [1, 1, 1], [1, 1, 0]]],
  ["y", 0, [[0, 0, 0], [0, 0, 1], [1, 0, 1], [1, 0, 0]]], ["y", 1, [[0, 1, 0], [1, 1, 0], [1, 1, 1], [0, 1, 1]]],
];

function outer(side, end, n, c, s, [samples, channels, positions]) {
  const at = { x: [c, channels], y: [s, positions], z: [n, samples] }[side];
  return end ? at[0] === at[1] - 1 : at[0] === 0;
}

function element(tag, attributes, text) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

function draw() {
  const one = current();
  const size = one.grid;
  const places = state.chosen === null ? null : reads(one, state.chosen);
  const faces = [];
  for (let n = 0; n < size[0]; n++) for (let c = 0; c < size[1]; c++) for (let s = 0; s < size[2]; s++) {
    for (const [side, end, corners] of SIDES) {
      if (!outer(side, end, n, c, s, size)) continue;
      const points = corners.map(([x, y, z]) => turned([c + x, s + y, n + z], size));
      const [a, b, d] = points;
      // Clockwise on the screen: the face looks at us.
      if ((b[0] - a[0]) * (d[1] - a[1]) - (b[1] - a[1]) * (d[0] - a[0]) <= 0) continue;
      faces.push({ points, place: [n, c, s], side });
    }
  }
  faces.sort((p, q) => depth(q) - depth(p));
  cube.replaceChildren();
  for (const face of faces) paint(one, face, places);
  axes(size);
}

const depth = (face) => face.points.reduce((sum, point) => sum + point[2], 0);
const flat = ([n, c, s], [, channels, positions]) => (n * channels + c) * positions + s;

function reads(one, place) {
  const set = one.reads_of[flat(place, one.grid)];
  return new Set(set < 0 ? [] : one.reads[set]);
}

function paint(one, face, places) {
  const index = flat(face.place, one.grid);
  const group = one.cube[index];
  const looks = [];
  if (group === -1) looks.push("alone");
  if (group === -2) looks.push("masked");
  if (places) looks.push(places.has(index) ? "read" : "unread");
  if (places && index === flat(state.chosen, one.grid)) looks.push("chosen");
  const points = face.points.map((point) => `${point[0].toFixed(1)},${point[1].toFixed(1)}`).join(" ");
  const made = element("polygon", { points, class: looks.join(" "), "data-place": face.place.join(","), "data-group": group });
  if (group >= 0) made.style.fill = `var(--g${(group % 10)}${{ z: "f", y: "t", x: "s" }[face.side]})`;
  made.addEventListener("click", () => choose(face.place));
  cube.append(made);
  const middle = [0, 1].map((axis) => face.points.reduce((sum, point) => sum + point[axis], 0) / 4);
  const sign = group === -1 ? "·" : group === -2 ? "-" : group;
  cube.append(element("text", { x: middle[0].toFixed(1), y: (middle[1] + 4).toFixed(1), class: group < 0 ? "bare" : "" }, sign));
}

function axes([samples, channels, positions]) {
  const ends = [["C", [channels / 2, positions + 0.6, 0]], ["N", [channels + 0.7, positions + 0.2, samples / 2]],
    ["positions", [-0.9, positions / 2, 0]]];
  for (const [name, point] of ends) {
    const [x, y] = turned(point, [samples, channels, positions]);
    cube.append(element("text", { x: x.toFixed(1), y: y.toFixed(1), class: "axis" }, name));
  }
}

function choose(place) {
  state.chosen = state.chosen && state.chosen.join() === place.join() ? null : place;
  show();
}

function say(one) {
  if (state.chosen === null) return "Choose a value on the cube: the values that enter its statistics stay bright.";
  const [n, c, s] = state.chosen;
  const count = reads(one, state.chosen).size;
  const where = `The value of sample ${n}, channel ${c}, position ${s}`;
  if (count === 0) return `${where} depends on no other value.`;
  const group = one.cube[flat(state.chosen, one.grid)];
  const kin = one.cube.filter((other) => other === group).length;
  if (group === -2) return `${where} is masked out; its statistics take in ${count} others.`;
  return `${where} is in group ${group}: its statistics take in ${count} values, and ${kin} values share all of them.`;
}

function show() {
  settle();
  const one = current();
  state.training = one.training;
  if (state.chosen && state.chosen.some((at, axis) => at >= one.grid[axis])) state.chosen = null;
  draw();
  find("said").textContent = say(one);
  find("samples").max = sizes().length - 1;
  find("samples").value = state.samples;
  find("samples-said").textContent = sizes()[state.samples];
  find("samples").parentElement.hidden = sizes().length < 2;
  find("number").max = numbers().length - 1;
  find("number").value = state.number;
  find("number-said").textContent = numbers()[state.number];
  find("number").parentElement.hidden = numbers().length < 2;
  find("number-name").textContent = one.name.startsWith("ghost") ? "Samples in a chunk" : "Groups";
  document.querySelector(".mode").hidden = modes().length < 2;
  for (const button of document.querySelectorAll(".mode button")) {
    button.setAttribute("aria-pressed", String((button.dataset.mode === "train") === one.training));
  }
  find("properties").replaceChildren(...Object.entries(one.properties).map(([name, value]) => {
    const row = document.createElement("tr");
    const [head, cell] = [document.createElement("th"), document.createElement("td")];
    head.scope = "row";
    head.textContent = name;
    cell.textContent = value;
    row.append(head, cell);
    return row;
  }));
  for (const button of document.querySelectorAll("[data-name]")) {
    button.setAttribute("aria-pressed", String(button.dataset.name === state.name));
  }
  for (const part of document.querySelectorAll("[data-of]")) part.hidden = part.dataset.of !== state.name;
}

const limit = (value) => Math.max(-1.5, Math.min(1.5, value));
function turn(yaw, pitch) {
  state.yaw += yaw;
  state.pitch = limit(state.pitch + pitch);
  draw();
}

const STEPS = { left: [-0.25, 0], right: [0.25, 0], up: [0, -0.2], down: [0, 0.2] };
for (const button of document.querySelectorAll("[data-turn]")) {
  button.addEventListener("click", () => turn(...STEPS[button.dataset.turn]));
}
cube.addEventListener("keydown", (event) => {
  const step = STEPS[event.key.replace("Arrow", "").toLowerCase()];
  if (!step) return;
  event.preventDefault();
  turn(...step);
});
let held = null;
cube.addEventListener("pointerdown", (event) => { held = [event.clientX, event.clientY]; });
window.addEventListener("pointerup", () => { held = null; });
window.addEventListener("pointermove", (event) => {
  // A hand that only clicks moves a little, too.
  if (!held || Math.hypot(event.clientX - held[0], event.clientY - held[1]) < 4) return;
  turn((event.clientX - held[0]) / 150, (held[1] - event.clientY) / -150);
  held = [event.clientX, event.clientY];
});
find("samples").addEventListener("input", (event) => { state.samples = Number(event.target.value); show(); });
find("number").addEventListener("input", (event) => { state.number = Number(event.target.value); show(); });
for (const button of document.querySelectorAll(".mode button")) {
  button.addEventListener("click", () => { state.training = button.dataset.mode === "train"; show(); });
}
for (const button of document.querySelectorAll("[data-name]")) {
  button.addEventListener("click", () => { state.name = button.dataset.name; state.chosen = null; show(); });
}
// explain.html#group begins with that normalizer.
function follow() {
  const asked = decodeURIComponent(location.hash.slice(1));
  if (names.includes(asked)) state.name = asked;
}
window.addEventListener("hashchange", () => { follow(); state.chosen = null; show(); });
follow();
state.samples = sizes().length - 1;
state.number = Math.floor((numbers().length - 1) / 2);
state.training = modes()[0];
show();
