// A line chart: scales, axes, lines, and the values under the pointer. It draws what it is given and computes no figures.

const SVG = "http://www.w3.org/2000/svg";
const MARGIN = { top: 14, right: 18, bottom: 50, left: 78 };
const DASHES = ["", "7 4", "2 4", "12 4 2 4", "5 2", "1 3 6 3"];

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function shape(name, attributes = {}, ...children) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

/** How a label's lines look: a colour and a dash, so that colour alone never tells. */
function lineStyle(index) {
  return { class: `series colour-${index % 6}`, "stroke-dasharray": DASHES[(index + Math.floor(index / 6)) % 6] };
}

function sample(index) {
  const line = shape("line", { x1: 1, y1: 6, x2: 31, y2: 6, ...lineStyle(index) });
  return shape("svg", { class: "sample", width: 32, height: 12, "aria-hidden": "true" }, line);
}

/** Round steps from 0 to at least `max`. */
function niceTicks(max, count) {
  const raw = (max || 1) / count;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((candidate) => candidate >= raw);
  const steps = Math.ceil((max || 1) / step - 1e-9);
  return Array.from({ length: steps + 1 }, (_, at) => at * step);
}

function linearScale(max, count, text) {
  const ticks = niceTicks(max, count);
  return { at: (value) => value / ticks.at(-1), ticks: ticks.map((value) => ({ value, text: text(value) })) };
}

/** Ends with what was measured, so that a line fills its plot; a run of two seconds that ends a moment before them has its 2. */
function timeScale(max, count) {
  const ticks = niceTicks(max, count).filter((value) => value <= max * 1.01);
  return { at: (value) => value / max, ticks: ticks.map((value) => ({ value, text: number(value) })) };
}

/** From one of 1, 2, 5, 10, 20, ... to another, so that the plot is full; it is labelled sparsely when it is long. */
function logScale(min, max, text) {
  const steps = Array.from({ length: 13 }, (_, power) => [1, 2, 5].map((factor) => factor * 10 ** power)).flat();
  const from = steps.findLast((step) => step <= Math.max(min, 1));
  const to = steps.find((step) => step >= max && step > from) ?? steps.at(-1);
  const within = steps.filter((step) => step >= from && step <= to);
  const marked = within.length <= 9 ? within : within.filter((step) => Number.isInteger(Math.log10(step)));
  const share = (value) => Math.log(Math.max(value, from) / from) / Math.log(to / from);
  return { at: share, ticks: marked.map((value) => ({ value, text: text(value) })) };
}

/** Percent on a scale on which each further nine takes the same room; it ends where the largest count ends. */
function ninesScale(last, narrow) {
  const nines = (percent) => -Math.log10(Math.max(1 - percent / 100, 1e-12));
  const end = Math.max(nines(last), 1);
  const all = [...(narrow ? [] : [0]), 50, 90, 99, 99.9, 99.99, 99.999, 99.9999];
  const ticks = all.filter((percent) => nines(percent) <= end + 1e-9);
  return {
    at: (percent) => Math.min(nines(percent) / end, 1),
    ticks: ticks.map((value) => ({ value, text: `${value}` })),
  };
}

/** The place of a point in a plot of this size. */
function placing(chart, width, height) {
  const [inner, tall] = [width - MARGIN.left - MARGIN.right, height - MARGIN.top - MARGIN.bottom];
  return {
    x: (value) => MARGIN.left + chart.x.at(value) * inner,
    y: (value) => MARGIN.top + (1 - chart.y.at(value)) * tall,
    left: MARGIN.left, right: width - MARGIN.right, top: MARGIN.top, bottom: height - MARGIN.bottom,
  };
}

function axes(chart, place) {
  const group = shape("g", { class: "axes" });
  for (const { value, text } of chart.y.ticks) {
    const y = place.y(value);
    group.append(shape("line", { class: "grid", x1: place.left, x2: place.right, y1: y, y2: y }));
    group.append(shape("text", { class: "tick y", "data-value": value, x: place.left - 8, y: y + 4, "text-anchor": "end" }, text));
  }
  for (const { value, text } of chart.x.ticks) {
    const x = place.x(value);
    group.append(shape("line", { class: "mark", x1: x, x2: x, y1: place.bottom, y2: place.bottom + 5 }));
    group.append(shape("text", { class: "tick x", "data-value": value, x, y: place.bottom + 18, "text-anchor": "middle" }, text));
  }
  group.append(shape("line", { class: "base", x1: place.left, x2: place.right, y1: place.bottom, y2: place.bottom }));
  const middle = (place.top + place.bottom) / 2;
  group.append(shape("text", { class: "axis", x: (place.left + place.right) / 2, y: place.bottom + 40, "text-anchor": "middle" }, chart.xTitle));
  group.append(shape("text", { class: "axis", x: 0, y: 0, transform: `translate(13 ${middle}) rotate(-90)`, "text-anchor": "middle" }, chart.yTitle));
  return group;
}

