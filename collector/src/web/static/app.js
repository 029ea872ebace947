// The page: reads offices and incidents from the API, draws them, and keeps them live from the event stream.

import { drawRtt, drawStrip, startOf, stepOf } from "/plot.js";
import { currentLanguage, failureText, lengthOf, rtt, say, timeAt, useLanguage } from "/text.js";

// Worst first.
const STATES = ["down", "unobserved", "recovering", "suspect", "maintenance", "unknown", "closed", "up"];
// With more links than this, samples come by looking again now and then instead of one by one.
const LIVE_LINKS_MAX = 600;
const LOOK_AGAIN_MS = 30_000;
const TAIL_EVERY_MS = 5_000;
// An agent's clock that is off by more than this is told.
const CLOCK_OFF_MS = 10_000;
const HOUR_MS = 3_600_000;
// What the pictures may show, in hours.
const RANGES = [1, 6, 24, 168, 720, 8_760];

const offices = new Map(); // code → office as the API gives it
const pictures = new Map(); // link key → buckets of the chosen stretch
let incidents = [];
let past = [];
let visible; // IntersectionObserver: pictures are drawn when they come into view
let live = false;
let hours = 24;
let loaded = false; // until then nothing may look calm
let me = { scopes: [] }; // who looks, and what they may

const element = (id) => document.getElementById(id);

function make(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "class") made.className = value;
    else if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

async function answerTo(path) {
  const answer = await fetch(path, { headers: { Accept: "application/json" } });
  // The session is over.
  if (answer.status === 401) location.assign(`/masuk?to=${encodeURIComponent(location.pathname + location.search)}`);
  if (!answer.ok) {
    const problem = await answer.json().catch(() => ({}));
    throw new Error(problem.detail ?? `${answer.status} ${path}`);
  }
  return answer;
}

const ask = async (path) => (await answerTo(path)).json();

// A whole list, page by page.
async function askAll(path) {
  const all = [];
  while (path) {
    const answer = await answerTo(path);
    all.push(...await answer.json());
    path = answer.headers.get("Link")?.match(/^<([^>]+)>/)?.[1];
  }
  return all;
}

// ── Reading ────────────────────────────────────────────────────────────────

async function readAll() {
  const [all] = await Promise.all([askAll("/api/v1/offices?limit=1000"), readIncidents()]);
  offices.clear();
  for (const office of all) offices.set(office.code, office);
  awaitWork();
  loaded = true;
  renderOffices();
  renderIncidents();
}

async function readIncidents() {
  const all = await ask("/api/v1/incidents?limit=50");
  const open = await askAll("/api/v1/incidents?open=true&limit=1000");
  incidents = open.sort((a, b) => a.opened_ms - b.opened_ms);
  past = all.filter((incident) => incident.resolved_ms !== null).slice(0, 20);
  renderIncidents();
}

// Several events at once become one reading.
const pending = new Map();
function soon(key, work, wait = 150) {
  if (pending.has(key)) return;
  pending.set(key, setTimeout(() => {
    pending.delete(key);
    work().catch(report);
  }, wait));
}

async function readOffice(code) {
  const office = await ask(`/api/v1/offices/${code}`);
  offices.set(code, office);
  renderOffice(office);
  renderSummary();
}

// ── Pictures ───────────────────────────────────────────────────────────────

const keyOf = (link) => `${link.office}/${link.agent}/${link.target}`;
const pathOf = (link) => `/api/v1/offices/${link.office}/links/${link.agent}/${link.target}`;

async function loadPicture(link, row) {
  const key = keyOf(link);
  const step = stepOf(hours * HOUR_MS);
  const start = startOf(Date.now(), step);
  // What is there is final but for its last step.
  const known = pictures.get(key) ?? [];
  const from = Math.max(start, known.at(-1)?.from_ms ?? 0);
  const { buckets: fresh } = await ask(`${pathOf(link)}/buckets?from_ms=${from}&step_ms=${step}`);
  if (step !== stepOf(hours * HOUR_MS)) return; // another stretch was chosen meanwhile
  const buckets = known.filter((bucket) => bucket.from_ms >= start && bucket.from_ms < from).concat(fresh);
  pictures.set(key, buckets);
  drawPicture(row, link, buckets);
}

