// The two pictures of a link over a stretch of time: a strip of how it answered, and its round-trip times. Both
// from the same buckets: five minutes each for a day, an hour for a week, three for a month, a day for a year.

const SVG = "http://www.w3.org/2000/svg";
const HOUR_MS = 3_600_000;
const STEPS_OF_A_DAY = 288;

function node(name, attributes) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

// The length of a bucket for a stretch of time: of longer ones what rollups answer exactly.
export function stepOf(lengthMs) {
  const hours = lengthMs / HOUR_MS;
  if (hours <= 24) return lengthMs / STEPS_OF_A_DAY;
  return (hours <= 168 ? 1 : hours <= 720 ? 3 : 24) * HOUR_MS;
}

// How many buckets a stretch has that is drawn in such steps.
const stepsOf = (step) => step === HOUR_MS ? 168 : step === 3 * HOUR_MS ? 240 : step === 24 * HOUR_MS ? 365 : STEPS_OF_A_DAY;

// The beginning of the stretch that ends with the current step.
export function startOf(now, step) {
  return Math.floor(now / step) * step - (stepsOf(step) - 1) * step;
}

function kindOf(bucket) {
  if (!bucket || bucket.ok + bucket.failed === 0) return "gap";
  if (bucket.failed === 0) return "up";
  return bucket.ok === 0 ? "down" : "mixed";
}

function byStep(buckets, now, step) {
  const start = startOf(now, step);
  const steps = new Array(stepsOf(step)).fill(null);
  for (const bucket of buckets) {
    const i = (bucket.from_ms - start) / step;
    if (i >= 0 && i < steps.length) steps[i] = bucket;
  }
  return steps;
}

// For how many steps one sample speaks: until the next is overdue.
const reachOf = (interval, step) => Math.ceil((1.5 * interval) / step);

// Draws the strip into `svg`: neighbours of one kind as one rectangle.
export function drawStrip(svg, buckets, now, step, interval) {
  const count = stepsOf(step);
  svg.setAttribute("viewBox", `0 0 ${count} 1`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.replaceChildren();
  const kinds = byStep(buckets, now, step).map(kindOf);
  const reach = reachOf(interval, step);
  let last = -Infinity;
  const shown = kinds.map((kind, i) => {
    if (kind !== "gap") last = i;
    return i - last < reach ? kinds[last] : "gap";
  });
  for (let i = 0; i < count; ) {
    let end = i;
    while (end < count && shown[end] === shown[i]) end += 1;
    svg.append(node("rect", { x: i, y: 0, width: end - i, height: 1, class: `fill-${shown[i]}` }));
    i = end;
  }
}

// A round number at or above `value`.
function roundUp(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 1.5, 2, 3, 5, 7.5, 10].map((factor) => factor * power).find((candidate) => candidate >= value);
}

// Draws the round-trip times into `svg`: a band from the least to the 95th percentile, the median as a line, failures as
// ticks at the top. Returns the time at the upper edge in µs; 0 without any.
export function drawRtt(svg, buckets, now, step, interval) {
  const count = stepsOf(step);
  const height = 100;
  svg.setAttribute("viewBox", `0 0 ${count} ${height}`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.replaceChildren();
  const steps = byStep(buckets, now, step);
  const p95s = steps.filter((bucket) => bucket?.rtt_us).map((bucket) => bucket.rtt_us.p95);
  const top = p95s.length ? roundUp(Math.max(...p95s) * 1.05) : 0;
  const y = (us) => (height - (Math.min(us, top) / top) * (height - 8)).toFixed(1);
  svg.append(node("line", { x1: 0, x2: count, y1: height / 2, y2: height / 2, class: "grid" }));
  steps.forEach((bucket, i) => {
    if (bucket?.failed) {
      const share = bucket.failed / (bucket.failed + bucket.ok);
      svg.append(node("rect", { x: i, y: 0, width: 1, height: 6, class: share === 1 ? "fill-down" : "fill-mixed" }));
    }
    if (!bucket?.rtt_us) return;
    const { min, p95 } = bucket.rtt_us;
    const upper = Number(y(p95));
    svg.append(node("rect", { x: i, y: upper, width: 1, height: Math.max(1, Number(y(min)) - upper), class: "band" }));
  });
  const reach = reachOf(interval, step);
  let path = "";
  let last = -Infinity;
  steps.forEach((bucket, i) => {
    if (bucket?.failed && !bucket.ok) last = -Infinity;
    const median = bucket?.rtt_us?.median;
    if (median === undefined) return;
    path += i - last <= reach ? `L${i + 0.5} ${y(median)}` : `M${i} ${y(median)}L${i + 1} ${y(median)}`;
    last = i;
  });
  if (path) svg.append(node("path", { d: path, class: "median" }));
  return top;
}
