"use strict";
// Maps and the call profile of an episode, drawn as SVG when they are looked at. Lengths are centimetres.

const DATA = JSON.parse(document.getElementById("data").textContent);

/** An SVG element with attributes and children. */
function svg(name, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

/** [x, z, x, z, ...] as [[x, z], ...]. */
function places(flat = []) {
  const found = [];
  for (let k = 0; k < flat.length; k += 2) found.push([flat[k], flat[k + 1]]);
  return found;
}

/** The agent's place after each action, the start first; decoded from differences once. */
function track(episode) {
  if (!episode.track) {
    let x = 0, z = 0;
    episode.track = places(episode.path).map(([dx, dz]) => [(x += dx), (z += dz)]);
  }
  return episode.track;
}

const line = (points) => (points.length ? `M${points.map((p) => p.join(" ")).join("L")}` : "");

/** What must be seen: the paths, the goal's circle, and the scene around where it is not too large. */
function frame(episode, scene) {
  const points = [...track(episode), ...places(episode.reference), ...places(episode.via)];
  for (const [x, z] of places(episode.goal)) points.push([x - DATA.radius, z - DATA.radius], [x + DATA.radius, z + DATA.radius]);
  const box = bounds(points);
  const rooms = (scene.rooms || []).flatMap(([x0, z0, x1, z1]) => [[x0, z0], [x1, z1]]);
  const whole = bounds([...points, ...rooms]);
  const margin = rooms.length ? 30 : 150;
  const [x0, z0, x1, z1] = Math.max(whole[2] - whole[0], whole[3] - whole[1]) < 3500 ? whole : box;
  return [x0 - margin, z0 - margin, x1 - x0 + 2 * margin, z1 - z0 + 2 * margin];
}

function bounds(points) {
  const xs = points.map((p) => p[0]), zs = points.map((p) => p[1]);
  return [Math.min(...xs), Math.min(...zs), Math.max(...xs), Math.max(...zs)];
}

/** Rooms, doors and furniture, or the floor of the storeys that the episode touches. */
function background(episode, scene, labels) {
  const group = svg("g", { class: "scene" });
  const [low, high] = episode.heights || [0, 0];
  for (const [bottom, top, path] of scene.floors || [])
    if (bottom < high + 60 && top > low - 60) group.append(svg("path", { class: "floor", "fill-rule": "evenodd", d: path }));
  for (const [x0, z0, x1, z1] of scene.rooms || [])
    group.append(svg("rect", { class: "room", x: x0, y: z0, width: x1 - x0, height: z1 - z0 }));
  for (const [x0, z0, x1, z1] of scene.doors || []) group.append(svg("path", { class: "door", d: line([[x0, z0], [x1, z1]]) }));
  if (!labels) return group;
  for (const [x0, z0, x1, z1] of scene.things || [])
    group.append(svg("rect", { class: "thing", x: x0, y: z0, width: x1 - x0, height: z1 - z0, rx: 4 }));
  for (const room of scene.rooms || []) group.append(roomLabel(room));
  return group;
}

/** A room's name in the middle of it, one line a word where it is narrow, small enough to fit. */
function roomLabel([x0, z0, x1, z1, name]) {
  const width = x1 - x0 - 20, x = (x0 + x1) / 2;
  const lines = name.length * 22 > width ? name.split(" ") : [name];
  const size = Math.min(38, (1.7 * width) / Math.max(...lines.map((text) => text.length)), (z1 - z0) / (1.2 * lines.length));
  const label = svg("text", { class: "name", "font-size": size.toFixed(1), "text-anchor": "middle" });
  lines.forEach((text, k) => {
    const y = (z0 + z1) / 2 + size * (1.15 * (k - (lines.length - 1) / 2) + 0.35);
    label.append(svg("tspan", { x, y: y.toFixed(1) }, text));
  });
  return label;
}

/** The map of an episode; a small one has no furniture, names or agent. */
function episodeMap(episode, small) {
  const scene = DATA.scenes[episode.scene] || {};
  if (!track(episode).length && !episode.reference) return svg("svg", { class: "map none", viewBox: "0 0 4 3" });
  const box = frame(episode, scene);
  const unit = Math.max(box[2], box[3]) / (small ? 60 : 420); // about one pixel
  const map = svg("svg", { class: "map", viewBox: box.join(" "), style: `--px:${unit.toFixed(2)}px` });
  map.append(background(episode, scene, !small));
  for (const [x, z] of places(episode.goal)) {
    map.append(svg("circle", { class: "radius", cx: x, cy: z, r: DATA.radius }));
  }
  map.append(svg("path", { class: "reference", d: line(places(episode.reference)) }));
  map.append(svg("path", { class: "ahead", d: line(track(episode)) }), svg("path", { class: "travelled", d: line(track(episode)) }));
  for (const [x, z] of places(episode.via)) map.append(svg("circle", { class: "via", cx: x, cy: z, r: (small ? 2 : 5) * unit }));
  for (const [x, z] of places(episode.goal)) map.append(svg("circle", { class: "goal", cx: x, cy: z, r: (small ? 3 : 6) * unit }));
  if (small) return map;
  const start = track(episode)[0] || places(episode.reference)[0];
  map.append(svg("circle", { class: "start", cx: start[0], cy: start[1], r: 6 * unit }));
  map.append(svg("path", { class: "agent", d: episode.headings ? "M0 -11L8 9L0 4L-8 9Z" : "M-7 0a7 7 0 1 0 14 0a7 7 0 1 0-14 0Z" }));
  map.setAttribute("role", "img");
  return map;
}

/** Moves the agent of a map to a step. */
function showStep(map, episode, step) {
  const way = track(episode), agent = map.querySelector(".agent");
  if (!agent || !way.length) return;
  const [x, z] = way[Math.min(step, way.length - 1)];
  const heading = episode.headings ? episode.headings[Math.min(step, episode.headings.length - 1)] : 0;
  const unit = parseFloat(map.style.getPropertyValue("--px"));
  agent.setAttribute("transform", `translate(${x} ${z}) rotate(${-heading}) scale(${unit})`); // headings turn left
  map.querySelector(".travelled").setAttribute("d", line(way.slice(0, step + 1)));
}

/** The KV cache's length at every model call; windows that open stand out. */
function callProfile(episode) {
  const width = 400, height = 74, base = 60;
  const steps = Math.max(episode.actions.length, 1);
  const longest = Math.max(...episode.calls.map((call) => call[2]), 1);
  const chart = svg("svg", { class: "profile", viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": "Length of the KV cache at every model call" });
  const wide = Math.max((width / steps) * 3, 1.5);
  for (const [step, time, kv, tokens, opens] of episode.calls) {
    const tall = Math.max((kv / longest) * (base - 4), 1);
    const hint = `step ${step}: ${time} ms, KV ${kv}, ${tokens} tokens read${opens ? ", a window opens" : ""}`;
    chart.append(svg("rect", { class: opens ? "opens" : "call", "data-step": step, x: (step / steps) * width, y: base - tall, width: wide, height: tall }, svg("title", {}, hint)));
  }
  chart.append(svg("path", { class: "axis", d: `M0 ${base}H${width}` }), svg("text", { x: 0, y: height - 2 }, "0"), svg("text", { x: width, y: height - 2, "text-anchor": "end" }, `step ${episode.actions.length}`));
  return chart;
}
