"use strict";
// The list of episodes: sorting, filtering, small maps, and what the page's address says.

const body = document.querySelector(".episodes tbody");
const allRows = [...body.rows];
const heads = [...document.querySelectorAll(".episodes [data-sort]")];
const filter = document.querySelector(".filter");
const OUTCOMES = [...new Set([...filter.elements.outcome.options].map((option) => option.value))];

allRows.forEach((row, index) => {
  row.dataset.index = index;
  row.words = [...row.querySelectorAll(".id, .text")].map((cell) => cell.textContent).join(" ").toLowerCase();
});
filter.hidden = false;

// So many rows are shown at once; a very long list is shown part by part, so that sorting it stays quick.
const PAGE = allRows.length > 1000 ? 500 : allRows.length;
const list = { order: allRows, fitting: allRows, limit: PAGE };

/** What a row is sorted by in a column; missing values come last. */
function sortValue(row, column) {
  if (column === "order") return +row.dataset.index;
  if (column === "outcome") return OUTCOMES.indexOf(row.dataset.outcome);
  return DATA.sort[column][row.dataset.index] ?? NaN;
}

function sortBy(column, descending) {
  const sign = descending ? -1 : 1;
  const keyed = allRows.map((row) => [sortValue(row, column), row]);
  keyed.sort(([a, one], [b, other]) => Number.isNaN(a) - Number.isNaN(b) || sign * (a - b) || one.dataset.index - other.dataset.index);
  list.order = keyed.map(([, row]) => row);
  body.replaceChildren(); // all at once: moving the rows one by one takes a minute for 10,000
  body.append(...list.order);
  for (const head of heads) head.setAttribute("aria-sort", head.dataset.sort !== column ? "none" : descending ? "descending" : "ascending");
  refresh();
}

function fits(row, wanted) {
  const { outcome, memory, scene } = row.dataset;
  if (wanted.outcome === "failure" ? outcome === "success" || outcome === "unjudged" : wanted.outcome && outcome !== wanted.outcome) return false;
  if (wanted.memory && !(wanted.memory === "none" ? !memory : wanted.memory === "any" ? memory : memory === wanted.memory)) return false;
  return (!wanted.scene || scene === wanted.scene) && wanted.words.every((word) => row.words.includes(word));
}

/** Shows the rows that fit the filter, as many as the limit allows. */
function refresh() {
  const wanted = Object.fromEntries(new FormData(filter));
  wanted.words = wanted.text.toLowerCase().split(/\s+/).filter(Boolean);
  list.fitting = list.order.filter((row) => fits(row, wanted));
  const shown = new Set(list.fitting.slice(0, list.limit));
  for (const row of allRows) row.hidden = !shown.has(row);
  const [count, all] = [list.fitting.length, allRows.length];
  filter.querySelector(".count").textContent = count === all ? `${all} episodes` : `${count} of ${all} episodes`;
  document.querySelector(".empty").hidden = count > 0;
  const rest = count - shown.size, more = document.querySelector(".more");
  more.hidden = rest === 0;
  more.textContent = `Show ${Math.min(rest, PAGE)} more of ${rest}`;
}

function applyFilter() {
  list.limit = PAGE;
  refresh();
}

document.querySelector(".more").addEventListener("click", () => { list.limit += PAGE; refresh(); });
for (const head of heads)
  head.querySelector("button").addEventListener("click", () => sortBy(head.dataset.sort, head.getAttribute("aria-sort") === "ascending"));
filter.addEventListener("input", applyFilter);
filter.addEventListener("submit", (event) => event.preventDefault());
filter.addEventListener("reset", () => setTimeout(applyFilter));
document.querySelector(".empty button").addEventListener("click", () => { filter.reset(); filter.elements.text.focus(); });
body.addEventListener("click", (event) => {
  const row = event.target.closest("tr");
  if (!event.target.closest("a") && !String(getSelection())) row.querySelector(".id a").click();
});

/** Small maps are drawn when their row comes near the screen, or before printing. */
function drawSmall(row) {
  const cell = row.querySelector(".map");
  if (!cell.firstChild) cell.append(episodeMap(DATA.episodes[row.dataset.index], true));
}
const seen = new IntersectionObserver((entries) => {
  for (const entry of entries) if (entry.isIntersecting) { drawSmall(entry.target); seen.unobserve(entry.target); }
}, { rootMargin: "400px" });
for (const row of allRows) seen.observe(row);
addEventListener("beforeprint", () => list.fitting.slice(0, list.limit).forEach(drawSmall));

/** #episode=ID shows an episode, #failure=KIND lists the failures of a kind. */
function followAddress() {
  const [name, value] = location.hash.slice(1).split("=").map(decodeURIComponent);
  const row = name === "episode" ? document.getElementById(`row-${value}`) : null;
  if (row) return openEpisode(row);
  if (dialog.open) dialog.close();
  if (name !== "failure" || !OUTCOMES.includes(value)) return;
  filter.reset();
  filter.elements.outcome.value = value;
  applyFilter();
  document.getElementById("episodes").scrollIntoView();
  filter.elements.outcome.focus({ preventScroll: true });
}
addEventListener("hashchange", followAddress);
addEventListener("DOMContentLoaded", followAddress);
