// Hyperparameter against what models are compared by: a small drawing for each hyperparameter that differs.

function drawAxes() {
  const holder = byId("axes");
  holder.replaceChildren();
  const errors = models.map((model) => model.best);
  const there = errors.filter((error) => error !== null);
  if (!there.length) {
    const none = document.createElement("p");
    none.className = "hint";
    none.textContent = `There is no ${data.metric} to show: no model has one that is a number, of an epoch that is not ruined.`;
    holder.append(none);
    return;
  }
  const logarithmic = prefersLog(there);
  const ends = [logarithmic ? Math.min(...there) : Math.min(0, ...there), Math.max(...there)];
  for (const axis of data.axes) {
    const figure = document.createElement("figure"), caption = document.createElement("figcaption");
    caption.textContent = axis.name + (axis.kind === "log" ? " (logarithmic)" : "");
    figure.append(caption);
    holder.append(figure);
    figure.append(axisPanel(figure, axis, errors, ends, logarithmic));
  }
}

function axisPanel(figure, axis, errors, ends, logarithmic) {
  const width = Math.max(220, Math.round(figure.clientWidth) || 280), height = 190;
  const left = 44, right = 14, top = 8, bottom = 24;
  const frame = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img" });
  frame.setAttribute("aria-label", `${data.metric} of each model by ${axis.name}`);
  const y = scale(ends, [height - bottom, top], logarithmic, 4);
  for (const tick of y.ticks) {
    frame.append(svg("line", { class: "grid", x1: left, x2: width - right, y1: y(tick), y2: y(tick) }));
    frame.append(svg("text", { x: left - 6, y: y(tick) + 4, "text-anchor": "end" }, digits(tick)));
  }
  const span = [left + 24, width - right - 24];
  const x = axis.kind === "category"
    ? categoryScale(frame, axis.categories, [left, width - right], height - bottom)
    : numberScale(frame, axis, span, height - bottom);
  const columns = new Map(), points = [];
  axis.values.forEach((value, place) => {
    if (value === null || errors[place] === null) return;
    if (!columns.has(value)) columns.set(value, []);
    columns.get(value).push(place);
  });
  const step = columnWidth([...columns.keys()].map(x), span);
  for (const [value, places] of columns) {
    places.forEach((place, n) => {
      // Models with the same value stand beside each other, so that each can be seen.
      const aside = places.length > 1 ? (((n * 0.618) % 1) - 0.5) * Math.min(step * 0.6, 36) : 0;
      const spot = { place, value, error: errors[place], x: x(value) + aside, y: y(errors[place]) };
      points.push(spot);
    });
    if (places.length > 2) {
      const sorted = places.map((place) => errors[place]).sort((a, b) => a - b);
      const middle = sorted[Math.floor((sorted.length - 1) / 2)] / 2 + sorted[Math.ceil((sorted.length - 1) / 2)] / 2;
      const half = Math.min(step * 0.35, 20);
      frame.append(svg("line", { class: "median", x1: x(value) - half, x2: x(value) + half, y1: y(middle), y2: y(middle) }));
    }
  }
  for (const spot of points) frame.append(dot(spot, models.length > 60 ? 2.5 : 4));
  onPoints(frame, points, (spot) => [
    `model ${models[spot.place].id}: ${data.metric} ${digits(spot.error)}`,
    models[spot.place].config,
  ]);
  return frame;
}

function numberScale(frame, axis, span, bottom) {
  const values = axis.values.filter((value) => value !== null);
  const x = scale([Math.min(...values), Math.max(...values)], span, axis.kind === "log", 4);
  const distinct = [...new Set(values)].sort((a, b) => a - b);
  labelled(frame, distinct.length <= 6 ? distinct : x.ticks, x, bottom);
  return x;
}

// Labels, as far as they have room.
function labelled(frame, ticks, x, bottom) {
  let free = -Infinity;
  for (const tick of ticks) {
    const text = digits(tick), half = text.length * 3.4;
    if (x(tick) - half < free) continue;
    free = x(tick) + half + 4;
    frame.append(svg("text", { x: x(tick), y: bottom + 16, "text-anchor": "middle" }, text));
  }
}

function categoryScale(frame, categories, [left, right], bottom) {
  const step = (right - left) / categories.length;
  const room = Math.max(1, Math.floor(step / 7));
  categories.forEach((category, n) => {
    const cut = category.length > room ? `${category.slice(0, Math.max(1, room - 1))}…` : category;
    const text = svg("text", { x: left + (n + 0.5) * step, y: bottom + 16, "text-anchor": "middle" }, cut);
    text.append(svg("title", {}, category));
    frame.append(text);
  });
  return (value) => left + (value + 0.5) * step;
}

function columnWidth(places, span) {
  const sorted = places.sort((a, b) => a - b);
  let least = (span[1] - span[0]) / 2;
  for (let n = 1; n < sorted.length; n++) least = Math.min(least, sorted[n] - sorted[n - 1]);
  return least;
}

function startAxes() {
  if (!byId("axes")) return;
  drawers.push(drawAxes);
  markers.push((place) => markElements(byId("axes"), place));
}
