// Learning curves: all models, training and validation beside each other, on one axis.

const curveHeight = 280;

function curveValues(key) {
  return models.flatMap((model) => model[key]).filter((value) => value !== null);
}

// Where a few models tower over the rest, a linear axis would show nothing but them.
function prefersLog(values) {
  if (!values.length || Math.min(...values) <= 0) return false;
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[sorted.length - 1] > 20 * sorted[Math.floor(sorted.length / 2)];
}

function drawCurves() {
  const metric = byId("metric").value;
  const values = [...curveValues(`train_${metric}`), ...curveValues(`valid_${metric}`)];
  const logarithmic = byId("scale").value === "log" && values.some((value) => value > 0);
  const usable = logarithmic ? values.filter((value) => value > 0) : values;
  const low = logarithmic ? Math.min(...usable) : Math.min(0, ...usable);
  for (const split of ["train", "valid"]) {
    const holder = byId(`${split}-curves`), key = `${split}_${metric}`;
    holder.replaceChildren();
    if (!curveValues(key).length) {
      const none = document.createElement("p");
      none.className = "hint";
      none.textContent = split === "valid" ? "Nothing was validated." : "There are no numbers.";
      holder.append(none);
      continue;
    }
    holder.append(curvePanel(holder, key, [low, Math.max(...usable)], logarithmic));
  }
}

function curvePanel(holder, key, ends, logarithmic) {
  const width = Math.max(280, Math.round(holder.clientWidth) || 480);
  const left = 48, right = data.named ? 26 : 10, top = 8, bottom = 34;
  const frame = svg("svg", { viewBox: `0 0 ${width} ${curveHeight}`, role: "img" });
  frame.setAttribute("aria-label", `${key.replace("_", " ")} of each model by epoch`);
  const epochs = models.flatMap((model) => model.epoch);
  const x = scale([Math.min(...epochs), Math.max(...epochs)], [left, width - right], false, 8);
  const y = scale(ends, [curveHeight - bottom, top], logarithmic);
  for (const tick of y.ticks) {
    frame.append(svg("line", { class: "grid", x1: left, x2: width - right, y1: y(tick), y2: y(tick) }));
    frame.append(svg("text", { x: left - 6, y: y(tick) + 4, "text-anchor": "end" }, digits(tick)));
  }
  for (const tick of x.ticks.filter(Number.isInteger)) {
    frame.append(svg("text", { x: x(tick), y: curveHeight - bottom + 16, "text-anchor": "middle" }, tick));
  }
  const axis = { x: (left + width - right) / 2, y: curveHeight - 3, "text-anchor": "middle" };
  frame.append(svg("text", axis, "epoch"));
  const visible = (value) => value !== null && (!logarithmic || value > 0);
  const points = [];
  // Worst first, so that the best lie on top.
  const order = models.map((_, place) => place);
  order.sort((a, b) => (models[b].rank ?? 2) - (models[a].rank ?? 2));
  for (const place of order) {
    const model = models[place], spots = model[key].map((value, n) => visible(value)
      ? { place, epoch: model.epoch[n], value, x: x(model.epoch[n]), y: y(value) } : null);
    const own = spots.slice(Math.max(0, model.inherited - 1));
    for (const [part, dashes] of [[spots.slice(0, model.inherited), "2 4"], [own, ""]]) {
      const path = pathThrough(part);
      if (!path) continue;
      const line = svg("path", { class: "curve", d: path, stroke: modelColour(place) });
      line.dataset.place = place;
      if (dashes) line.setAttribute("stroke-dasharray", dashes);
      frame.append(line);
    }
    const there = spots.filter(Boolean);
    if (there.length === 1 || (there.length && models.length <= 12)) {
      for (const spot of there) frame.append(dot(spot, 2.5));
    }
    points.push(...there);
  }
  if (data.named) nameEnds(frame, points, width - right);
  onPoints(frame, points, (spot) => [
    `model ${models[spot.place].id}, epoch ${spot.epoch}: ${key.replace("_", " ")} ${digits(spot.value)}`,
    models[spot.place].config,
  ]);
  return frame;
}

// Gaps stay gaps: a NaN is no point of a line.
function pathThrough(spots) {
  let path = "", pen = false, drawn = 0;
  for (const spot of spots) {
    if (spot) {
      path += `${pen ? "L" : "M"}${spot.x.toFixed(1)} ${spot.y.toFixed(1)}`;
      drawn += 1;
    }
    pen = spot !== null;
  }
  return drawn > 1 ? path : "";
}

function dot(spot, radius) {
  const made = svg("circle", { cx: spot.x, cy: spot.y, r: radius, fill: modelColour(spot.place) });
  made.dataset.place = spot.place;
  return made;
}

// A few models are named where their lines end, one below the other.
function nameEnds(frame, points, x) {
  const last = new Map();
  for (const spot of points) last.set(spot.place, spot);
  let free = -Infinity;
  for (const spot of [...last.values()].sort((a, b) => a.y - b.y)) {
    const y = Math.max(spot.y + 4, free);
    free = y + 12;
    const name = svg("text", { class: "name", x: Math.min(spot.x + 7, x + 7), y }, models[spot.place].id);
    name.style.fill = modelColour(spot.place);
    frame.append(name);
  }
}

// Pointing near one of the points of a drawing marks its model, a click keeps it marked.
function onPoints(frame, points, lines) {
  const nearest = (event) => {
    const box = frame.getBoundingClientRect(), factor = frame.viewBox.baseVal.width / box.width;
    const x = (event.clientX - box.left) * factor, y = (event.clientY - box.top) * factor;
    let best = null, least = 30 ** 2;
    for (const spot of points) {
      const distance = (spot.x - x) ** 2 + (spot.y - y) ** 2;
      if (distance < least) [best, least] = [spot, distance];
    }
    return best;
  };
  frame.addEventListener("pointermove", (event) => {
    const spot = nearest(event);
    point(spot && spot.place);
    if (spot) showTip(lines(spot), event.clientX, event.clientY); else hideTip();
  });
  frame.addEventListener("pointerleave", () => { point(null); hideTip(); });
  frame.addEventListener("click", (event) => {
    const spot = nearest(event);
    if (spot) pin(spot.place);
  });
}

function startCurves() {
  if (!byId("curves")) return;
  const choose = () => {
    const metric = byId("metric").value;
    const values = [...curveValues(`train_${metric}`), ...curveValues(`valid_${metric}`)];
    byId("scale").value = prefersLog(values) ? "log" : "linear";
  };
  byId("metric").addEventListener("change", () => { choose(); redraw(); });
  byId("scale").addEventListener("change", redraw);
  choose();
  drawers.push(drawCurves);
  markers.push((place) => markElements(byId("curves"), place));
}
