// The schedule: one row per worker, one bar per attempt. Drawn on a canvas, because there are many.

const gantt = {
  canvas: document.querySelector("#gantt canvas"), left: 64, bottom: 26, top: 6,
  from: 0, to: data.seconds, rows: [], drag: null,
};

// Bars as arrays of seconds, so that a stretch of time is found by halving.
function unpack(worker) {
  const n = worker.step.length, row = { ...worker };
  row.start = new Float64Array(n);
  row.end = new Float64Array(n);
  let at = 0;
  for (let i = 0; i < n; i++) {
    at += worker.step[i];
    row.start[i] = at * data.tick;
    row.end[i] = (at + worker.length[i]) * data.tick;
  }
  return row;
}

// The first bar that ends after a time; bars of a row do not overlap.
function firstAfter(row, seconds) {
  let low = 0, high = row.end.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (row.end[middle] > seconds) high = middle; else low = middle + 1;
  }
  return low;
}

function ganttSize() {
  const width = Math.max(280, gantt.canvas.parentElement.clientWidth || 900);
  const count = Math.max(1, gantt.rows.length);
  gantt.rowHeight = Math.max(9, Math.min(30, Math.floor(460 / count)));
  gantt.width = width;
  gantt.height = gantt.top + count * gantt.rowHeight + gantt.bottom;
  const ratio = Math.max(2, devicePixelRatio || 1);
  gantt.canvas.width = Math.round(width * ratio);
  gantt.canvas.height = Math.round(gantt.height * ratio);
  gantt.canvas.style.aspectRatio = `${width} / ${gantt.height}`;
  const context = gantt.canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  return context;
}

const toX = (seconds) =>
  gantt.left + ((seconds - gantt.from) / (gantt.to - gantt.from)) * (gantt.width - gantt.left - 8);
const toSeconds = (x) =>
  gantt.from + ((x - gantt.left) / (gantt.width - gantt.left - 8)) * (gantt.to - gantt.from);

function drawGantt() {
  const context = ganttSize(), place = marked();
  const paint = { ink: themed("--ink"), soft: themed("--soft"), rule: themed("--rule"),
    paper: themed("--paper"), bad: themed("--bad"), idle: themed("--idle"),
    away: themed("--away"), loading: themed("--loading") };
  const colours = models.map((_, n) => modelColour(n));
  context.fillStyle = paint.paper;
  context.fillRect(0, 0, gantt.width, gantt.height);
  context.font = "11px system-ui, 'DejaVu Sans', sans-serif";
  drawTimes(context, paint);
  context.save();
  context.beginPath();
  context.rect(gantt.left, 0, gantt.width - gantt.left - 8, gantt.height);
  context.clip();
  const crosses = [];
  gantt.rows.forEach((row, n) => drawRow(context, row, rowTop(n), paint, colours, place, crosses));
  context.setLineDash([5, 4]);
  context.strokeStyle = paint.ink;
  for (const seconds of data.restarts) {
    context.beginPath();
    context.moveTo(toX(seconds), 0);
    context.lineTo(toX(seconds), gantt.height - gantt.bottom);
    context.stroke();
  }
  context.setLineDash([]);
  for (const [x, y] of crosses) cross(context, x, y, paint);
  context.restore();
  drawNames(context, paint);
  drawDrag(context, paint);
}

const rowTop = (n) => gantt.top + n * gantt.rowHeight;

function drawTimes(context, paint) {
  const about = Math.max(2, Math.floor(gantt.width / 130));
  context.textAlign = "center";
  for (const tick of timeTicks(gantt.from, gantt.to, about)) {
    const x = toX(tick);
    context.fillStyle = paint.rule;
    context.fillRect(x, gantt.top, 1, gantt.height - gantt.top - gantt.bottom);
    context.fillStyle = paint.soft;
    if (x < gantt.width - 30) context.fillText(tickText(tick), x, gantt.height - 9);
  }
}

const TIME_STEPS = [60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400];

function timeTicks(from, to, about) {
  const rough = (to - from) / about;
  if (rough < 30) return linearTicks(from, to, about);
  const step = TIME_STEPS.find((n) => n >= rough) || 86400 * Math.ceil(rough / 86400);
  const ticks = [];
  for (let tick = Math.ceil(from / step) * step; tick <= to; tick += step) ticks.push(tick);
  return ticks;
}

function tickText(seconds) {
  if (data.seconds < 120 || gantt.to - gantt.from < 60) return `${Number(seconds.toPrecision(6))} s`;
  const two = (n) => String(n).padStart(2, "0"), whole = Math.round(seconds);
  const clock = `${Math.floor(whole / 3600)}:${two(Math.floor(whole / 60) % 60)}`;
  return whole % 60 || gantt.to - gantt.from < 1200 ? `${clock}:${two(whole % 60)} h` : `${clock} h`;
}