function drawPicture(row, link, buckets) {
  const now = Date.now();
  const step = stepOf(hours * HOUR_MS);
  drawStrip(row.querySelector(".strip"), buckets, now, step, link.interval_ms);
  const top = drawRtt(row.querySelector(".rtt"), buckets, now, step, link.interval_ms);
  row.querySelector(".top").textContent = top ? say("plot.top", { rtt: rtt(top) }) : "";
  const sum = (name) => buckets.reduce((total, bucket) => total + bucket[name], 0);
  const [ok, failed] = [sum("ok"), sum("failed")];
  const share = ok + failed ? (100 * ok) / (ok + failed) : null;
  const number = share === null ? "–" : new Intl.NumberFormat(currentLanguage(), { maximumFractionDigits: 2 }).format(share);
  row.querySelector(".share").textContent = say("link.share", { share: number });
  row.querySelector(".strip").setAttribute("aria-label", say("strip.label", { hours, share: number }));
}

// ── Drawing ────────────────────────────────────────────────────────────────

function badge(state, text = say(`state.${state}`)) {
  return make("span", { class: `badge ${state}` }, text);
}

// One dead link is trouble at the office, not a dead office.
function officeState(state) {
  return state === "down" ? say("office.down") : say(`state.${state}`);
}

function since(ms, office) {
  if (ms === null) return "";
  return say("since", { time: timeAt(ms, office), length: lengthOf(Date.now() - ms) });
}

function renderSummary() {
  const counts = new Map();
  for (const office of offices.values()) counts.set(office.state, (counts.get(office.state) ?? 0) + 1);
  const parts = STATES.filter((state) => counts.has(state)).map((state) => `${counts.get(state)} ${officeState(state).toLowerCase()}`);
  const none = say(loaded ? "offices.none" : "loading");
  element("summary").textContent = offices.size ? say("summary", { count: offices.size, states: parts.join(", ") }) : none;
  document.title = incidents.length ? `(${incidents.length}) denyut` : "denyut";
}

const byTrouble = (a, b) => STATES.indexOf(a.state) - STATES.indexOf(b.state) || a.name.localeCompare(b.name);

function renderOffices() {
  visible?.disconnect();
  visible = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (entry.isIntersecting) soon(`picture ${keyOf(entry.target.link)}`, () => loadPicture(entry.target.link, entry.target), 0);
      entry.target.seen = entry.isIntersecting;
    }
  });
  element("offices").replaceChildren(...[...offices.values()].sort(byTrouble).map(officeCard));
  renderSummary();
}

// Draws one office anew, at its place among the others.
function renderOffice(office) {
  const old = element(`office-${office.code}`);
  for (const row of old?.querySelectorAll(".link") ?? []) visible.unobserve(row);
  old?.remove();
  const order = [...offices.values()].sort(byTrouble);
  const next = order.slice(order.indexOf(office) + 1).map((one) => element(`office-${one.code}`)).find(Boolean);
  element("offices").insertBefore(officeCard(office), next ?? null);
}

function officeCard(office) {
  const card = make("article", { class: `office ${office.state}`, id: `office-${office.code}`, "data-office": office.code },
    make("header", {},
      make("h3", {}, office.name, " ", make("small", {}, office.code)),
      badge(office.state, officeState(office.state)),
      make("p", { class: "since" }, since(office.since_ms, office.code)),
    ));
  if (!office.agents.length) card.append(make("p", { class: "agent" }, say("office.no_agent")));
  if (office.maintenance) card.append(make("p", { class: "work" }, workText(office)));
  const present = office.patterns.filter((pattern) => pattern.until_ms === null);
  if (present.length) card.append(make("ul", { class: "patterns" }, ...present.map((pattern) => make("li", {}, patternText(pattern, office.code)))));
  for (const agent of office.agents) {
    card.append(make("p", { class: "agent", "data-agent": agent.agent }, agentText(agent, office.code)));
    card.append(...office.links.filter((link) => link.agent === agent.agent).map(linkRow));
  }
  return card;
}

// Announced work, now or to come.
function workText({ code, maintenance: { from_ms, until_ms, reason } }) {
  return say(Date.now() < from_ms ? "maintenance.next" : "maintenance.now", { from: timeAt(from_ms, code), until: timeAt(until_ms, code), reason });
}

