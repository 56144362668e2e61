"use strict";
// The dialog about one episode: opened by its address (#episode=ID), closed by Escape, ✕ or the browser's Back.

const dialog = document.getElementById("episode");
const ACTIONS = { S: "STOP", F: "forward", L: "left", R: "right" };
const part = (selector) => dialog.querySelector(selector);
const shown = { row: null, episode: null, map: null };

/** Fills the dialog with an episode and shows it. `row` is its line of the list. */
function openEpisode(row) {
  const episode = DATA.episodes[row.dataset.index];
  const name = row.querySelector(".id a").textContent;
  Object.assign(shown, { row, episode });
  part("h2").textContent = `Episode ${name}`;
  part("h2").append(small(row.dataset.scene));
  const text = row.querySelector(".text p");
  part(".instruction").textContent = text.textContent;
  part(".instruction").lang = text.lang;
  part(".ended").replaceChildren(row.querySelector(".badge").cloneNode(true), ...[...row.querySelectorAll(".tag")].map((tag) => tag.cloneNode(true)));
  fillMetrics(row);
  shown.map = episodeMap(episode, false);
  shown.map.setAttribute("aria-label", `Map of episode ${name}: ${row.querySelector(".badge").textContent}`);
  part(".canvas").replaceChildren(shown.map);
  part(".if-goal").hidden = !episode.goal;
  part(".if-via").hidden = !episode.via;
  fillCalls(episode);
  fillFilm(episode);
  const last = Math.max(episode.actions.length, track(episode).length - 1);
  part("#step").max = last;
  setStep(last);
  if (!dialog.open) dialog.showModal();
  part(".body").scrollTop = 0;
}

function small(text) {
  const element = document.createElement("small");
  element.textContent = ` ${text}`;
  return element;
}

function fillMetrics(row) {
  part(".metrics").replaceChildren(...[...row.querySelectorAll("td[data-label]")].map((cell) => {
    const pair = document.createElement("div");
    pair.append(document.createElement("dt"), document.createElement("dd"));
    pair.children[0].textContent = cell.dataset.label;
    pair.children[1].textContent = cell.textContent;
    return pair;
  }));
}

function fillCalls(episode) {
  part(".calls").replaceChildren();
  if (!episode.calls) return;
  const times = episode.calls.map((call) => call[1]).sort((a, b) => a - b);
  const caption = document.createElement("p");
  const windows = episode.calls.filter((call) => call[4]).length;
  const longest = Math.max(...episode.calls.map((call) => call[2])).toLocaleString("en");
  caption.textContent = `${times.length} model calls in ${windows} windows · median ${Math.round(times[times.length >> 1])} ms · KV cache up to ${longest}`;
  part(".calls").append(caption, callProfile(episode));
}

function fillFilm(episode) {
  part(".film").replaceChildren();
  if (!episode.video) return;
  const film = document.createElement("video");
  Object.assign(film, { controls: true, preload: "metadata", muted: true, playsInline: true, src: episode.video });
  film.setAttribute("aria-label", "Video of the episode");
  // The film has a picture for the start and one for each action.
  film.addEventListener("timeupdate", () => {
    if (!film.paused) setStep(Math.round((film.currentTime / film.duration) * part("#step").max), film);
  });
  film.addEventListener("error", () => film.replaceWith(`The video ${episode.video} cannot be played: is it beside this page?`));
  part(".film").append(film);
}

/** Shows a step on the map, in words, in the call profile and, unless it set the step, in the video. */
function setStep(step, film) {
  const { episode, map } = shown, range = part("#step");
  range.value = step;
  showStep(map, episode, step);
  const action = step > 0 ? ACTIONS[episode.actions[step - 1]] || "" : "start";
  part("output").textContent = `${step} of ${range.max} · ${action}`;
  range.setAttribute("aria-valuetext", part("output").textContent);
  for (const bar of dialog.querySelectorAll(".profile rect")) bar.classList.toggle("now", +bar.dataset.step <= step);
  const video = part("video");
  if (video && !film && video.paused && video.duration) video.currentTime = (step / range.max) * video.duration;
}

/** The listed episode before (-1) or after (1) the shown one. */
function go(offset) {
  const next = list.fitting[list.fitting.indexOf(shown.row) + offset];
  if (next) location.replace(next.querySelector(".id a").getAttribute("href"));
}

part("#step").addEventListener("input", (event) => setStep(+event.target.value));
part("[name=previous]").addEventListener("click", () => go(-1));
part("[name=next]").addEventListener("click", () => go(1));
part("[name=close]").addEventListener("click", () => dialog.close());
dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
dialog.addEventListener("keydown", (event) => {
  if (event.target.matches("input, video")) return; // they have arrows of their own
  if (event.key === "ArrowLeft") go(-1);
  if (event.key === "ArrowRight") go(1);
});
dialog.addEventListener("close", () => {
  part("video")?.pause();
  if (location.hash.startsWith("#episode=")) history.replaceState(null, "", "#episodes");
  (shown.row.hidden ? document.getElementById("episodes") : shown.row.querySelector(".id a")).focus();
});
