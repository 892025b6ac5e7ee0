// Runs over each other, with the settings in which they differ on top.

import { ask, compareAddress, runAddress, throttled, watch } from "./api.js";
import { Chart, Crosshair, placed, smoothed } from "./charts.js";
import { badge, button, choice, cycle, element, fill } from "./elements.js";
import { count, percent, shortName, significant } from "./format.js";
import { SMOOTHING, UNITS, bitsOfNat, inUnit, unitChoice } from "./panels.js";

const COLOURS = ["--run-0", "--run-1", "--run-2", "--run-3", "--run-4", "--run-5"];
/** Keys that differ between any two runs and say nothing. */
const IDLE = ["text-sha256", "val-sha256"];

const shown = { unit: "nats", smoothing: 0.6 };

export function showCompare(page, names) {
  const crosshair = new Crosshair();
  const runs = names.map((name, place) => ({ name, key: `r${place}`, colour: COLOURS[place % COLOURS.length] }));
  let range = null;
  let closed = false;

  const actions = {
    crosshair,
    zoom: (from, to) => { range = [from, to]; refresh(); },
    reset: () => { range = null; refresh(); },
    open: (step) => { location.hash = runAddress(names[0], step); },
  };
  const lines = (suffix, more = {}) => runs.map(({ key, colour }) => ({ key: `${key}_${suffix}`, colour, gaps: true, width: 1.5, ...more }));
  const readout = (suffix, show) => (values, at) =>
    runs.map(({ name, key, colour }) => [shortName(name), show(values[`${key}_${suffix}`][at] ?? null), colour]);
  const charts = [
    { name: "loss", title: "Training loss", unit: "nats a token", height: 280, robust: true, how: "Lower is better. A run that leaves the others upwards has lost its way there.", lines: lines("loss"), readout: readout("loss", significant) },
    { name: "val", title: "Validation loss", unit: "nats a token", height: 240, robust: true, how: "The same on text that no run has trained on: the one to choose by.", lines: lines("val", { points: true }), readout: readout("val", significant) },
    { name: "norm", title: "Gradient norm", unit: "before clipping, greatest of a point", height: 280, log: true, how: "How long gradients were before anything was cut off. Dashed lines are the thresholds.",
      lines: [...lines("norm"), ...lines("threshold", { dash: [5, 4], width: 1, broken: true })], readout: readout("norm", significant) },
    { name: "share", title: "Steps clipped", unit: "share of the last 100", height: 180, bounds: [0, 1.04], logarithmic: false, how: "How often each run's rule stepped in.", lines: lines("share"), readout: readout("share", percent) },
    { name: "speed", title: "Speed", unit: "tokens a second", height: 180, zero: true, how: "What each run costs, if they had the machine to themselves.", lines: lines("speed"), readout: readout("speed", count) },
  ].map((spec) => new Chart(spec, actions));

  const legend = element("div", { class: "legend" });
  const differences = element("section", { class: "differences" });
  const problem = element("p", { class: "problem", role: "alert", hidden: true });
  const picker = element("form", { class: "picker" });
  const smoothing = choice("Smoothing", SMOOTHING.map(([weight, label]) => [weight, label, `Smoothing: ${label}`]), shown.smoothing,
    (weight) => { shown.smoothing = weight; redraw(); });
  const units = unitChoice(shown.unit, (unit) => { shown.unit = unit; redraw(); });
  const resetButton = button("Whole runs", () => actions.reset(), { class: "quiet" });
  const [loss, val, norm, ...small] = charts;
  page.append(
    element("div", { class: "headline" }, element("div", {}, element("h1", {}, names.length > 1 ? `${names.length} runs compared` : "Compare"), legend), picker),
    problem, differences,
    element("div", { class: "tools" }, resetButton, element("span", { class: "gap" }),
      element("label", {}, "loss in"), units.element, element("label", {}, "smoothing"), smoothing.element),
    loss.element, val.element, norm.element, element("div", { class: "pair" }, small.map((chart) => chart.element)));

  let answers = [];
  let abouts = [];

  function redraw() {
    if (answers.length === 0) return;
    // A character is another number of tokens in each run.
    const bits = answers.map((series, run) => bitsOfNat(series, abouts[run]?.settings));
    const unit = shown.unit === "bits" && bits.includes(null) ? "nats" : shown.unit;
    for (const chart of [loss, val]) chart.setUnit(UNITS[unit].label);
    // All steps of all runs; where a run has no point at a step, its line goes on to the next one.
    const tables = answers.map((series, run) => {
      const convert = (value) => inUnit(value, unit, bits[run]);
      const evaluations = placed(series.step, series.evaluations.map((one) => [one.step, one.val_loss]));
      return [series.step, smoothed(series.loss.mean, shown.smoothing).map(convert), evaluations.map(convert), series.norm.max, series.threshold,
        series.clipped_share, smoothed(series.tokens_per_second.mean, shown.smoothing)];
    }).map((table) => (table[0].length ? table : [[0], ...table.slice(1).map(() => [null])]));
    const [step, ...columns] = window.uPlot.join(tables);
    const suffixes = ["loss", "val", "norm", "threshold", "share", "speed"];
    const values = { step };
    runs.forEach(({ key }, run) => suffixes.forEach((suffix, place) => { values[`${key}_${suffix}`] = columns[run * suffixes.length + place]; }));
    const whole = answers.map((series) => series.whole).filter(Boolean);
    const visible = range ?? [Math.min(...whole.map(([first]) => first)), Math.max(...whole.map(([, last]) => last))];
    for (const chart of charts) chart.show(values, visible);
    resetButton.hidden = !range;
    page.dataset.overlaid = String(answers.filter((series) => series.rows > 0).length);
  }

  async function load() {
    const points = Math.max(200, Math.min(1200, loss.place.clientWidth - 60));
    const [from, to] = range ?? [null, null];
    const found = await Promise.all(names.map((name) => ask("series", { run: name, from, to, points })));
    if (closed) return;
    answers = found;
    redraw();
  }

  async function loadAbout() {
    const found = await Promise.all(names.map((name) => ask("run", { run: name })));
    if (closed) return;
    abouts = found;
    redraw();
    fill(legend, ...abouts.map((about, place) =>
      element("a", { href: runAddress(about.name) }, element("i", { class: "key", style: { background: `var(${runs[place].colour})` } }), shortName(about.name), " ", badge(about.state))));
    showDifferences();
  }

  function showDifferences() {
    const tables = abouts.map((about) => new Map(about.settings.map(({ name, value }) => [name, value])));
    const keys = [...new Set(tables.flatMap((table) => [...table.keys()]))].filter((key) => !IDLE.includes(key));
    const differing = keys.filter((key) => new Set(tables.map((table) => table.get(key))).size > 1);
    const results = [
      ["validation loss", (about) => significant(about.val_loss)],
      ["steps clipped", (about) => (about.class === "off" ? "–" : percent(about.clipped_share))],
    ];
    const key = (place) => element("i", { class: "key", style: { background: `var(${runs[place].colour})` } });
    fill(differences,
      element("h2", {}, "What differs"),
      element("p", { class: "how" }, names.length === 1 ? "Choose another run to lay over this one."
        : differing.length ? `${differing.length} of ${keys.length} settings differ; below them, what came of it.` : "No setting differs: the same run twice."),
      element("div", { class: "scroll" }, element("table", {},
        element("thead", {}, element("tr", {}, element("th", {}, ""), abouts.map((about, place) => element("th", { scope: "col" }, key(place), shortName(about.name))))),
        element("tbody", {},
          differing.map((name) => element("tr", {}, element("th", { scope: "row" }, name), tables.map((table) => element("td", {}, table.get(name) || "–")))),
          results.map(([label, show]) => element("tr", { class: "result" }, element("th", { scope: "row" }, label), abouts.map((about) => element("td", {}, show(about)))))))));
  }

  function fail(error) {
    if (closed) return;
    problem.hidden = false;
    problem.textContent = error.message;
  }

  async function loadPicker() {
    const { runs: all } = await ask("runs");
    if (closed) return;
    const others = all.map((row) => row.name).filter((name) => !names.includes(name));
    const select = element("select", { "aria-label": "Add a run", on: { change: () => { if (select.value) location.hash = compareAddress([...names, select.value]); } } },
      element("option", { value: "" }, "Add a run…"), others.map((name) => element("option", { value: name }, shortName(name))));
    fill(picker, select);
  }

  const refresh = throttled(() => load().catch(fail), 300);
  const refreshAbout = throttled(() => loadAbout().catch(fail), 3000);
  refresh();
  refreshAbout();
  loadPicker().catch(fail);
  const stop = watch(names, () => { refresh(); refreshAbout(); });
  const keys = {
    l: () => { const log = !loss.log; [loss, val, norm].forEach((chart) => chart.setLog(log)); },
    u: () => units.select(cycle(Object.keys(UNITS), shown.unit)),
    s: () => smoothing.select(cycle(SMOOTHING.map(([weight]) => weight), shown.smoothing)),
    0: () => actions.reset(),
  };
  const close = () => {
    closed = true;
    stop();
    refresh.stop();
    refreshAbout.stop();
    charts.forEach((chart) => chart.close());
  };
  return { close, keys, title: "Compare", crumbs: [["compare"]] };
}