// When announced work begins or ends, all is looked at again; not sooner than now and then, whatever this machine's clock says.
let nextWork;
function awaitWork() {
  const now = Date.now();
  const edges = [...offices.values()].flatMap(({ maintenance: work }) => work ? [work.from_ms > now ? work.from_ms : work.until_ms] : []);
  clearTimeout(nextWork);
  if (!edges.length) return;
  const wait = Math.min(Math.max(Math.min(...edges) - now + 1_000, LOOK_AGAIN_MS), 12 * HOUR_MS);
  nextWork = setTimeout(() => soon("all", readAll, 0), wait);
}

function patternText(pattern, office) {
  const subject = pattern.target ? `${pattern.agent}/${pattern.target}: ` : "";
  const other = pattern.with ? offices.get(pattern.with)?.name ?? pattern.with : pattern.pool;
  const scale = pattern.scale && say(`scale.${pattern.scale}`);
  const text = subject + say(`pattern.${pattern.kind}`, { count: pattern.count, scale, office: other, time: timeAt(pattern.from_ms, office) });
  return pattern.identity ? `${text} (${identityText(pattern.identity)})` : text;
}

// What a thing shows of itself: its kind, a space, its value. Of a certificate's hash the beginning tells enough.
function identityText(identity) {
  const [kind, value] = identity.split(" ");
  return say(`identity.${kind}`, { value: value.length > 40 ? `${value.slice(0, 16)}…` : value });
}

function agentText(agent, office) {
  const facts = [agent.agent, say(`state.${agent.state}`).toLowerCase()];
  if (agent.gateway) facts.push(say("agent.gateway", { address: agent.gateway }));
  if (agent.last_ms !== null) facts.push(say("agent.last", { time: timeAt(agent.last_ms, office) }));
  if (agent.dropped) facts.push(say("agent.dropped", { count: agent.dropped }));
  if (Math.abs(agent.clock_offset_ms ?? 0) > CLOCK_OFF_MS) {
    facts.push(say(agent.clock_offset_ms > 0 ? "agent.clock_ahead" : "agent.clock_behind", { length: lengthOf(Math.abs(agent.clock_offset_ms)) }));
  }
  if (agent.certified_until_ms !== null) facts.push(say("agent.certified", { time: timeAt(agent.certified_until_ms, office) }));
  if (agent.failed_update) facts.push(say("agent.failed_update", { text: agent.failed_update }));
  if (agent.budget) facts.push(budgetText(agent.budget));
  return facts.join(" · ");
}

// Bytes in 24 hours, as KB.
function budgetText({ spent, budget }) {
  const kb = (bytes) => Math.ceil(bytes / 1000);
  return budget > 0 ? say("agent.budget", { spent: kb(spent), budget: kb(budget) }) : say("agent.spent", { spent: kb(spent) });
}

function linkRow(link) {
  const svg = (name) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    made.setAttribute("class", name);
    made.setAttribute("role", "img");
    return made;
  };
  const role = link.role ? say(`role.${link.role}`) : link.target;
  const plot = svg("rtt");
  plot.setAttribute("aria-label", say("plot.label", { hours }));
  const row = make("div", { class: "link", "data-link": keyOf(link) },
    make("div", { class: "name" },
      make("strong", {}, role), " ", badge(link.state),
      make("p", { class: "probe" }, link.role && link.target !== link.role ? `${link.target} · ${link.probe}` : link.probe)),
    make("div", { class: "now" }, make("span", { class: "last" }), make("button", { type: "button", class: "probe-now", onclick: () => probeNow(link, row) }, say("probe_now"))),
    make("div", { class: "pictures" },
      make("div", { class: "strip-line" }, svg("strip"), make("span", { class: "share" })),
      make("div", { class: "plot-line" }, plot, make("span", { class: "top" })),
      make("div", { class: "axis" }, make("span", {}, ago(hours)), make("span", {}, ago(hours / 2)), make("span", {}, say("axis.end")))));
  row.link = link;
  showLast(row, link);
  const known = pictures.get(keyOf(link));
  if (known) drawPicture(row, link, known);
  visible.observe(row);
  return row;
}

// So many hours (or a half) before now.
function ago(time) {
  return say("axis.ago", { length: lengthOf(time * HOUR_MS) });
}