function drawNames(context, paint) {
  context.textAlign = "right";
  context.fillStyle = paint.soft;
  const every = Math.ceil(11 / gantt.rowHeight);
  gantt.rows.forEach((row, n) => {
    if (n % every) return;
    const name = gantt.rows.length <= 32 ? `worker ${row.id}` : row.id;
    context.fillText(name, gantt.left - 6, rowTop(n) + gantt.rowHeight / 2 + 4);
  });
}

function drawRow(context, row, top, paint, colours, place, crosses) {
  const full = gantt.rowHeight - 3, low = Math.max(3, Math.round(full * 0.5));
  // What is no bar is a wait, unless the worker was away or loading.
  context.fillStyle = paint.idle;
  const middle = top + Math.round(full / 2) - 1;
  context.fillRect(toX(0), middle, toX(data.seconds) - toX(0), 3);
  for (const [name, spans] of [["away", row.away], ["loading", row.loading]]) {
    for (const [begin, end] of spans) {
      const x = toX(begin), width = Math.max(1, toX(end) - x);
      context.fillStyle = paint.paper;
      context.fillRect(x, middle, width, 3);
      if (name === "away") stripes(context, x, top, width, full, paint.away);
      else { context.fillStyle = paint.loading; context.fillRect(x, top + full / 4, width, full / 2); }
    }
  }
  // Bars narrower than a device pixel are drawn once a pixel and kind, failures always.
  const pixel = 0.5, lastX = [-1, -1], wide = [];
  for (let i = firstAfter(row, gantt.from); i < row.start.length && row.start[i] < gantt.to; i++) {
    const x = toX(row.start[i]), width = toX(row.end[i]) - x, valid = row.valid[i];
    const model = row.model[i], outcome = row.outcome[i], failed = data.failures[outcome];
    const own = place === null || model === place;
    if (failed) crosses.push([x + width, top + full / 2]);
    const column = Math.floor(x / pixel);
    if (width < pixel && column === lastX[valid] && !(own && place !== null)) continue;
    lastX[valid] = column;
    const opacity = (own ? 1 : 0.12) * (data.outcomes[outcome] === "committed" ? 1 : 0.4);
    const gap = width > 3 ? 1 : 0, drawn = Math.max(pixel, width - gap);
    const area = [x, valid ? top + full - low : top, drawn, valid ? low : full];
    if (opacity < 1) { context.fillStyle = paint.paper; context.fillRect(...area); }
    context.globalAlpha = opacity;
    context.fillStyle = colours[model];
    context.fillRect(...area);
    context.globalAlpha = 1;
    if (width > 22 && own && opacity === 1) wide.push([i, x, width]);
  }
  if (full >= 12) nameBars(context, row, top, full, low, wide);
}

function nameBars(context, row, top, full, low, wide) {
  context.textAlign = "center";
  for (const [i, x, width] of wide) {
    if (row.valid[i] && low < 12) continue;
    context.fillStyle = textOn(modelColour(row.model[i]));
    const y = row.valid[i] ? top + full - low / 2 + 4 : top + full / 2 + 4;
    context.fillText(models[row.model[i]].id, x + width / 2, y);
  }
}

// Black or white, whichever can be read on a colour.
function textOn(colour) {
  const [r, g, b] = colour.startsWith("#")
    ? [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16)) : colour.match(/\d+/g).map(Number);
  return 0.3 * r + 0.59 * g + 0.11 * b > 140 ? "#000000" : "#ffffff";
}

function stripes(context, x, top, width, height, colour) {
  const begin = Math.max(x, gantt.left), end = Math.min(x + width, gantt.width);
  context.save();
  context.beginPath();
  context.rect(begin, top, end - begin, height);
  context.clip();
  context.strokeStyle = colour;
  context.beginPath();
  for (let at = Math.floor(begin / 6) * 6 - height; at < end; at += 6) {
    context.moveTo(at, top + height);
    context.lineTo(at + height, top);
  }
  context.stroke();
  context.restore();
}

function cross(context, x, y, paint) {
  for (const [colour, width] of [[paint.paper, 5], [paint.bad, 2.2]]) {
    context.strokeStyle = colour;
    context.lineWidth = width;
    context.beginPath();
    context.moveTo(x - 4, y - 4); context.lineTo(x + 4, y + 4);
    context.moveTo(x + 4, y - 4); context.lineTo(x - 4, y + 4);
    context.stroke();
  }
  context.lineWidth = 1;
}

function drawDrag(context, paint) {
  if (!gantt.drag) return;
  const [a, b] = gantt.drag;
  context.globalAlpha = 0.2;
  context.fillStyle = paint.ink;
  context.fillRect(Math.min(a, b), 0, Math.abs(b - a), gantt.height - gantt.bottom);
  context.globalAlpha = 1;
}

// --- moving about --------------------------------------------------------------------------------

