// Words, times and numbers in the reader's language.

const LOCALES = { id: "id-ID", en: "en-GB" };
let language = "id";
let catalogue = {};

export async function useLanguage(wanted) {
  language = wanted in LOCALES ? wanted : "id";
  const answer = await fetch(`/text/${language}.json`);
  catalogue = await answer.json();
  document.documentElement.lang = language;
  for (const element of document.querySelectorAll("[data-text]")) {
    element.textContent = say(element.dataset.text);
  }
}

export const currentLanguage = () => language;

// The text of a key; {name} in it stands for a value.
export function say(key, values = {}) {
  const text = catalogue[key] ?? key;
  return text.replace(/\{(\w+)\}/g, (whole, name) => values[name] ?? whole);
}

// The zone of an office, by its province: WIB, WITA or WIT.
export function zoneOf(office) {
  const province = Number(office.slice(0, 2));
  if (province >= 81) return { zone: "Asia/Jayapura", name: "WIT" };
  const wita = [51, 52, 53, 63, 64, 65].includes(province) || (province >= 71 && province <= 76);
  return wita ? { zone: "Asia/Makassar", name: "WITA" } : { zone: "Asia/Jakarta", name: "WIB" };
}

// A moment on the office's clock, with the zone's name; the day only when it is not today.
export function timeAt(ms, office) {
  const { zone, name } = zoneOf(office);
  const day = (at) => new Intl.DateTimeFormat("en-CA", { timeZone: zone }).format(at);
  const clock = new Intl.DateTimeFormat(LOCALES[language], { timeZone: zone, hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" }).format(ms);
  const date = new Intl.DateTimeFormat(LOCALES[language], { timeZone: zone, day: "numeric", month: "short", year: "numeric" }).format(ms);
  return day(ms) === day(Date.now()) ? `${clock} ${name}` : `${date}, ${clock} ${name}`;
}

// A length of time in its two largest units.
export function lengthOf(ms) {
  const seconds = Math.max(0, Math.round(ms / 1000));
  const units = [["unit.day", 86400], ["unit.hour", 3600], ["unit.minute", 60], ["unit.second", 1]];
  const first = units.findIndex(([, size]) => seconds >= size);
  if (first < 0) return say("unit.second", { n: 0 });
  const part = ([key, size], rest) => say(key, { n: Math.floor(rest / size) });
  const largest = part(units[first], seconds);
  const rest = seconds % units[first][1];
  const second = units[first + 1];
  return second && rest >= second[1] ? `${largest} ${part(second, rest)}` : largest;
}

// A round-trip time.
export function rtt(us) {
  const ms = us / 1000;
  const digits = ms < 10 ? 2 : ms < 100 ? 1 : 0;
  return `${new Intl.NumberFormat(LOCALES[language], { minimumFractionDigits: digits, maximumFractionDigits: digits }).format(ms)} ms`;
}

// A failure as the API writes it: reason, or reason=detail.
export function failureText(failure) {
  const [reason, detail] = failure.split("=");
  const text = say(`reason.${reason}`);
  return detail ? `${text} ${detail}` : text;
}
