// What the drawings share: the data, colours, elements, axes, the tooltip, the marked model.
"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const models = data.models;
const byId = (name) => document.getElementById(name);

// --- colours: those of Okabe and Ito for a few models, viridis by rank for many ---------------

const darkness = matchMedia("(prefers-color-scheme: dark)");
let printing = false;
const isDark = () => darkness.matches && !printing;

const FEW_LIGHT = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"];
const FEW_DARK = ["#4aa3df", "#f0803c", "#2fc49a", "#e39ac2", "#f2b632", "#8fd0f7"];
const RAMP = ["#440154", "#482878", "#3e4989", "#31688e", "#26828e", "#1f9e89", "#35b779",
  "#6ece58", "#b5de2b", "#fde725"];

function ramp(t) {
  const place = Math.min(Math.max(t, 0), 1) * (RAMP.length - 1);
  const low = Math.min(Math.floor(place), RAMP.length - 2);
  const part = (hex, at) => parseInt(hex.slice(at, at + 2), 16);
  const mix = (at) =>
    Math.round(part(RAMP[low], at) + (place - low) * (part(RAMP[low + 1], at) - part(RAMP[low], at)));
  return `rgb(${mix(1)},${mix(3)},${mix(5)})`;
}

// The best models stand out most: dark on white, bright on black.
const rankColour = (rank) => ramp(isDark() ? 1 - 0.75 * rank : 0.85 * rank);

function modelColour(place) {
  if (data.named) return (isDark() ? FEW_DARK : FEW_LIGHT)[place];
  const rank = models[place].rank;
  return rank === null ? (isDark() ? "#7c858d" : "#9aa1a8") : rankColour(rank);
}

const themed = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function drawLegends() {
  for (const holder of document.querySelectorAll(".colours")) {
    holder.replaceChildren();
    const swatch = (colour, text) => {
      const key = document.createElement("span"), square = document.createElement("i");
      square.style.background = colour;
      key.append(square, text);
      holder.append(key);
    };
    if (data.named) {
      models.forEach((model, place) => swatch(modelColour(place), `model ${model.id}`));
      continue;
    }
    const bar = document.createElement("i");
    bar.className = "ramp";
    const stops = [0, 0.25, 0.5, 0.75, 1].map(rankColour);
    bar.style.background = `linear-gradient(to right, ${stops.join(",")})`;
    const key = document.createElement("span");
    key.append("models by rank: best", bar, "last");
    holder.append(key);
    if (models.some((model) => model.rank === null)) {
      const place = models.findIndex((model) => model.rank === null);
      swatch(modelColour(place), `no ${data.metric}`);
    }
  }
}

// --- elements and axes -------------------------------------------------------------------------

function svg(name, attributes, text) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes || {})) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

const digits = (value) => {
  if (value !== 0 && (Math.abs(value) < 1e-3 || Math.abs(value) >= 1e5)) {
    return value.toExponential(2).replace(/\.?0+e/, "e").replace("e+", "e");
  }
  return String(Number(value.toPrecision(4)));
};

function linearTicks(low, high, about) {
  const rough = (high - low) / about, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((n) => n * power).find((n) => n >= rough);
  const ticks = [];
  for (let n = Math.ceil(low / step - 1e-9); n * step <= high + 1e-9 * step; n++) ticks.push(n * step);
  return ticks;
}

function logTicks(low, high, about) {
  const decades = Math.log10(high / low);
  if (decades < 0.5) return linearTicks(low, high, about);
  const within = decades < 1.5 ? [1, 2, 5] : [1];
  const skip = Math.max(1, Math.ceil(decades / about));
  const ticks = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++) {
    if (power % skip) continue;
    for (const n of within) {
      const tick = n * 10 ** power;
      if (tick >= low * 0.999 && tick <= high * 1.001) ticks.push(tick);
    }
  }
  return ticks;
}

// A scale from values to pixels. `ends` are widened where there is one value only.
function scale(ends, pixels, logarithmic, about = 5) {
  let [low, high] = ends;
  if (low === high) [low, high] = logarithmic ? [low / 2, high * 2] : [low - 0.5, high + 0.5];
  const f = logarithmic ? Math.log10 : (value) => value;
  const place = (value) =>
    pixels[0] + ((f(value) - f(low)) / (f(high) - f(low))) * (pixels[1] - pixels[0]);
  place.ticks = (logarithmic ? logTicks : linearTicks)(low, high, about);
  place.ends = [low, high];
  return place;
}

function duration(seconds) {
  if (seconds < 1) return `${Number((seconds * 1000).toPrecision(3))} ms`;
  if (seconds < 60) return `${Number(seconds.toPrecision(3))} s`;
  const whole = Math.round(seconds), two = (n) => String(n).padStart(2, "0");
  const clock = `${two(Math.floor(whole / 60) % 60)}:${two(whole % 60)}`;
  return whole < 3600 ? `${clock} min` : `${Math.floor(whole / 3600)}:${clock} h`;
}

// --- the tooltip ---------------------------------------------------------------------------------

const tip = byId("tip");

function showTip(lines, x, y) {
  tip.textContent = lines.filter(Boolean).join("\n");
  tip.hidden = false;
  const box = tip.getBoundingClientRect();
  const left = x + 14 + box.width > innerWidth ? x - 14 - box.width : x + 14;
  const top = y + 14 + box.height > innerHeight ? y - 14 - box.height : y + 14;
  tip.style.left = `${Math.max(4, left)}px`;
  tip.style.top = `${Math.max(4, top)}px`;
}

const hideTip = () => { tip.hidden = true; };

// --- the marked model: the one that is pointed at, else the one that was clicked ----------------

let pointed = null, pinned = null;
const markers = [];
const marked = () => (pointed === null ? pinned : pointed);

function point(place) {
  if (place === pointed) return;
  pointed = place;
  markers.forEach((mark) => mark(marked()));
}

function pin(place) {
  pinned = place === pinned ? null : place;
  markers.forEach((mark) => mark(marked()));
}

addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  pointed = pinned = null;
  hideTip();
  markers.forEach((mark) => mark(null));
});

// Elements of models in a drawing: the others step back while one is marked.
function markElements(root, place) {
  for (const element of root.querySelectorAll("[data-place]")) {
    const own = Number(element.dataset.place) === place;
    element.classList.toggle("marked", own && place !== null);
    element.classList.toggle("dimmed", !own && place !== null);
  }
}

const drawers = [];
const redraw = () => {
  drawLegends();
  drawers.forEach((draw) => draw());
  markers.forEach((mark) => mark(marked()));
};
