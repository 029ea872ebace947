// Reads a plot under the pointer, and enlarges what is drawn over with it.

import { rtt } from "/live.js";

const SVG = "http://www.w3.org/2000/svg";
// Shorter than this, in points, is a click.
const DRAG = 8;
const read = new Map(); // what a plot is drawn from, by its address
let drag = null;

function mark(svg, name, attributes) {
  let made = svg.querySelector(`.${name}`);
  if (!made) {
    made = document.createElementNS(SVG, "rect");
    made.setAttribute("class", name);
    svg.append(made);
  }
  for (const [key, value] of Object.entries({ y: 0, height: 100, ...attributes })) made.setAttribute(key, value);
}

const unmark = (svg, name) => svg.querySelector(`.${name}`)?.remove();

// What is under the pointer: the plot, its data, and the step.
function at(event, svg) {
  const figure = svg.closest("figure");
  const { from, step, count, plot, page, offset, zone, text } = figure.dataset;
  const box = svg.getBoundingClientRect();
  const place = Math.min(Math.max((event.clientX - box.left) / box.width, 0), 1) * count;
  return { figure, plot, page, zone, text, from: Number(from), step: Number(step), count: Number(count), offset: Number(offset), place };
}

function buckets({ plot, from, step, count }) {
  const address = `${plot}?from_ms=${from}&to_ms=${from + step * count}&step_ms=${step}`;
  if (!read.has(address)) {
    read.set(address, fetch(address).then((answer) => (answer.ok ? answer.json() : { buckets: [] }), () => ({ buckets: [] })));
    if (read.size > 50) read.delete(read.keys().next().value);
  }
  return read.get(address);
}

async function tell(spot) {
  const number = Math.min(Math.floor(spot.place), spot.count - 1);
  const start = spot.from + number * spot.step;
  const { buckets: all } = await buckets(spot);
  const one = all.find((bucket) => bucket.from_ms === start);
  const there = new Date(start + spot.offset).toISOString();
  const time = `${there.slice(0, 10)} ${there.slice(11, 16)} ${spot.zone}`;
  const rtts = one?.rtt_us;
  const values = { time, median: rtts ? rtt(rtts.median) : "–", p95: rtts ? rtt(rtts.p95) : "–", failed: one?.failed ?? 0, all: (one?.failed ?? 0) + (one?.ok ?? 0) };
  const output = spot.figure.querySelector("output");
  if (output) output.textContent = spot.text.replace(/\{(\w+)\}/g, (whole, name) => values[name] ?? whole);
}

document.addEventListener("pointermove", (event) => {
  const svg = drag?.svg ?? event.target.closest?.("svg.smoke");
  if (!svg) return;
  const spot = at(event, svg);
  mark(svg, "under", { x: Math.floor(spot.place), width: 1 });
  if (drag) mark(svg, "drawn", { x: Math.min(drag.place, spot.place), width: Math.abs(drag.place - spot.place) });
  tell(spot);
});

document.addEventListener("pointerdown", (event) => {
  const svg = event.target.closest?.("svg.smoke");
  if (svg && event.button === 0 && event.pointerType !== "touch") {
    drag = { svg, x: event.clientX, place: at(event, svg).place };
    event.preventDefault();
  }
});

document.addEventListener("pointerup", (event) => {
  if (!drag) return;
  const { svg, x, place } = drag;
  drag = null;
  unmark(svg, "drawn");
  if (Math.abs(event.clientX - x) < DRAG) return;
  const spot = at(event, svg);
  const edge = (place) => Math.round(spot.from + place * spot.step);
  location.assign(`${spot.page}?from=${edge(Math.min(place, spot.place))}&to=${edge(Math.max(place, spot.place))}`);
});

document.addEventListener("pointerout", (event) => {
  const svg = event.target.closest?.("svg.smoke");
  if (svg && !svg.contains(event.relatedTarget)) unmark(svg, "under");
});
