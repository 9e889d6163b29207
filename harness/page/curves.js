// The three kinds of picture: a curve over commits, a roofline, and the small curve of a table's row.

const NAMES = { kernels: "ours", cublaslt: "cuBLASLt", deep_gemm: "DeepGEMM", sglang: "SGLang", vllm: "vLLM", transformer_engine: "TransformerEngine" };
const named = (implementation) => NAMES[implementation] ?? implementation;
const at = (series, number, log) => {
  const held = series === undefined ? null : series[number];
  return Array.isArray(held) ? held[log] : held;
};
const numeric = (value) => typeof value === "number";
const newest = (series, number, logs) => {
  for (let log = logs.length - 1; log >= 0; log--) if (numeric(at(series, number, log))) return [at(series, number, log), log];
  return null;
};

function spark(cell, values) {
  const held = values.map((value, index) => [index, value]).filter((pair) => numeric(pair[1]));
  if (!held.length) return;
  const only = held.map((pair) => pair[1]), middle = only[only.length - 1];
  const low = Math.min(...only, middle * 0.97), high = Math.max(...only, middle * 1.03);
  const svg = make("svg", { width: 72, height: 22, role: "img", "aria-label": `${short(only[0])} to ${short(middle)} over ${held.length} logs` }, cell);
  const x = scale(0, Math.max(1, values.length - 1), 4, 68), y = scale(low, high, 19, 3);
  const places = held.map(([index, value]) => [x(values.length > 1 ? index : 1), y(value)]);
  line({ svg }, places, { stroke: "var(--c0)", "stroke-width": 1.5 });
  const [cx, cy] = places[places.length - 1];
  make("circle", { cx, cy, r: 2.5, fill: "var(--c0)" }, svg);
}

// Marks of a commit: their signs, in the order in which they stand.  What is not here is a note.
const SIGNS = {
  regressed: ["▲", "bad-mark"], recovered: ["△", "bad-mark"], accepted: ["◇", "words"], improved: ["▼", "good-mark"],
  harmless: ["○", "words"], changed: ["↕", "words"], noise: ["≈", "words"], inconclusive: ["?", "words"], same: ["=", "words"], note: ["◆", "words"],
};

// What the gate's verdicts, and the history, say of this commit and of what the curve shows, by sign.
function marksOf(machine, operator, number, metric, commit) {
  const held = machine.operators[operator], label = number < 0 ? null : held.cases[number];
  const fits = (item, name, value) => item[name] === undefined || value === null || item[name] === value;
  const found = DATA.marks.filter((item) => commit.startsWith(item.commit.slice(0, commit.length)) &&
    fits(item, "machine", machine.name) && fits(item, "operator", operator) &&
    fits(item, "case", label) && fits(item, "metric", metric));
  for (const [one, of, at, verdict, text] of held.changes) {
    if (of === metric && commit.startsWith(at) && (number < 0 || number === one)) found.push({ commit: at, verdict, case: held.short[one].replaceAll(",", " "), text });
  }
  const signs = Object.keys(SIGNS).map((sign) => [sign, found.filter((item) => (item.verdict in SIGNS ? item.verdict : "note") === sign)]);
  return signs.filter((pair) => pair[1].length);
}

function spread(lows, highs, least, log) {
  let low = Math.min(...lows), high = Math.max(...highs);
  if (!Number.isFinite(low)) return [0, 1];
  if (log) return [Math.min(low / 1.01, 1 / (1 + least)), Math.max(high * 1.01, 1 + least)];
  const room = Math.max((high - low) * 0.08, Math.abs(high) * least, high === 0 && low === 0 ? 1 : 0);
  return [low >= 0 ? Math.max(0, low - room) : low - room, high + room];
}

// The points of one implementation, case and Triton: [log, value], nulls left out.
function curve(held, implementation, metric, number, logs, triton) {
  return logs.map((log, index) => [index, at(held.series[implementation]?.[metric], number, index)])
    .filter(([index, value]) => logs[index].triton === triton && value !== null && value !== undefined);
}

const FRONT = 4; // the colour of the case in front

