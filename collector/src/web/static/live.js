// Keeps a page true: when something happens it is asked for again, and its parts (`data-live`) that are different are put in place of the old ones. Without this module a
// page is as true as when it was loaded, and loads itself anew every minute.

// From something that happened to the look at it: the collector gathers for a tenth of a second.
const SOON_MS = 400;
// Looks are no nearer to each other than this, and no farther.
const APART_MS = 2_000;
const AGAIN_MS = 60_000;

const status = document.getElementById("live");
const listen = document.body.dataset.listen;
let looked = 0;
let timer = null;
let missed = false; // something happened while nobody looked

function soon() {
  if (document.hidden) {
    missed = true;
    return;
  }
  timer ??= setTimeout(look, Math.max(SOON_MS, looked + APART_MS - Date.now()));
}

async function look() {
  try {
    const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
    // The session is over.
    if (new URL(answer.url).pathname === "/masuk") location.assign(answer.url);
    else if (answer.ok) renew(new DOMParser().parseFromString(await answer.text(), "text/html"));
  } catch {
    // The stream of events says so, and calls again.
  } finally {
    looked = Date.now();
    timer = null;
  }
}

const idsOf = (page) => [...page.querySelectorAll("[data-live]")].map((part) => part.id).join(" ");

function renew(fresh) {
  if (idsOf(fresh) !== idsOf(document)) {
    // Something came or went. What somebody writes meanwhile is not taken away.
    if (!document.activeElement?.matches("input, textarea, select")) put(document.getElementById("main"), fresh.getElementById("main"));
    return;
  }
  for (const part of document.querySelectorAll("[data-live]")) {
    // A plot that somebody reads stays.
    if (part.querySelector("svg.smoke:hover")) continue;
    const other = fresh.getElementById(part.id);
    if (!part.isEqualNode(other)) put(part, other);
  }
}

// Puts one part in place of another, and the focus where it was.
function put(old, fresh) {
  const all = "a, button, input, select, textarea, summary";
  const place = [...old.querySelectorAll(all)].indexOf(document.activeElement);
  old.replaceWith(fresh);
  if (place >= 0) [...fresh.querySelectorAll(all)][place]?.focus({ preventScroll: true });
}

// A round-trip time, as the collector writes it.
export function rtt(us) {
  const ms = us / 1000;
  const digits = ms < 10 ? 2 : ms < 100 ? 1 : 0;
  return `${new Intl.NumberFormat(document.documentElement.lang, { useGrouping: false, minimumFractionDigits: digits, maximumFractionDigits: digits }).format(ms)} ms`;
}

function takeSamples({ agent, target, samples }) {
  const last = samples.at(-1);
  const shown = document.querySelector(`[data-last="${CSS.escape(`${agent}/${target}`)}"]`);
  if (!shown) return;
  if (last.rtt_us === null || !shown.classList.contains("last") || shown.classList.length > 1) soon();
  else shown.textContent = rtt(last.rtt_us);
}

function show(on) {
  status.hidden = false;
  status.textContent = on ? status.dataset.on : status.dataset.off;
  status.classList.toggle("off", !on);
}

let source = null;

function hear() {
  source = new EventSource(listen);
  let first = true;
  source.onopen = () => {
    show(true);
    if (!first) soon();
    first = false;
  };
  source.onerror = () => show(false);
  for (const name of ["link", "agent", "incident", "missed"]) source.addEventListener(name, soon);
  source.addEventListener("samples", (message) => takeSamples(JSON.parse(message.data)));
}

if (listen) {
  hear();
  setInterval(soon, AGAIN_MS);
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden && missed) {
      missed = false;
      soon();
    }
  });
  // A page that the browser keeps for going back must not hold a connection: there are six for all.
  addEventListener("pagehide", () => source.close());
}

// A form that leads nowhere else is sent from where it stands, and its button says what came of it.
async function send(form, button) {
  const before = button.textContent;
  button.disabled = true;
  const answer = await fetch(form.action, { method: "POST", headers: { Accept: "text/html" }, body: new URLSearchParams(new FormData(form)) }).catch(() => null);
  let text = answer?.ok ? form.dataset.quiet : "✗";
  if (answer && !answer.ok) {
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    text = page.querySelector(".problem")?.textContent ?? text;
  }
  button.textContent = text;
  setTimeout(() => {
    button.disabled = false;
    button.textContent = before;
  }, 4_000);
}

document.addEventListener("submit", (event) => {
  const form = event.target;
  if (form.method !== "post") return;
  const button = event.submitter ?? form.querySelector("button");
  if (form.dataset.quiet) {
    event.preventDefault();
    send(form, button);
    return;
  }
  // Once, however often it is pressed; after the browser has taken its value.
  setTimeout(() => form.querySelectorAll("button").forEach((one) => (one.disabled = true)));
});
addEventListener("pageshow", (event) => {
  if (!event.persisted) return;
  document.querySelectorAll("form button").forEach((one) => (one.disabled = false));
  if (listen) {
    hear();
    soon();
  }
});
