// Ties the numbers to the page: machines, filter, groups of columns, and pictures at their width.

const DATA = JSON.parse(document.getElementById("data").textContent);
const MACHINES = Object.fromEntries(DATA.machines.map((machine) => [machine.name, machine]));
const sections = [...document.querySelectorAll("section.machine")];
const redraw = new Map(); // place -> function, of what is drawn now

function present(name) {
  const shown = sections.find((section) => section.dataset.machine === name) ?? sections[0];
  for (const section of sections) section.hidden = section !== shown;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash.slice(1) === shown.dataset.machine) link.setAttribute("aria-current", "true");
    else link.removeAttribute("aria-current");
  }
  if (MACHINES[shown.dataset.machine] && !shown.dataset.drawn) drawMachine(shown, MACHINES[shown.dataset.machine]);
  repaint();
  filter();
}

// What is on show and was drawn at another width, or not at all.
function repaint() {
  for (const [place, draw] of redraw) {
    if (!place.clientWidth || place.clientWidth === Number(place.dataset.width)) continue;
    place.dataset.width = place.clientWidth;
    draw();
  }
}

function drawMachine(section, machine) {
  section.dataset.drawn = "true";
  const plots = section.querySelector(".plots");
  for (const computed of [true, false]) {
    if (!limitPoints(machine, computed).points.length) continue;
    const figure = element("figure", { "data-family": computed ? "gemm" : "memory" }, plots);
    redraw.set(figure, () => roofline(figure, machine, computed));
  }
  for (const part of section.querySelectorAll(".operator")) {
    const held = machine.operators[part.dataset.operator];
    if (!held) continue;
    for (const row of part.querySelectorAll("tr[data-case]")) {
      const cell = row.querySelector(".spark"), number = held.cases.indexOf(row.dataset.case);
      if (cell) spark(cell, machine.logs.map((_, log) => at(held.series.kernels?.device_us, number, log)));
    }
    controls(part, machine, part.dataset.operator, held);
  }
}

function controls(part, machine, operator, held) {
  const place = part.querySelector(".history"), bar = element("div", { class: "controls" }, place);
  const metric = element("select", { "aria-label": `what of ${operator}` }, bar);
  for (const name of Object.keys(DATA.metrics)) {
    if (Object.values(held.series).some((series) => series[name])) element("option", { value: name, title: DATA.metrics[name][2] }, metric, name);
  }
  const which = element("select", { "aria-label": `case of ${operator}` }, bar);
  held.short.forEach((words, number) => element("option", { value: number, title: held.cases[number] }, which, words.replaceAll(",", " ")));
  if (!metric.options.length) { place.replaceChildren(); return; }
  if (!held.series.kernels?.device_us && held.series.kernels?.instructions) metric.value = "instructions";
  // In front at first: of the cases with the longest history, the one that takes longest.
  const times = (number) => machine.logs.map((_, log) => at(held.series.kernels?.device_us, number, log)).filter(numeric);
  const before = (one, other) => one.length - other.length || (one.at(-1) ?? 0) - (other.at(-1) ?? 0);
  which.value = held.cases.reduce((most, _, number) => (before(times(number), times(most)) > 0 ? number : most), 0);
  const pair = element("div", { class: "pair" }, place), all = element("div", {}, pair), one = element("div", {}, pair);
  const draw = () => {
    history(all, machine, operator, metric.value, -1, Number(which.value));
    history(one, machine, operator, metric.value, Number(which.value));
    for (const row of part.querySelectorAll("tr[data-case]")) row.classList.toggle("chosen", row.dataset.case === held.cases[which.value]);
  };
  metric.addEventListener("change", draw);
  which.addEventListener("change", draw);
  part.querySelector("tbody").addEventListener("click", (event) => {
    const row = event.target.closest("tr[data-case]");
    if (!row || getSelection().toString()) return;
    which.value = held.cases.indexOf(row.dataset.case);
    draw();
    const box = pair.getBoundingClientRect();
    if (box.bottom < 160 || box.top > innerHeight - 60) place.scrollIntoView({ block: "start" });
  });
  redraw.set(pair, draw);
}

// Words must all occur in the operator's name and the case's label; NAME=VALUE is a whole field.
function fits(words, operator, label) {
  const fields = label.split(",");
  return words.every((word) => (word.includes("=") ? fields.includes(word) : `${operator},${label}`.toLowerCase().includes(word.toLowerCase())));
}

function filter() {
  const words = document.getElementById("filter").value.split(/[\s,]+/).filter(Boolean);
  let shown = 0;
  for (const section of sections.filter((item) => !item.hidden)) {
    for (const part of section.querySelectorAll(".operator")) {
      let any = false;
      for (const row of part.querySelectorAll("tr[data-case]")) {
        row.hidden = !fits(words, part.dataset.operator, row.dataset.case);
        any ||= !row.hidden;
        shown += !row.hidden;
      }
      part.hidden = !any;
    }
    for (const node of section.querySelectorAll(".mark[data-case]")) node.classList.toggle("dim", !fits(words, node.dataset.operator, node.dataset.case));
  }
  document.getElementById("found").textContent = words.length ? `${shown} case${shown === 1 ? "" : "s"}` : "";
}

function follow() {
  const hash = decodeURIComponent(location.hash.slice(1));
  present(hash.split("/")[0]);
  if (hash.includes("/")) document.getElementById(hash)?.scrollIntoView();
}

document.getElementById("filter").addEventListener("input", filter);
document.querySelector(".filter").addEventListener("submit", (event) => event.preventDefault());
for (const box of document.querySelectorAll("[data-group]"))
  box.addEventListener("change", () => document.body.classList.toggle(`hide-${box.dataset.group}`, !box.checked));
addEventListener("hashchange", follow);
let waiting = 0;
addEventListener("resize", () => {
  clearTimeout(waiting);
  waiting = setTimeout(() => { repaint(); filter(); }, 150);
});
follow();