function showLast(row, link) {
  const last = row.querySelector(".last");
  last.textContent = link.last_failure ? failureText(link.last_failure) : link.last_rtt_us !== null ? rtt(link.last_rtt_us) : "–";
  const silent = offices.get(link.office)?.agents.some((agent) => agent.agent === link.agent && agent.state !== "up");
  const watched = !silent && !["unobserved", "closed", "unknown"].includes(link.state);
  last.classList.toggle("bad", watched && Boolean(link.last_failure));
  last.classList.toggle("old", !watched);
  row.querySelector(".probe-now").disabled = !watched;
  if (link.last_ms !== null) last.title = timeAt(link.last_ms, link.office);
}

async function probeNow(link, row) {
  const button = row.querySelector(".probe-now");
  button.disabled = true;
  const status = await fetch(`${pathOf(link)}/probe`, { method: "POST", headers: { "Content-Type": "application/json" } })
    .then((answer) => answer.status, () => 0);
  button.textContent = say(status === 202 ? "probe_now.asked" : status === 409 ? "probe_now.offline" : "probe_now.failed");
  setTimeout(() => {
    button.disabled = false;
    button.textContent = say("probe_now");
  }, 3000);
}

function renderIncidents() {
  const reading = new Set([...document.querySelectorAll(".incident[open]")].map((card) => card.dataset.incident));
  const was = focused();
  const cards = incidents.map(incidentCard);
  element("incidents").replaceChildren(...(cards.length ? cards : [make("p", { class: "calm" }, say(loaded ? "incidents.none" : "loading"))]));
  element("past").hidden = past.length === 0;
  element("past-incidents").replaceChildren(...past.map(incidentCard));
  for (const card of document.querySelectorAll(".incident")) card.open = reading.has(card.dataset.incident);
  focusAgain(was);
  renderSummary();
}

function whenOf(incident) {
  const length = lengthOf((incident.resolved_ms ?? Date.now()) - incident.opened_ms);
  const office = clockOf(incident);
  const from = timeAt(incident.opened_ms, office);
  if (incident.resolved_ms === null) return say("since", { time: from, length });
  const over = say("incident.over", { from, to: timeAt(incident.resolved_ms, office), length });
  return incident.status === "probation" ? `${over}, ${say("incident.probation", { time: timeAt(incident.probation_until_ms, office) })}` : over;
}

// The clock of an incident: its office's, or that of the first office that was hit.
const clockOf = (incident) => incident.office ?? incident.scope?.offices[0] ?? "36";

function scopeText(scope) {
  const regency = scope.kind === "regency" && offices.get(scope.offices[0])?.regency;
  return regency || say(`scope.${scope.kind}`, { name: scope.code });
}

function titleOf(incident) {
  if (incident.scope) return `#${incident.number} ${say("incident.scope", { ...incident.scope, scope: scopeText(incident.scope) })}`;
  return `#${incident.number} ${offices.get(incident.office)?.name ?? incident.office}`;
}

// One reason for the cause, in words.
function evidenceText(one) {
  const role = one.role ? say(`role.${one.role}`) : one.target;
  switch (one.what) {
    case "failed": return say("evidence.failed", { target: role, failure: one.failure ? failureText(one.failure) : "?" });
    case "fine": return say("evidence.fine", { role });
    case "gap": return say(`evidence.gap_${one.why}`, { agent: one.agent });
    case "likely": return say("evidence.likely", { ...one, cause: say(`cause.${one.cause}`).toLowerCase() });
    case "together": return say("evidence.together", { ...one, within: lengthOf(one.within_ms) });
    default: return say(`evidence.${one.what}`, { agent: one.agent });
  }
}

function revisionText(incident, revision) {
  const trouble = incident.troubles.find((one) => one.failure && one.target === revision.target && one.agent === revision.agent && one.since_ms === revision.at_ms);
  const why = revision.reason === "link_down" && trouble ? ` (${failureText(trouble.failure)})` : "";
  const reason = say(`revision.${revision.reason}`, { cause: revision.cause && say(`cause.${revision.cause}`) });
  const text = revision.kind === "retract" ? say("revision.retract", { reason }) : reason;
  const subject = revision.target ? `${revision.agent}/${revision.target}: ` : revision.agent ? `${revision.agent}: ` : "";
  return subject + text + why;
}

