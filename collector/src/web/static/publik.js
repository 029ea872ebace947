// The page for citizens: sorts the offices by how far they are from here. Where that is stays on this device.

const near = document.getElementById("near");
const list = document.querySelector(".offices");
const told = document.getElementById("told");

// Kilometres between two places on a sphere (the haversine formula).
function distance([lat1, lon1], [lat2, lon2]) {
  const rad = Math.PI / 180;
  const half = Math.sin(((lat2 - lat1) * rad) / 2) ** 2 + Math.cos(lat1 * rad) * Math.cos(lat2 * rad) * Math.sin(((lon2 - lon1) * rad) / 2) ** 2;
  return 2 * 6371 * Math.asin(Math.min(1, Math.sqrt(half)));
}

// Those that can come first, each group by distance.
function sort(here) {
  const far = (item) => (item.dataset.at ? distance(here, item.dataset.at.split(",").map(Number)) : Infinity);
  const format = new Intl.NumberFormat(document.documentElement.lang, { maximumFractionDigits: 1 });
  const items = [...list.children].map((item) => [item, far(item)]);
  items.sort(([a, one], [b, two]) => b.classList.contains("yes") - a.classList.contains("yes") || one - two);
  for (const [item, km] of items) {
    if (Number.isFinite(km)) item.querySelector(".far").textContent = ` ${format.format(km)} ${near.dataset.km}`;
    list.append(item);
  }
}

// For the next look at the page, until the tab is closed.
function stay(here) {
  sessionStorage.setItem("here", here.join(","));
  told.textContent = "";
  sort(here);
}

if (near && list.querySelector("[data-at]")) {
  const kept = sessionStorage.getItem("here");
  const home = document.getElementById("home");
  if (home) {
    const homes = document.getElementById("homes");
    const answer = await fetch(homes.dataset.from).catch(() => null);
    for (const [name, ...place] of answer?.ok ? await answer.json() : []) home.add(new Option(name, place.join(",")));
    homes.hidden = home.options.length < 2;
    if (kept) home.value = kept;
    home.addEventListener("change", () => {
      if (home.value) stay(home.value.split(",").map(Number));
    });
  }
  if (navigator.geolocation) {
    near.hidden = false;
    near.addEventListener("click", () => {
      navigator.geolocation.getCurrentPosition(
        ({ coords }) => stay([coords.latitude, coords.longitude]),
        () => { told.textContent = near.dataset.none; },
        { maximumAge: 600000, timeout: 20000 },
      );
    });
  }
  if (kept) sort(kept.split(",").map(Number));
}
