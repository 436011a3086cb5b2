// What the runs come to: grouped by case and label, medians with their range. Nothing here knows how it looks.

const RESULTS = JSON.parse(document.getElementById("results").textContent);
const CASES = {
  produce: "Produce at full speed",
  consume: "Consume from beginning to end",
  latency: "Latency at a fixed rate",
  "end-to-end": "End to end at a fixed rate",
  partitions: "Many topics and partitions",
  groups: "Many consumer groups",
};
const UNITS = { us: "µs" };
/** Smaller changes are 0.0 %. */
const CHANGE_SHOWN_MIN = 0.0005;

const unique = (values) => [...new Set(values)];
const LABELS = unique(RESULTS.map(({ run }) => run.label));
const caseTitle = (name) => CASES[name] ?? name;
const words = (name) => name.replaceAll("_", " ").replace(/^mib\b/, "MiB").replace(/\bcpu\b/, "CPU");

/** Cases in the order of CASES, then others as they come; each with its labels and the rounds of each. */
function casesOf(results) {
  const order = Object.keys(CASES);
  const rank = (name) => (order.includes(name) ? order.indexOf(name) : order.length);
  const names = unique(results.map(({ run }) => run.case)).sort((a, b) => rank(a) - rank(b));
  return names.map((name) => ({
    name,
    labels: LABELS.map((label) => ({
      label,
      style: LABELS.indexOf(label),
      rounds: results.filter(({ run }) => run.case === name && run.label === label).map(({ run }) => run),
    })).filter(({ rounds }) => rounds.length > 0),
  }));
}

/** The middle, and the lowest and highest; null where nothing is known. */
function spread(values) {
  if (values.length === 0) return null;
  const sorted = [...values].sort((a, b) => a - b);
  const half = sorted.length >> 1;
  const median = sorted.length % 2 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2;
  return { median, min: sorted[0], max: sorted.at(-1), count: sorted.length };
}

function figureOf(run, name) {
  return run.figures.find((figure) => figure.name === name);
}

/** Every figure that a case has, in its order, with the spread for each label. */
function figuresOf(labels) {
  const all = labels.flatMap(({ rounds }) => rounds.flatMap((run) => run.figures));
  return unique(all.map((figure) => figure.name)).map((name) => {
    const { unit, better } = all.find((figure) => figure.name === name);
    const cells = labels.map(({ rounds }) => {
      const known = rounds.map((run) => figureOf(run, name)).filter((figure) => figure && figure.unit === unit);
      return spread(known.map((figure) => figure.value));
    });
    return { name, unit, better, cells };
  });
}

/** How a spread differs from the first one's, and whether that says anything. */
function difference(base, other, better) {
  if (!base || !other || base.median === 0) return null;
  const change = (other.median - base.median) / base.median;
  const overlap = other.min <= base.max && base.min <= other.max;
  const repeated = base.count > 1 && other.count > 1;
  // What is shown as nothing is nothing.
  const verdict = Math.abs(change) < CHANGE_SHOWN_MIN ? "equal"
    : repeated && overlap ? "within the spread"
    : (change > 0) === (better === "higher") ? "better" : "worse";
  return { change, verdict, repeated };
}

/** Parameters that all labels share, and those in which they differ. */
function parametersOf(labels) {
  const names = unique(labels.flatMap(({ rounds }) => Object.keys(rounds[0].parameters)));
  const value = ({ rounds }, name) => rounds[0].parameters[name] ?? null;
  const same = names.filter((name) => labels.every((entry) => value(entry, name) === value(labels[0], name)));
  return {
    shared: same.map((name) => [name, value(labels[0], name)]),
    differing: names.filter((name) => !same.includes(name))
      .map((name) => [name, labels.map((entry) => [entry.label, value(entry, name)])]),
  };
}

/** A number with the digits that matter. */
function number(value) {
  const size = Math.abs(value);
  if (size !== 0 && size < 0.001) return value.toExponential(1);
  const digits = size === 0 || size >= 100 ? 0 : size >= 10 ? 1 : size >= 1 ? 2 : 3;
  return value.toLocaleString("en-US", { maximumFractionDigits: digits });
}

/** A duration in the unit in which it reads best. */
function duration(micros) {
  if (micros >= 1e6) return `${number(micros / 1e6)} s`;
  if (micros >= 1e3) return `${number(micros / 1e3)} ms`;
  return `${number(micros)} µs`;
}

/** A large number in short, for an axis. */
function short(value) {
  const [size, letter] = value >= 1e9 ? [1e9, "G"] : value >= 1e6 ? [1e6, "M"] : value >= 1e4 ? [1e3, "k"] : [1, ""];
  return `${number(value / size)}${letter}`;
}

function percentName(percent) {
  return `${Number(percent.toPrecision(8))} %`;
}
