// The page: what is compared, a section for each case, and where every number comes from.

function listed(values) {
  return values.length < 2 ? values.join("") : `${values.slice(0, -1).join(", ")} and ${values.at(-1)}`;
}

/** Roles are said, because a table that is shown as blocks would lose them. */
function table(caption, head, rows, name) {
  const cell = (content, at) => at === 0 ? element("th", { scope: "row", role: "rowheader" }, content)
    : element("td", { role: "cell", "data-head": head[at] }, content);
  const row = (...cells) => element("tr", { role: "row" }, ...cells);
  const made = element("table", { "data-table": name, role: "table" },
    element("caption", {}, caption),
    element("thead", { role: "rowgroup" }, row(...head.map((content) => element("th", { scope: "col", role: "columnheader" }, content)))),
    element("tbody", { role: "rowgroup" }, ...rows.map((cells) => row(...cells.map(cell)))));
  const scroll = element("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": caption }, made);
  blocksWhereNarrow(scroll);
  return scroll;
}

/** A table that is too wide for its place has each row as a block of lines. */
function blocksWhereNarrow(scroll) {
  let before = 0;
  new ResizeObserver(() => {
    if (scroll.clientWidth === before) return;
    before = scroll.clientWidth;
    scroll.classList.remove("blocks");
    scroll.classList.toggle("blocks", scroll.scrollWidth > scroll.clientWidth);
  }).observe(scroll);
}

function more(title, content) {
  return element("details", {}, element("summary", {}, title), content);
}

/** The lines of a chart: one for each round that has what it shows. */
function seriesOf(labels, pointsOf) {
  return labels.flatMap(({ label, style, rounds }) => rounds.flatMap((run, at) => {
    const points = pointsOf(run);
    return points?.length ? [{ label, style, round: at + 1, points }] : [];
  }));
}

function keyOf(labels, series) {
  return labels.map(({ label, style }) => ({ label, style, rounds: series.filter((one) => one.label === label).length }))
    .filter(({ rounds }) => rounds > 0);
}

const largest = (series, at) => series.reduce((max, { points }) => Math.max(max, ...points.map((point) => point[at])), 0);
const smallest = (series, at) => series.reduce((min, { points }) => Math.min(min, ...points.map((point) => point[at])), Infinity);

function rateChart(labels) {
  const series = seriesOf(labels, (run) => run.rate?.points);
  if (series.length === 0) return null;
  const unit = labels.flatMap(({ rounds }) => rounds).find((run) => run.rate).rate.unit;
  const [end, top] = [largest(series, 0), largest(series, 1)];
  const key = keyOf(labels, series);
  const rows = series.map(({ label, round, points }) => {
    const rates = spread(points.map(([, rate]) => rate));
    return [`${label}, round\u00a0${round}`, `${number(points.at(-1)[0])} s`, number(rates.median), number(rates.min), number(rates.max)];
  });
  const chart = {
    kind: "rate", title: `Throughput over time`, xTitle: "seconds since the start", yTitle: unit,
    hint: "Each point is the average since the one before. Higher is better; a steady line is better than a jagged one.",
    summary: `Lines of ${listed(key.map(({ label }) => label))} over ${number(end)} seconds, up to ${number(top)} ${unit}.`,
    series, key, rounds: Math.max(...key.map(({ rounds }) => rounds)),
    scaled: (width) => ({ ...chart, x: timeScale(end, width < 480 ? 4 : 8), y: linearScale(top, 5, short) }),
    say: (rate) => `${number(rate)} ${unit}`,
    where: (seconds) => `${number(seconds)} s`,
  };
  const values = table(`Parts of each round, ${unit}`, ["round", "lasted", "median", "lowest", "highest"], rows, "rate");
  return figure(chart, more("The same as a table", values));
}

/** The duration that this share did not exceed; null where the run has too few values to say. */
function atPercent(latency, percent) {
  if (percent < 100 && latency.count * (1 - percent / 100) < 1) return null;
  return latency.percentiles.find(([at]) => at >= percent)?.[1] ?? null;
}

