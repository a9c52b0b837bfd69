"use strict";
for (const table of document.querySelectorAll("table")) {
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
for (const player of document.querySelectorAll(".player")) {
  const find = (selector) => player.querySelector(selector);
  const frames = [...player.querySelectorAll(".frame")], overlays = [...player.querySelectorAll(".over")];
  const play = find(".play"), place = find("[type=range]"), levels = find(".levels"), told = find("output");
  let timer = 0;
  const show = () => {
    const at = Number(place.value), tokens = Number(frames[at].dataset.tokens);
    frames.forEach((frame, index) => { frame.hidden = index !== at; });
    overlays.forEach((overlay, index) => { overlay.hidden = !levels.checked || index !== tokens; });
    told.textContent = frames[at].alt.replace(/^Frame (\d+).*$/, "frame $1");
  };
  const stop = () => { clearInterval(timer); timer = 0; play.textContent = "Play"; play.setAttribute("aria-pressed", "false"); };
  const next = () => { place.value = (Number(place.value) + 1) % frames.length; show(); };
  play.addEventListener("click", () => {
    if (timer) { stop(); return; }
    timer = setInterval(next, 1000 / Number(player.dataset.rate));
    play.textContent = "Pause"; play.setAttribute("aria-pressed", "true");
  });
  place.addEventListener("input", () => { stop(); show(); });
  levels.addEventListener("change", show);
  find(".controls").hidden = false;
}
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((part) => { part.open = true; }));