// number: of the case, or -1 for all cases, each over its own first value; chosen: the one in front.
function history(place, machine, operator, metric, number, front) {
  place.replaceChildren();
  const held = machine.operators[operator], logs = machine.logs, [unit, better] = DATA.metrics[metric];
  const commits = [...new Set(logs.map((log) => log.commit))];
  const tritons = [...new Set(logs.map((log) => log.triton))], all = number < 0;
  const label = all ? null : held.cases[number];
  const sides = Object.keys(held.series).filter((side) => held.series[side][metric] && (!all || side === "kernels" || side === "reference"));
  const chosen = all ? held.cases.map((_, index) => index) : [number];
  const curves = [];
  for (const [rank, side] of sides.entries()) for (const [version, triton] of tritons.entries()) for (const one of chosen) {
    const points = curve(held, side, metric, one, logs, triton), first = points.find((point) => numeric(point[1]) && point[1] > 0);
    if (points.length && (!all || first)) curves.push({ side, rank: all ? version : rank, version, triton, one, points, base: all ? first[1] : 1 });
  }
  const key = all ? [...tritons.map((triton, version) => ({ words: `Triton ${triton}`, number: version, dash: version ? "5 3" : "" })), { words: held.short[front].replaceAll(",", " "), number: FRONT, dash: "" }]
    : curves.map((item) => ({ words: named(item.side) + (tritons.length > 1 ? `, Triton ${item.triton}` : ""), number: item.rank, dash: item.version ? "5 3" : "" }));
  const limits = metric === "device_us" && !all ? logs.map((_, log) => {
    const time = at(held.series.kernels?.device_us, number, log), share = at(held.series.kernels?.roofline_fraction, number, log);
    return numeric(time) && numeric(share) ? time * share : null;
  }) : [];
  if (limits.some(numeric)) key.push({ words: "limit", dash: "2 3", stroke: "var(--faint)" });
  const marks = commits.map((commit) => marksOf(machine, operator, number, metric, commit)), room = 14 * Math.max(0, ...marks.map((signs) => signs.length));
  const seen = new Set(marks.flat().map((pair) => pair[0]));
  for (const [words, [sign, style]] of Object.entries(SIGNS)) if (seen.has(words)) key.push({ words, sign, style });
  legend(place, key);
  const c = canvas(place, 230 + room, `${metric} of ${operator}, ${label ?? "all cases"}, over ${commits.length} commits`, room);
  const values = curves.flatMap((item) => item.points.map((point) => point[1]).filter(numeric).map((value) => value / item.base)).concat(limits.filter(numeric));
  // A case's own picture has room for its boxes.
  const boxes = all || metric !== "device_us" ? [] : sides.flatMap((side) => ["low", "high"].flatMap((edge) => logs.map((_, log) => at(held.series[side][edge], number, log)))).filter(numeric);
  const [low, high] = spread(values.concat(boxes), values.concat(boxes), all ? 0.05 : 0.03, all);
  const y = scale(low, high, c.bottom, c.top, all), x = scale(0, Math.max(1, commits.length - 1), c.left + 18, c.right - 24);
  const place_ = (log) => (commits.length > 1 ? x(commits.indexOf(logs[log].commit)) : (c.left + c.right) / 2);
  if (!values.length) make("text", { x: (c.left + c.right) / 2, y: (c.top + c.bottom) / 2, "text-anchor": "middle" }, c.svg, "not measured here");
  vertical(c, y, all ? `${metric}, each case over its first` : metric + (unit ? `, ${unit}` : ""), all ? (value) => `${short(value)}×` : short);
  make("text", { x: c.right, y: 12, "text-anchor": "end" }, c.svg, better === "neither" ? "" : `${better} is better`);
  commitAxis(c, commits, logs, place_);
  line(c, limits.map((value, log) => [value, log]).filter((pair) => numeric(pair[0])).map(([value, log]) => [place_(log), y(value)]), { class: "dotted" });
  curves.sort((a, b) => (a.one === front) - (b.one === front));
  for (const item of curves) drawCurve(c, item, { front, held, logs, machine, operator, metric, unit, all, y, at: place_ });
  for (const [log, word] of all ? [] : held.broken[number]) make("text", { x: place_(log), y: c.bottom - 6, "text-anchor": "middle", class: "bad-mark" }, c.svg, `✕ ${word}`);
  commits.forEach((commit, index) => drawMarks(c, marks[index], place_(logs.findIndex((log) => log.commit === commit)), room));
  tips(c);
}