function latencyChart(labels) {
  // What lies beyond the last value but one is the maximum, drawn at the end of the scale.
  const last = (latency) => 100 * (1 - 1 / Math.max(latency.count, 10));
  const series = seriesOf(labels, (run) => run.latency?.percentiles
    .map(([percent, micros]) => [Math.min(percent, last(run.latency)), micros]));
  if (series.length === 0) return null;
  const runs = labels.flatMap(({ rounds }) => rounds).filter((run) => run.latency);
  const [end, low, top] = [largest(series, 0), smallest(series, 1), largest(series, 1)];
  const key = keyOf(labels, series);
  const percents = [50, 90, 99, 99.9, 99.99, 100];
  const rows = labels.flatMap(({ label, rounds }) => rounds.flatMap((run, at) => run.latency ? [[
    `${label}, round\u00a0${at + 1}`, ...percents.map((percent) => atPercent(run.latency, percent))
      .map((micros) => micros === null ? "–" : duration(micros)), number(run.latency.count)]] : []));
  const chart = {
    kind: "latency", title: "Latency percentiles", xTitle: "percent of records that were as fast or faster", yTitle: "latency, log scale",
    hint: `Measured ${listed(unique(runs.map((run) => run.latency.what)))}. Lower is better; the right end is the slowest records.`,
    summary: `Curves of ${listed(key.map(({ label }) => label))}, from ${duration(low)} to ${duration(top)}.`,
    series, key, rounds: Math.max(...key.map(({ rounds }) => rounds)),
    scaled: (width) => ({ ...chart, x: ninesScale(end, width < 480), y: logScale(low, top, duration) }),
    say: duration,
    where: (percent) => percentName(percent),
  };
  const head = ["round", ...percents.map((percent) => percent === 100 ? "slowest" : `${percent}\u00a0%`), "values"];
  return figure(chart, more("The same as a table", table("Latency by percentile", head, rows, "latency")));
}

/** Bars of processor time for each record, where a run knows it. */
function cpuChart(labels) {
  const kinds = [["broker_cpu_per_record", "broker"], ["client_cpu_per_record", "client"]];
  const bars = kinds.flatMap(([name, who]) => labels.map(({ label, style, rounds }) => ({
    who, label, style, value: spread(rounds.map((run) => figureOf(run, name)?.value).filter((value) => value !== undefined)),
  })));
  const known = bars.filter(({ value }) => value);
  if (known.length === 0) return null;
  const top = Math.max(...known.map(({ value }) => value.max));
  const row = ({ who, label, style, value }) => {
    const track = element("div", { class: value ? "track" : "track empty" });
    if (value) {
      const bar = element("div", { class: `bar fill-${style % 6}` });
      bar.style.width = `${(100 * value.median) / top}%`;
      track.append(bar);
    }
    const text = value ? `${number(value.median)} µs${value.count > 1 ? ` (${number(value.min)}–${number(value.max)})` : ""}` : "not measured";
    return element("div", { class: "bar-row", "data-who": who, "data-label": label },
      element("div", { class: "bar-name" }, label), track, element("div", { class: "bar-value" }, text));
  };
  const part = (who) => known.some((bar) => bar.who === who)
    ? element("div", {}, element("h4", {}, `The ${who}'s process`), ...bars.filter((bar) => bar.who === who).map(row))
    : element("p", { class: "hint" }, `The ${who}'s process was not measured${who === "broker" ? " (--pid)" : ""}.`);
  return element("figure", { "data-chart": "cpu" },
    element("figcaption", {}, element("h3", {}, "Processor time for each record"),
      element("p", { class: "hint" }, "Microseconds, user and system together. Lower is better.")),
    element("div", { class: "bars" }, part("broker"), part("client")));
}

function valueCell(cell) {
  if (!cell) return element("span", { class: "unknown" }, "–");
  const range = cell.count > 1 ? element("small", {}, ` ${number(cell.min)}–${number(cell.max)}`) : "";
  return element("span", { "data-median": cell.median }, number(cell.median), range);
}

function changeCell(change) {
  if (!change) return element("span", { class: "unknown" }, "–");
  const sign = change.verdict === "equal" ? "±" : change.change > 0 ? "+" : "−";
  const size = Math.abs(change.change) * 100;
  const mark = { better: "▲", worse: "▼" }[change.verdict] ?? "=";
  const text = `${sign}${size >= 1000 ? number(size) : size.toFixed(1)} %`;
  return element("span", { class: `change ${change.repeated ? change.verdict.replaceAll(" ", "-") : "once"}` },
    element("b", {}, text), ` ${mark} ${change.verdict}${change.repeated ? "" : "*"}`);
}