function incidentCard(incident) {
  const office = clockOf(incident);
  const lines = [...incident.revisions].sort((a, b) => a.at_ms - b.at_ms || a.number - b.number).map((revision) => {
    const late = revision.recorded_ms - revision.at_ms > 120_000 ? ` — ${say("revision.late", { time: timeAt(revision.recorded_ms, office) })}` : "";
    return make("li", {}, make("time", {}, timeAt(revision.at_ms, office)), ` ${revisionText(incident, revision)}${late}`);
  });
  const facts = [];
  if (incident.evidence.length) facts.push(say("incident.why", { evidence: incident.evidence.map(evidenceText).join("; ") }));
  if (incident.provisional) facts.push(say("incident.provisional"));
  else if (incident.confidence) facts.push(say("incident.confidence", { percent: incident.confidence }));
  const relapse = incident.relapse;
  if (relapse) {
    facts.push(say("incident.lineage", { count: relapse.count, since: timeAt(relapse.since_ms, office), held: lengthOf(relapse.held_ms) }));
    if (relapse.episode) facts.push(say("incident.episode"));
  }
  if (incident.scope) facts.push(say("incident.offices", { names: incident.scope.offices.map((code) => offices.get(code)?.name ?? code).join(", ") }));
  if (incident.paged_ms !== null) facts.push(say("incident.paged", { time: timeAt(incident.paged_ms, office) }));
  const links = [];
  if (incident.relapse_of !== null) links.push(make("a", { href: `#incident-${incident.relapse_of}` }, say("incident.before", { number: incident.relapse_of })));
  if (incident.parent !== null) links.push(make("a", { href: `#incident-${incident.parent}` }, say("incident.part", { number: incident.parent })));
  if (incident.office) links.push(make("a", { href: `#office-${office}` }, say("incident.office", { name: offices.get(office)?.name ?? office })));
  const badges = relapse ? [" ", make("span", { class: "badge relapse" }, say("incident.relapse", { count: relapse.count }))] : [];
  if (incident.acknowledged) badges.push(" ", make("span", { class: "badge acknowledged" }, say("status.acknowledged")));
  return make("details", { class: `incident ${incident.resolved_ms === null ? "open" : "over"}${incident.acknowledged ? " acknowledged" : ""}`, id: `incident-${incident.number}`, "data-incident": String(incident.number) },
    make("summary", {}, make("strong", {}, titleOf(incident)), ` ${say(`cause.${incident.cause}`)}`, ...badges, " ", make("span", { class: "when" }, whenOf(incident))),
    ...facts.map((fact) => make("p", { class: "fact" }, fact)),
    make("ol", {}, ...lines),
    ...caseOf(incident, office),
    make("p", { class: "links" }, ...links));
}

// ── Who cares for it ───────────────────────────────────────────────────────

// What somebody is writing, by incident: a card is drawn anew whenever something happens.
const drafts = new Map();
const draftOf = (incident) => drafts.get(incident.number) ?? { text: "", to: incident.assignee ?? "", lasts: "4h", problem: "" };
// How long an acknowledgement may hold here; more by the API.
const HOLDS = { "1h": 1, "4h": 4, "24h": 24, "168h": 168 };

function stepText(step, office) {
  const key = step.what === "assign" && !step.to ? "assign_nobody" : step.what;
  const text = say(`step.${key}`, { ...step, time: step.until_ms && timeAt(step.until_ms, office) });
  return step.why ? `${text}: ${step.why}` : text;
}