function show(from, to) {
  const least = Math.min(data.seconds, Math.max(1e-3, data.seconds / 1e5));
  const span = Math.min(data.seconds, Math.max(least, to - from));
  gantt.from = Math.max(0, Math.min(from, data.seconds - span));
  gantt.to = gantt.from + span;
  drawGantt();
}

function zoom(factor, about = (gantt.from + gantt.to) / 2) {
  show(about - (about - gantt.from) * factor, about + (gantt.to - about) * factor);
}

const move = (share) => {
  const by = share * (gantt.to - gantt.from);
  show(gantt.from + by, gantt.to + by);
};

// What lies at a place of the drawing: a worker, and a bar or a wait of it.
function at(event) {
  const box = gantt.canvas.getBoundingClientRect(), factor = gantt.width / box.width;
  const x = (event.clientX - box.left) * factor, y = (event.clientY - box.top) * factor;
  const row = gantt.rows[Math.floor((y - gantt.top) / gantt.rowHeight)];
  const seconds = toSeconds(x);
  if (!row || x < gantt.left || seconds < 0 || seconds > data.seconds) return { x };
  const slack = toSeconds(x + 1.5) - seconds;
  const i = firstAfter(row, seconds - slack);
  const bar = i < row.start.length && row.start[i] <= seconds + slack ? i : null;
  return { x, row, seconds, bar, next: i };
}

function describe(found) {
  const { row, bar, seconds } = found;
  const where = `worker ${row.id} (${row.url})`;
  if (bar !== null) {
    const model = models[row.model[bar]], split = row.valid[bar] ? "validation" : "training";
    return [
      `model ${model.id}, epoch ${row.epoch[bar]}, ${split} partition ${row.partition[bar]}`,
      `${data.outcomes[row.outcome[bar]]}; after ${duration(row.start[bar])}, for ${duration(row.end[bar] - row.start[bar])}`,
      where, model.config,
    ];
  }
  const inside = (spans) => spans.find(([begin, end]) => begin <= seconds && seconds <= end);
  const away = inside(row.away), loading = inside(row.loading);
  if (away) return [`away for ${duration(away[1] - away[0])}`, where];
  if (loading) return [`loads data for ${duration(loading[1] - loading[0])}`, where];
  const begin = found.next ? row.end[found.next - 1] : 0;
  const end = found.next < row.start.length ? row.start[found.next] : data.seconds;
  return [`waits for ${duration(end - begin)}: nothing to start`, where];
}

function onGantt() {
  const canvas = gantt.canvas;
  canvas.addEventListener("pointerdown", (event) => {
    if (event.button !== 0 || event.pointerType === "touch") return;
    const { x } = at(event);
    gantt.drag = [x, x];
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", (event) => {
    const found = at(event);
    if (gantt.drag) {
      gantt.drag[1] = found.x;
      hideTip();
      drawGantt();
      return;
    }
    point(found.row && found.bar !== null ? found.row.model[found.bar] : null);
    if (found.row) showTip(describe(found), event.clientX, event.clientY); else hideTip();
  });
  canvas.addEventListener("pointerup", (event) => {
    if (!gantt.drag) return;
    const [a, b] = gantt.drag.sort((one, other) => one - other);
    gantt.drag = null;
    if (b - a > 5) { show(toSeconds(a), toSeconds(b)); return; }
    const found = at(event);
    if (found.row && found.bar !== null) pin(found.row.model[found.bar]); else drawGantt();
  });
  canvas.addEventListener("pointerleave", () => { point(null); hideTip(); });
  canvas.addEventListener("dblclick", () => show(0, data.seconds));
  canvas.addEventListener("wheel", (event) => {
    if (!event.ctrlKey) return; // the page scrolls
    event.preventDefault();
    zoom(event.deltaY > 0 ? 1.25 : 0.8, toSeconds(at(event).x));
  }, { passive: false });
  const keys = { ArrowLeft: () => move(-0.25), ArrowRight: () => move(0.25), "+": () => zoom(0.5), "-": () => zoom(2), 0: () => show(0, data.seconds) };
  canvas.addEventListener("keydown", (event) => {
    if (!keys[event.key] || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    keys[event.key]();
  });
  const buttons = { whole: () => show(0, data.seconds), closer: () => zoom(0.5), wider: () => zoom(2), earlier: () => move(-0.5), later: () => move(0.5) };
  for (const [name, act] of Object.entries(buttons)) byId(name).addEventListener("click", act);
}

function startGantt() {
  gantt.rows = data.workers.map(unpack);
  const bars = gantt.rows.reduce((sum, row) => sum + row.start.length, 0);
  gantt.canvas.dataset.bars = bars;
  gantt.canvas.setAttribute("aria-label",
    `The schedule: ${bars} units on ${gantt.rows.length} workers in ${duration(data.seconds)}`);
  if (!data.restarts.length) document.querySelector(".legend .restart").remove();
  onGantt();
  drawers.push(drawGantt);
  let before = null;
  markers.push((place) => {
    if (place !== before) drawGantt();
    before = place;
  });
}