function comparison(labels) {
  const [base, ...others] = labels;
  const head = ["figure", base.label, ...others.flatMap(({ label }) => [label, `against ${base.label}`])];
  let once = false;
  const rows = figuresOf(labels).map(({ name, unit, better, cells }) => {
    const changes = cells.slice(1).map((cell) => difference(cells[0], cell, better));
    once ||= changes.some((change) => change && !change.repeated);
    return [element("span", {}, words(name), element("small", {}, ` ${UNITS[unit] ?? unit}, ${better} is better`)), valueCell(cells[0]),
      ...changes.flatMap((change, at) => [valueCell(cells[at + 1]), changeCell(change)])];
  });
  const many = labels.some(({ rounds }) => rounds.length > 1);
  const notes = [
    many ? "A cell is the median of the rounds, and in small figures the lowest and the highest. Differences are between medians; where the ranges overlap they are called “within the spread”." : "",
    once ? "* A side was measured only once, so nothing is known of its spread: repeat with --rounds before believing a small difference." : "",
  ].filter(Boolean);
  return [table("Figures side by side", head, rows, "figures"), ...notes.map((text) => element("p", { class: "hint" }, text))];
}

function parameterLine(labels) {
  const { shared, differing } = parametersOf(labels);
  const parts = [element("p", { class: "parameters" },
    ...shared.flatMap(([name, value]) => [element("span", {}, `${words(name)} `, element("b", {}, typeof value === "number" ? value.toLocaleString("en-US") : `${value}`))]))];
  if (differing.length > 0) {
    const each = differing.map(([name, values]) => element("li", {}, `${words(name)}: ${values.map(([label, value]) => `${label} ${value ?? "not set"}`).join(", ")}`));
    parts.push(element("div", { class: "warning", role: "note" }, element("b", {}, "These runs were not asked for the same: "), element("ul", {}, ...each)));
  }
  return parts;
}

function section({ name, labels }) {
  const charts = [rateChart(labels), latencyChart(labels), cpuChart(labels)].filter(Boolean);
  return element("section", { "data-case": name, "aria-label": caseTitle(name) }, element("h2", {}, caseTitle(name)),
    ...parameterLine(labels), element("div", { class: "charts" }, ...charts), ...comparison(labels));
}

function machineText({ cpu, cores, memory_bytes: memory, system }) {
  return [cores && cpu ? `${cores} × ${cpu}` : cpu, memory && `${number(memory / 2 ** 30)} GiB`, system].filter(Boolean).join(", ") || "unknown";
}

function sources() {
  const time = (ms) => new Date(ms).toISOString().replace("T", " ").slice(0, 19);
  const rows = RESULTS.map(({ file, run }) => [run.label, caseTitle(run.case), time(run.started_ms), run.client.version, run.broker.commit ?? "–", run.broker.nodes ?? "–", machineText(run.machine), file ?? "–"]);
  const head = ["label", "case", "started, UTC", "measured by", "commit", "nodes", "machine of the client", "file"];
  return element("section", { "aria-label": "Where the numbers come from" }, element("h2", {}, "Where the numbers come from"),
    table("Every result on this page", head, rows, "sources"),
    element("p", { class: "hint" }, "Every number and line above is drawn by this page from the results themselves, which stand as JSON in its source."));
}

function introduction(cases) {
  const machines = unique(RESULTS.map(({ run }) => machineText(run.machine)));
  const first = LABELS.map((label, style) => element("li", {}, sample(style), element("span", {}, label),
    LABELS.length > 1 && style === 0 ? element("small", {}, " the others are compared with it") : ""));
  const parts = [
    element("p", { class: "lead" }, `${RESULTS.length} ${RESULTS.length === 1 ? "result" : "results"}, ${cases.length} ${cases.length === 1 ? "case" : "cases"}, measured on ${machines.length === 1 ? machines[0] : `${machines.length} different machines`}.`),
    element("ul", { class: "key main" }, ...first),
  ];
  if (machines.length > 1) parts.push(element("div", { class: "warning", role: "note" }, element("b", {}, "The results come from different machines: "), "differences may be theirs."));
  return parts;
}

const CASES_FOUND = casesOf(RESULTS);
document.getElementById("page").append(...introduction(CASES_FOUND), ...CASES_FOUND.map(section), sources());