function caseOf(incident, office) {
  const told = incident.told.map((one) => [one.at_ms, say("case.told", { receiver: one.receiver })]);
  const lines = [...incident.steps.map((step) => [step.at_ms, stepText(step, office)]), ...told].sort(([a], [b]) => a - b);
  const steps = lines.map(([at, text]) => make("li", {}, make("time", {}, timeAt(at, office)), ` ${text}`));
  const parts = [];
  if (incident.assignee) parts.push(make("p", { class: "fact" }, say("case.assignee", { name: incident.assignee })));
  if (steps.length) parts.push(make("ol", { class: "steps" }, ...steps));
  const draft = draftOf(incident);
  const open = incident.resolved_ms === null;
  const keepDraft = (name) => (event) => drafts.set(incident.number, { ...draftOf(incident), [name]: event.target.value, problem: "" });
  const field = (name, value, onchange, attributes = {}) => {
    const input = make("input", { name, value, maxlength: "2000", autocomplete: "off", oninput: onchange, ...attributes });
    return make("label", {}, make("span", {}, say(`case.${name}`)), input);
  };
  const button = (deed, body) => make("button", { type: "button", onclick: () => act(incident, deed, body()) }, say(`case.${deed}`));
  const said = () => draftOf(incident).text.trim();
  const lasts = make("select", { name: "lasts", "aria-label": say("case.lasts"), onchange: keepDraft("lasts") },
    ...Object.entries(HOLDS).map(([value, count]) => make("option", draft.lasts === value ? { value, selected: "" } : { value }, rangeText(count))));
  const acknowledge = [button("acknowledge", () => ({ why: said() || null, for: draftOf(incident).lasts })), lasts];
  const withdraw = button("withdraw", () => ({ why: said() || null }));
  const notes = button("notes", () => ({ text: said() }));
  if (!me.scopes.includes("operate")) return parts;
  parts.push(make("form", { class: "case", onsubmit: (event) => event.preventDefault() },
    field("text", draft.text, keepDraft("text")),
    make("div", { class: "deeds" }, ...(open ? acknowledge : []), ...(incident.acknowledged ? [withdraw] : []), notes),
    make("div", { class: "deeds" }, field("to", draft.to, keepDraft("to"), { maxlength: "100" }), button("assign", () => ({ to: draftOf(incident).to.trim() || null }))),
    make("p", { class: "problem", role: "alert" }, draft.problem)));
  return parts;
}

async function act(incident, deed, body) {
  // Once, however often it is pressed.
  for (const button of element(`incident-${incident.number}`)?.querySelectorAll(".case button") ?? []) button.disabled = true;
  const answer = await fetch(`/api/v1/incidents/${incident.number}/${deed}`, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
  }).catch(() => null);
  if (answer?.ok) {
    // What it was said with is said; what else somebody writes stays.
    const { text, to, ...rest } = draftOf(incident);
    drafts.set(incident.number, deed === "assign" ? { ...rest, text, to: body.to ?? "" } : { ...rest, to, text: "" });
  } else {
    const detail = answer && (await answer.json().catch(() => ({}))).detail;
    drafts.set(incident.number, { ...draftOf(incident), problem: detail ?? say("case.failed") });
  }
  await readIncidents();
}

// The field that somebody is in, so that drawing anew does not take it away.
function focused() {
  const field = document.activeElement;
  const card = field?.closest?.(".incident");
  return card && field.name ? { card: card.id, name: field.name, at: field.selectionStart } : null;
}

function focusAgain(was) {
  const field = was && element(was.card)?.querySelector(`[name="${was.name}"]`);
  field?.focus();
  if (field && typeof was.at === "number" && field.setSelectionRange) field.setSelectionRange(was.at, was.at);
}

