// Scales, axes, marks and the tip: what every picture of the page is made of.

const SHAPES = [
  "M-4,0a4,4 0 1,0 8,0a4,4 0 1,0 -8,0Z", "M-3.6,-3.6H3.6V3.6H-3.6Z", "M0,-4.6L4.4,3.6H-4.4Z",
  "M0,-5L4.4,0L0,5L-4.4,0Z", "M0,4.6L4.4,-3.6H-4.4Z", "M-1.6,-4.6H1.6V-1.6H4.6V1.6H1.6V4.6H-1.6V1.6H-4.6V-1.6H-1.6Z",
];
const COLOURS = 7;
const colour = (number) => `var(--c${number % COLOURS})`;
const shape = (number) => SHAPES[(number + Math.floor(number / COLOURS)) % SHAPES.length];

function make(name, attributes, parent, text) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (text !== undefined) node.textContent = text;
  if (parent) parent.append(node);
  return node;
}

function element(name, attributes, parent, text) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (text !== undefined) node.textContent = text;
  if (parent) parent.append(node);
  return node;
}

// An empty picture of the width of its place; inside is where data go.  room: for signs above them.
function canvas(place, height, label, room = 0) {
  const width = Math.max(240, place.clientWidth);
  const svg = make("svg", { viewBox: `0 0 ${width} ${height}`, height, role: "img", "aria-label": label }, place);
  return { svg, left: 52, right: width - 14, top: 22 + room, bottom: height - 42, points: [] };
}

function scale(low, high, from, to, log) {
  const f = log ? Math.log10 : (value) => value;
  const a = f(low), b = f(high);
  return Object.assign((value) => from + ((f(value) - a) / (b - a || 1)) * (to - from), { low, high, log });
}

// Round values within a scale, not more than fit.
function ticks(s, most) {
  const found = [];
  if (s.log && s.high / s.low > 8) {
    for (let power = Math.floor(Math.log10(s.low)); power <= Math.ceil(Math.log10(s.high)); power++)
      for (const digit of s.high / s.low < 200 ? [1, 2, 5] : [1]) found.push(digit * 10 ** power);
    const inside = found.filter((value) => value >= s.low * 0.999 && value <= s.high * 1.001);
    const step = Math.ceil(inside.length / most);
    return inside.filter((_, index) => index % step === 0);
  }
  const rough = (s.high - s.low) / most, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((digit) => digit * power).find((value) => value >= rough);
  for (let n = Math.ceil(s.low / step - 1e-9); n * step <= s.high * (1 + 1e-9); n++) found.push(Number((n * step).toPrecision(12)));
  return found;
}

function short(value) {
  const size = Math.abs(value);
  for (const [limit, letter] of [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e4, "k"]])
    if (size >= limit) return `${Number((value / (limit === 1e4 ? 1e3 : limit)).toPrecision(3))}${letter}`;
  return size && size < 1e-3 ? value.toExponential(1) : `${Number(value.toPrecision(4))}`;
}

function vertical(c, y, title, show = short) {
  for (const value of ticks(y, 5)) {
    const at = y(value);
    make("line", { class: "grid", x1: c.left, x2: c.right, y1: at, y2: at }, c.svg);
    make("text", { x: c.left - 6, y: at + 4, "text-anchor": "end" }, c.svg, show(value));
  }
  make("text", { x: 2, y: 12 }, c.svg, title);
  make("line", { class: "axis", x1: c.left, x2: c.right, y1: c.bottom, y2: c.bottom }, c.svg);
}

function horizontal(c, x, title) {
  for (const value of ticks(x, Math.max(3, Math.floor((c.right - c.left) / 70)))) {
    make("line", { class: "grid", x1: x(value), x2: x(value), y1: c.top, y2: c.bottom }, c.svg);
    make("text", { x: x(value), y: c.bottom + 16, "text-anchor": "middle" }, c.svg, short(value));
  }
  make("text", { x: (c.left + c.right) / 2, y: c.bottom + 34, "text-anchor": "middle" }, c.svg, title);
}

// A mark with words that the tip shows; hollow ones are throttled, or a peer's.
function mark(c, x, y, number, words, hollow) {
  const node = make("path", {
    d: shape(number), transform: `translate(${x.toFixed(1)},${y.toFixed(1)})`, "stroke-width": 1.5,
    fill: hollow ? "var(--ground)" : colour(number), stroke: colour(number), class: "mark",
  }, c.svg);
  c.points.push({ x, y, words, node });
  return node;
}

function line(c, places, attributes) {
  if (places.length > 1) make("path", { d: "M" + places.map((p) => `${p[0].toFixed(1)},${p[1].toFixed(1)}`).join("L"), fill: "none", ...attributes }, c.svg);
}

function legend(place, items) {
  const list = element("ul", { class: "legend" }, place);
  for (const item of items) {
    const entry = element("li", {}, list);
    const svg = make("svg", { width: 22, height: 12, "aria-hidden": "true" }, entry);
    svg.style.width = "22px";
    if (item.dash !== undefined) make("line", { x1: 0, x2: 22, y1: 6, y2: 6, stroke: item.stroke ?? colour(item.number), "stroke-width": 2, "stroke-dasharray": item.dash }, svg);
    if (item.number !== undefined) make("path", { d: shape(item.number), transform: "translate(11,6)", fill: item.hollow ? "var(--ground)" : colour(item.number), stroke: colour(item.number), "stroke-width": 1.5 }, svg);
    if (item.sign) { svg.setAttribute("width", 14); svg.style.width = "14px"; make("text", { x: 7, y: 11, "text-anchor": "middle", class: item.style }, svg, item.sign); }
    entry.append(item.words);
  }
}

// The tip follows the nearest mark under a pointer or a finger.
function tips(c) {
  const tip = document.getElementById("tip");
  const show = (event) => {
    const box = c.svg.getBoundingClientRect();
    const x = event.clientX - box.left, y = event.clientY - box.top;
    let best = null, least = 28;
    for (const point of c.points) {
      const far = Math.hypot(point.x - x, point.y - y);
      if (far < least && !point.node.classList.contains("dim")) [best, least] = [point, far];
    }
    tip.hidden = !best;
    if (!best) return;
    tip.textContent = best.words;
    const wide = tip.offsetWidth, high = tip.offsetHeight;
    tip.style.left = `${Math.max(4, Math.min(innerWidth - wide - 4, event.clientX + 14))}px`;
    tip.style.top = `${event.clientY + high + 24 > innerHeight ? event.clientY - high - 12 : event.clientY + 14}px`;
  };
  c.svg.addEventListener("pointermove", show);
  c.svg.addEventListener("pointerdown", show);
  c.svg.addEventListener("pointerleave", () => { tip.hidden = true; });
}