function commitAxis(c, commits, logs, place) {
  const step = Math.ceil((commits.length * 66) / (c.right - c.left));
  let day = "";
  commits.forEach((commit, index) => {
    const log = logs.findIndex((item) => item.commit === commit), px = place(log), today = logs[log].date.slice(0, 10);
    make("line", { class: "axis", x1: px, x2: px, y1: c.bottom, y2: c.bottom + 4 }, c.svg);
    if ((commits.length - 1 - index) % step) return;
    make("text", { x: px, y: c.bottom + 17, "text-anchor": "middle" }, c.svg, commit.slice(0, 7));
    // The year once; a label is as wide as a hash.
    if (today !== day) make("text", { x: px, y: c.bottom + 32, "text-anchor": "middle" }, c.svg, today.slice(0, 4) === day.slice(0, 4) ? today.slice(5) : today);
    day = today;
  });
}

function drawCurve(c, item, of) {
  const { held, logs, metric, unit, all, y } = of, front = all && item.one === of.front;
  const rank = front ? FRONT : item.rank, stroke = colour(rank), faint = all && !front ? 0.5 : 1;
  const numbers = item.points.filter((point) => numeric(point[1]));
  const style = { stroke, "stroke-width": faint < 1 ? 1 : 2, "stroke-dasharray": item.version ? "5 3" : "none", opacity: faint };
  line(c, numbers.map(([log, value]) => [of.at(log), y(value / item.base)]), style);
  for (const [log, value] of item.points) {
    const px = of.at(log), words = [`${logs[log].commit.slice(0, 8)}, ${logs[log].date.slice(0, 10)}`, logs[log].subject, `${named(item.side)}: ${numeric(value) ? value : "not finite"} ${unit}`];
    if (all) words.splice(2, 0, held.short[item.one]), words.push(numeric(value) ? `${(value / item.base).toFixed(3)}× the first` : "");
    words.push(`Triton ${logs[log].triton}`);
    if (!numeric(value)) { make("text", { x: px, y: c.top + 10, "text-anchor": "middle", class: "bad-mark" }, c.svg, `✕ ${value}`); continue; }
    const side = held.series[item.side], low = at(side.low, item.one, log), high = at(side.high, item.one, log);
    const throttled = item.side === "kernels" && metric === "device_us" && held.throttled[item.one].includes(log);
    if (metric === "device_us" && numeric(low) && numeric(high)) {
      words.push(`quartiles ${low} to ${high}`);
      if (!all) make("line", { x1: px, x2: px, y1: Math.min(c.bottom, y(low)), y2: Math.max(c.top, y(high)), stroke, "stroke-width": 5, opacity: 0.3 }, c.svg);
    }
    if (throttled) words.push("the GPU throttled");
    if (item.side === "kernels" && held.same[item.one].includes(log)) words.push("same machine code as the commit before");
    const node = mark(c, px, y(value / item.base), rank, words.filter(Boolean).join("\n"), throttled);
    node.setAttribute("opacity", faint);
  }
}

const MOST = 4; // cases that a tip names

// Above the curves, a sign a verdict, with a number where it is of several cases.
function drawMarks(c, signs, px, room) {
  signs.forEach(([sign, items], index) => {
    const [glyph, style] = SIGNS[sign], py = c.top - room + 10 + 14 * index;
    const node = make("text", { x: px, y: py, "text-anchor": "middle", class: `${style} sign` }, c.svg, items.length > 1 ? `${glyph}${items.length}` : glyph);
    const more = items.length > MOST ? [`and ${items.length - MOST} more`] : [];
    const words = [`${items[0].commit.slice(0, 8)}: ${sign}`, ...items.slice(0, MOST).map((item) => [item.operator, item.case, item.metric, item.text].filter(Boolean).join("\n")), ...more].join("\n");
    node.setAttribute("aria-label", words);
    c.points.push({ x: px, y: py - 4, node, words });
  });
}

// What is drawn under a limit.  computed: operators of the tensor cores under the roofline; else those that move
// data, under a copy.
function limitPoints(machine, computed) {
  const points = [], stems = [];
  for (const [stem, held] of Object.entries(machine.operators)) for (const [side, series] of Object.entries(held.series)) {
    if (side === "reference" || !series.device_us) continue;
    held.costs.forEach((cost, number) => {
      const found = cost && Boolean(cost[0]) === computed && cost[1] && newest(series.device_us, number, machine.logs);
      if (!found) return;
      if (!stems.includes(stem)) stems.push(stem);
      const [flops, bytes] = cost, [time, log] = found;
      points.push({ stem, side, label: held.cases[number], short: held.short[number], time, commit: machine.logs[log].commit,
        x: computed ? flops / bytes : bytes, y: computed ? flops / time / 1e6 : bytes / time / 1e3 });
    });
  }
  return { points, stems };
}