// A link to an incident opens it.
async function openTarget() {
  const number = location.hash.match(/^#incident-(\d+)$/)?.[1];
  if (!number) return;
  if (!element(`incident-${number}`)) {
    // Older than those that are shown.
    const found = await ask(`/api/v1/incidents/${number}`).catch(() => null);
    if (!found) return;
    past.push(found);
    renderIncidents();
  }
  const target = element(`incident-${number}`);
  target.closest("#past")?.setAttribute("open", "");
  target.open = true;
  target.scrollIntoView();
}

function renderLegend() {
  const part = (kind, text) => make("span", { class: "key" }, make("span", { class: `swatch back-${kind}` }), ` ${text}`);
  element("legend").replaceChildren(part("up", say("legend.up")), part("mixed", say("legend.mixed")), part("down", say("legend.down")), part("gap", say("legend.gap")));
}

function rangeText(range) {
  if (range === 8_760) return say("range.year");
  return range >= 168 ? say("range.days", { n: range / 24 }) : say("unit.hour", { n: range });
}

function renderRanges() {
  const choice = (range) => make("button", { type: "button", "aria-pressed": String(range === hours), onclick: () => choose(range) }, rangeText(range));
  element("ranges").replaceChildren(...RANGES.map(choice));
}

function choose(range) {
  hours = range;
  keep("hours", String(range));
  pictures.clear();
  renderRanges();
  renderOffices();
}

function showLive() {
  element("live").textContent = say(live ? "live.on" : "live.off");
  element("live").classList.toggle("off", !live);
}

function report(error) {
  console.error(error);
}

// ── Live ───────────────────────────────────────────────────────────────────

function rowOf(link) {
  return document.querySelector(`[data-link="${keyOf(link)}"]`);
}

function takeSamples(event) {
  const last = event.samples.at(-1);
  const link = offices.get(event.office)?.links.find((one) => one.agent === event.agent && one.target === event.target);
  const row = link && rowOf(link);
  if (!row || (link.last_ms !== null && last.at_ms < link.last_ms)) return;
  const agent = offices.get(event.office).agents.find((one) => one.agent === event.agent);
  if (agent) agent.last_ms = Math.max(agent.last_ms ?? 0, last.at_ms);
  Object.assign(link, { last_ms: last.at_ms, last_rtt_us: last.rtt_us, last_failure: last.failure });
  showLast(row, link);
  if (row.seen) soon(`picture ${keyOf(link)}`, () => loadPicture(link, rowOf(link) ?? row), TAIL_EVERY_MS);
}

function listen() {
  const links = [...offices.values()].reduce((total, office) => total + office.links.length, 0);
  const each = links <= LIVE_LINKS_MAX;
  const source = new EventSource(`/api/v1/events${each ? "?samples=true" : ""}`);
  let first = true;
  source.onopen = () => {
    live = true;
    showLive();
    // What happened while nobody listened.
    if (!first || !loaded) soon("all", readAll, 0);
    first = false;
  };
  source.onerror = () => {
    live = false;
    showLive();
  };
  const on = (name, work) => source.addEventListener(name, (message) => work(JSON.parse(message.data)));
  on("samples", takeSamples);
  on("link", (event) => soon(`office ${event.office}`, () => readOffice(event.office)));
  on("agent", (event) => soon(`office ${event.office}`, () => readOffice(event.office)));
  on("incident", (event) => {
    soon("incidents", readIncidents);
    if (event.office) soon(`office ${event.office}`, () => readOffice(event.office));
  });
  on("missed", () => soon("all", readAll, 0));
  if (!each) setInterval(() => soon("all", readAll, 0), LOOK_AGAIN_MS);
}

// What grows older by itself.
function tick() {
  for (const card of document.querySelectorAll("[data-office]")) {
    const office = offices.get(card.dataset.office);
    if (!office) continue;
    card.querySelector(".since").textContent = since(office.since_ms, office.code);
    for (const agent of office.agents) {
      const line = card.querySelector(`[data-agent="${agent.agent}"]`);
      if (line) line.textContent = agentText(agent, office.code);
    }
  }
  for (const incident of incidents) {
    const when = document.querySelector(`[data-incident="${incident.number}"] .when`);
    if (when) when.textContent = whenOf(incident);
  }
}

async function speak(language) {
  await useLanguage(language);
  element("language").textContent = say("language.other");
  element("leave").textContent = say("logout");
  renderLegend();
  renderRanges();
  showLive();
  renderOffices();
  renderIncidents();
}

// Keeps a choice for the next visit; the address no longer says otherwise.
function keep(name, value) {
  localStorage.setItem(name, value);
  history.replaceState(null, "", location.pathname);
}

// A choice from the address, or from the last visit.
function remembered(parameter, name) {
  return new URLSearchParams(location.search).get(parameter) ?? localStorage.getItem(name);
}

addEventListener("hashchange", openTarget);

element("language").addEventListener("click", () => {
  const other = currentLanguage() === "id" ? "en" : "id";
  keep("language", other);
  speak(other).catch(report);
});

const wanted = Number(remembered("hours", "hours"));
if (RANGES.includes(wanted)) hours = wanted;
await speak(remembered("lang", "language") ?? "id");
me = await ask("/api/v1/me").catch(() => me);
element("me").textContent = me.user ?? me.signature;
await readAll().catch(report);
openTarget();
listen();
setInterval(tick, 10_000);