function path(series, chart, place) {
  const points = series.points.map(([x, y]) => [place.x(x), place.y(y)]);
  const text = points.map(([x, y], at) => `${at ? "L" : "M"}${x.toFixed(2)} ${y.toFixed(2)}`).join("");
  // One point is a dot: a line of no length with round ends.
  const d = points.length === 1 ? `${text}h0` : text;
  return shape("path", { d, fill: "none", "data-label": series.label, "data-round": series.round, ...lineStyle(series.style) });
}

/** The value at or before x; for a distribution and a rate alike the one that holds there. */
function holding(series, x) {
  return series.points.find(([at]) => at >= x) ?? series.points.at(-1);
}

/** Shows every line's value where the pointer is, or where the arrow keys went. */
function explain(chart, root, place, bubble) {
  const rule = shape("line", { class: "rule", y1: place.top, y2: place.bottom, visibility: "hidden" });
  root.append(rule);
  const stops = unique(chart.series.flatMap(({ points }) => points.map(([x]) => x))).sort((a, b) => a - b);
  let current = -1;
  const hide = () => { bubble.hidden = true; rule.setAttribute("visibility", "hidden"); };
  const show = (at) => {
    current = Math.min(Math.max(at, 0), stops.length - 1);
    const x = place.x(stops[current]);
    rule.setAttribute("x1", x);
    rule.setAttribute("x2", x);
    rule.setAttribute("visibility", "visible");
    const rows = chart.series.map((series) => {
      const name = chart.rounds > 1 ? `${series.label}, round ${series.round}` : series.label;
      return element("div", {}, sample(series.style), ` ${name}: `, element("b", {}, chart.say(holding(series, stops[current])[1])));
    });
    bubble.replaceChildren(element("div", { class: "where" }, chart.where(stops[current])), ...rows.slice(0, 12));
    bubble.hidden = false;
    const rightHalf = x > (place.left + place.right) / 2;
    bubble.style.left = rightHalf ? "" : `${x + 12}px`;
    bubble.style.right = rightHalf ? `${root.clientWidth - x + 12}px` : "";
  };
  root.addEventListener("pointermove", (event) => {
    const x = event.clientX - root.getBoundingClientRect().left;
    const distances = stops.map((stop) => Math.abs(place.x(stop) - x));
    show(distances.indexOf(Math.min(...distances)));
  });
  root.addEventListener("pointerleave", hide);
  root.addEventListener("blur", hide);
  root.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (event.key === "Escape") hide();
    if (!step) return;
    event.preventDefault();
    show(current + step);
  });
}

function drawInto(frame, chart, bubble) {
  const width = Math.max(frame.clientWidth, 260);
  const height = Math.round(Math.min(Math.max(width * 0.55, 230), 330));
  const sized = chart.scaled(width);
  const root = shape("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img", tabindex: 0, "aria-label": `${chart.title}. ${chart.summary} Arrow keys show values.` });
  const place = placing(sized, width, height);
  root.append(axes(sized, place));
  for (const series of [...chart.series].reverse()) root.append(path(series, sized, place));
  explain(sized, root, place, bubble);
  frame.replaceChildren(root, bubble);
}

/** A figure with its title, its key, the plot and its values as a table. It is drawn again when its width changes. */
function figure(chart, details) {
  const frame = element("div", { class: "frame" });
  const bubble = element("div", { class: "bubble" });
  bubble.hidden = true;
  const key = element("ul", { class: "key" }, ...chart.key.map(({ label, style, rounds }) =>
    element("li", {}, sample(style), element("span", {}, label), rounds > 1 ? element("small", {}, ` ${rounds} rounds`) : "")));
  const caption = element("figcaption", {}, element("h3", {}, chart.title), element("p", { class: "hint" }, chart.hint), key);
  const made = element("figure", { "data-chart": chart.kind }, caption, frame, details);
  let before = 0;
  new ResizeObserver(() => {
    if (frame.clientWidth === before) return;
    before = frame.clientWidth;
    drawInto(frame, chart, bubble);
  }).observe(frame);
  return made;
}
