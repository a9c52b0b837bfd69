"use strict";
for (const table of document.querySelectorAll("table")) {
  if (!table.tHead) { continue; }
  const body = table.tBodies[0], heads = [...table.tHead.rows[0].cells];
  const key = (row, at) => {
    const cell = row.cells[at];
    return cell.dataset.sort === undefined ? cell.textContent : cell.dataset.sort === "-inf" ? -Infinity : Number(cell.dataset.sort);
  };
  const order = (a, b) => (typeof a === "number" && typeof b === "number" ? (a < b ? -1 : a > b ? 1 : 0) : String(a).localeCompare(String(b)));
  heads.forEach((head, at) => head.querySelector("button").addEventListener("click", () => {
    const falling = head.getAttribute("aria-sort") === "ascending";
    heads.forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", falling ? "descending" : "ascending");
    const rows = [...body.rows].sort((a, b) => order(key(a, at), key(b, at)));
    body.append(...(falling ? rows.reverse() : rows));
  }));
}
// the play button and the slider of a group of frames; show(at) puts the frame at a place on display
function controlled(group, count, rate, show) {
  const play = group.querySelector(".play"), place = group.querySelector("[type=range]");
  let timer = 0;
  const stop = () => { clearInterval(timer); timer = 0; play.textContent = "Play"; play.setAttribute("aria-pressed", "false"); };
  const next = () => { place.value = (Number(place.value) + 1) % count; show(Number(place.value)); };
  play.addEventListener("click", () => {
    if (timer) { stop(); return; }
    timer = setInterval(next, 1000 / rate);
    play.textContent = "Pause"; play.setAttribute("aria-pressed", "true");
  });
  place.addEventListener("input", () => { stop(); show(Number(place.value)); });
  group.querySelector(".controls").hidden = false;
  return () => show(Number(place.value));
}
for (const player of document.querySelectorAll(".player")) {
  const find = (selector) => player.querySelector(selector);
  const frames = [...player.querySelectorAll(".frame")], overlays = [...player.querySelectorAll(".over")];
  const levels = find(".levels"), output = find("output");
  const again = controlled(player, frames.length, Number(player.dataset.rate), (at) => {
    const tokens = Number(frames[at].dataset.tokens);
    frames.forEach((frame, index) => { frame.hidden = index !== at; });
    overlays.forEach((overlay, index) => { overlay.hidden = !levels.checked || index !== tokens; });
    output.textContent = frames[at].alt.replace(/^Frame (\d+).*$/, "frame $1");
  });
  levels.addEventListener("change", again);
}
for (const group of document.querySelectorAll(".together")) {
  const count = Number(group.dataset.frames), stages = [...group.querySelectorAll(".stage")].map((stage) => [...stage.children]);
  if (count < 2) { continue; }
  controlled(group, count, Number(group.dataset.rate), (at) => {
    // a stage may hold fewer frames than another, where they would have made the page too large
    for (const frames of stages) { frames.forEach((frame, index) => { frame.hidden = index !== Math.floor(at * frames.length / count); }); }
    group.querySelector("output").textContent = `frame ${at + 1} of ${count}`;
  });
}
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((part) => { part.open = true; }));