function roofline(figure, machine, computed) {
  figure.replaceChildren();
  const { points, stems } = limitPoints(machine, computed);
  element("figcaption", {}, figure, computed ? "Roofline: operators of the tensor cores" : "Operators that move data, and a plain copy");
  const peers = [...new Set(points.map((point) => point.side))].filter((side) => side !== "kernels");
  legend(figure, [...stems.map((stem, number) => ({ words: stem, number })), ...peers.map((side) => ({ words: `${named(side)} (hollow)`, number: 0, hollow: true }))]);
  const c = canvas(figure, 330, `${points.length} points of ${stems.join(", ")}`);
  const limits = machine.limits, copies = limits.copies ?? [], rates = Object.entries(limits.tflops ?? {});
  const roofs = computed ? rates.map((rate) => rate[1]).concat(limits.datasheet ? [limits.datasheet[1]] : []) : copies.map((copy) => copy[1]);
  const xs = points.map((point) => point.x), ys = points.map((point) => point.y);
  const x = scale(Math.min(...xs) / 1.5, Math.max(...xs) * 1.6, c.left, c.right, true);
  const y = scale(Math.min(...ys) / 1.4, Math.max(...ys, ...roofs) * 1.35, c.bottom, c.top, true);
  vertical(c, y, computed ? "TFLOP/s" : "GB/s");
  horizontal(c, x, computed ? "operations per byte" : "bytes read and written");
  if (computed) drawRoof(c, x, y, limits, rates, Math.max(0, ...copies.map((copy) => copy[1])) / 1e3);
  else {
    const inside = copies.filter(([bytes, rate]) => bytes >= x.low && bytes <= x.high && rate >= y.low);
    line(c, inside.map(([bytes, rate]) => [x(bytes), y(rate)]), { class: "roof" });
    if (inside.length) make("text", { class: "words halo", x: x(inside[0][0]) - 4, y: y(inside[0][1]) - 6, "text-anchor": "end" }, c.svg, "copy, measured");
  }
  for (const point of points.sort((a, b) => (a.side === "kernels") - (b.side === "kernels"))) {
    const number = stems.indexOf(point.stem), unit = computed ? "TFLOP/s" : "GB/s";
    const node = mark(c, x(point.x), y(point.y), number, `${point.stem}, ${named(point.side)}\n${point.short}\n${short(point.y)} ${unit}, ${point.time} us\n${point.commit.slice(0, 8)}`, point.side !== "kernels");
    node.dataset.operator = point.stem;
    node.dataset.case = point.label;
  }
  tips(c);
}

function drawRoof(c, x, y, limits, rates, slope) {
  for (const [name, rate] of rates) {
    const knee = slope ? Math.max(x.low, Math.min(x.high, rate / slope)) : x.low;
    const start = slope ? Math.max(x.low, y.low / slope) : x.low;
    line(c, [...(name === "fp8" && slope && start < knee ? [[x(start), y(start * slope)]] : []), [x(knee), y(rate)], [c.right, y(rate)]], { class: "roof" });
    make("text", { class: "words halo", x: c.left + 4, y: y(rate) + 4 }, c.svg, `${name}, measured: ${short(rate)}`);
  }
  const top = Math.max(0, ...rates.map((rate) => rate[1])), middle = Math.sqrt(Math.max(x.low, y.low / slope) * (top / slope));
  if (slope && top) make("text", { class: "words halo", x: x(middle) + 8, y: y(middle * slope) + 12 }, c.svg, `copy: ${slope.toFixed(2)} TB/s`);
  if (limits.datasheet) {
    const [part, rate] = limits.datasheet;
    line(c, [[c.left, y(rate)], [c.right, y(rate)]], { class: "dotted" });
    make("text", { x: c.left + 4, y: y(rate) - 5 }, c.svg, `fp8, ${part} datasheet: ${rate}`);
  }
}
