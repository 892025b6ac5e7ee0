// Compares runs: a sentence on what differs and with what outcome, then their curves.

import { ask, compareAddress, runAddress, throttled, watch } from "./api.js";
import { STEP_AXIS } from "./axes.js";
import { Chart, Crosshair } from "./charts.js";
import { badge, button, choice, cycle, element, fill, folded, tool } from "./elements.js";
import { amount, clock, count, percent, sentence, shortName, significant } from "./format.js";
import { SMOOTHING, UNITS, axisChoice, bitsOfNat, inUnit, tokensPerStep,
  unitChoice } from "./panels.js";
import { showProblem } from "./problem.js";
import { placed, smoothed } from "./series.js";

const COLOURS = ["--run-0", "--run-1", "--run-2", "--run-3", "--run-4", "--run-5"];
/** Keys that are not worth comparing. */
const IDLE = ["text-sha256", "val-sha256", "tokenizer-sha256"];

/** Keys that do not affect the results of a run, as far as it goes. */
const HOUSEKEEPING = ["text", "val", "steps", "eval-every", "save-every", "sample-every", "keep",
  "threads", "patience"];

const shown = { axis: "step", unit: "nats", smoothing: 0.6 };

/** Formats of a position on the horizontal axis, in the readout and as a label. */
const PLACES = { step: (at) => `step ${count(at)}`, tokens: (at) => `${amount(at)} tokens`,
  time: clock };
const LABELS = { step: count, tokens: amount, time: clock };
const DEATHS = ["diverged", "failed", "killed"];

export function showCompare(page, names) {
  const crosshair = new Crosshair();
  const runs = names.map((name, place) => ({ name, key: `r${place}`,
    colour: COLOURS[place % COLOURS.length] })
  );
  let range = null;
  let closed = false;

  const actions = {
    crosshair,
    zoom: (from, to) => {
      range = [from, to];
      refresh();
    },
    reset: () => {
      range = null;
      refresh();
    },
    open: (at, key) => {
      const run = runs.findIndex((one) => key?.startsWith(`${one.key}_`));
      const place = run < 0 ? 0 : run;
      location.hash = runAddress(names[place], stepAt(place, at));
    },
  };
  const lines = (suffix, more = {}) =>
    runs.map(({ key, colour }) => ({ key: `${key}_${suffix}`, colour, gaps: true, width: 1.5,
      ...more })
    );
  /**
   * The value of each run at a position, or its last one before; a loss with its last and lowest
   * value.
   */
  const readout = (suffix, show, ends = false) => (values, at) =>
    runs.map(({ name, key, colour }) => {
      const column = values[`${key}_${suffix}`];
      const known = column.findLastIndex((value, place) =>
        place <= at && value !== null && value !== undefined
      );
      const over = !column.slice(at).some((value) => value !== null && value !== undefined);
      const here = known < 0
        ? "–"
        : `${show(column[known])}${over && at < values.step.length - 1 ? " (ended)" : ""}`;
      const { last, best } = (ends && values.ends?.[`${key}_${suffix}`]) || {};
      const more = last === undefined ? "" : ` · last ${show(last)} · best ${show(best)}`;
      return [shortName(name), here + more, colour];
    });
  const charts = [
    { name: "loss", title: "Training loss", unit: "nats per token", height: 280, robust: true,
      how: "Lower is better. A cross marks where a run died.", lines: lines("loss"),
      readout: readout("loss", significant, true) },
    {
      name: "val",
      title: "Validation loss",
      unit: "nats per token",
      height: 240,
      robust: true,
      how: "The loss on text that no run trained on: the one to choose by.",
      lines: lines("val", { points: true }),
      readout: readout("val", significant, true),
    },
    { name: "norm", title: "Gradient norm", unit: "before clipping, maximum per point", height: 280,
      log: true, how: "The norm before anything was cut off. Dashed lines are the thresholds.",
      lines: [...lines("norm"), ...lines("threshold", { dash: [5, 4], width: 1, broken: true })],
      readout: readout("norm", significant) },
    {
      name: "share",
      small: true,
      title: "Steps clipped",
      unit: "share of the last 100",
      height: 180,
      bounds: [0, 1.04],
      logarithmic: false,
      how: "How often each run's policy acted.",
      lines: lines("share"),
      readout: readout("share", percent),
    },
    { name: "speed", small: true, title: "Speed", unit: "tokens per second", height: 180,
      zero: true,
      how: "How fast each run trained, beside whatever else the machine did.",
      lines: lines("speed"), readout: readout("speed", count) },
  ].map((spec) => new Chart({ ...spec, nearest: true }, actions));

  const legend = element("div", { class: "legend" });
  const summary = element("section", { class: "verdict", "aria-label": "Differences and outcome" });
  const differences = element("section", { class: "differences" });
  const axes = axisChoice(shown.axis, (axis) => {
    shown.axis = axis;
    range = null;
    refresh();
  });
  const problem = element("p", { class: "problem", role: "alert", hidden: true });
  const picker = element("form", { class: "picker" });
  const smoothing = choice("Smoothing",
    SMOOTHING.map(([weight, label]) => [weight, label, `Smoothing: ${label}`]), shown.smoothing,
    (weight) => {
      shown.smoothing = weight;
      redraw();
    });
  const units = unitChoice(shown.unit, (unit) => {
    shown.unit = unit;
    redraw();
  });
  const resetButton = button("Whole runs", () => actions.reset(), { class: "quiet" });
  const [loss, val, norm, ...small] = charts;
  page.append(
    element("div", { class: "headline" },
      element("div", {},
        element("h1", {}, names.length > 1 ? `${names.length} runs compared` : "Compare"), legend),
      picker),
    problem,
    summary,
    element("div", { class: "tools" }, resetButton, element("span", { class: "gap" }),
      tool("along", axes), tool("loss in", units), tool("smoothing", smoothing)),
    loss.element,
    val.element,
    norm.element,
    element("div", { class: "pair" }, small.map((chart) => chart.element)),
    differences,
  );

  let answers = [];
  let abouts = [];
  let equal = null;

  /** The positions of a run's steps on the horizontal axis. */
  function along(run) {
    const { step, seconds_per_token: seconds } = answers[run];
    const tokens = tokensPerStep(abouts[run]?.settings);
    if (shown.axis === "tokens" && tokens) return step.map((one) => one * tokens);
    if (shown.axis === "time" && tokens) return seconds.map((one) => one * tokens);
    return step;
  }

  /** The step of a run at a position on the horizontal axis. */
  function stepAt(run, at) {
    const place = along(run).findLastIndex((one) => one <= at);
    return answers[run].step[Math.max(0, place)];
  }

  function redraw() {
    if (answers.length === 0) return;
    // Tokens per character differ between runs.
    const bits = answers.map((series, run) => bitsOfNat(series, abouts[run]?.settings));
    const unit = shown.unit === "bits" && bits.includes(null) ? "nats" : shown.unit;
    for (const chart of [loss, val]) chart.setUnit(UNITS[unit].label);
    // All steps of all runs; where a run has no point at a step, its line continues to the next
    // one.
    const tables = answers.map((series, run) => {
      const convert = (value) => inUnit(value, unit, bits[run]);
      const places = along(run);
      const evaluations = placed(series.step,
        series.evaluations.map((one) => [one.step, one.val_loss]));
      return [places, smoothed(series.loss.mean, shown.smoothing).map(convert),
        evaluations.map(convert), series.norm.max, series.threshold, series.clipped_share,
        smoothed(series.tokens_per_second.mean, shown.smoothing)];
    }).map((table) => (table[0].length ? table : [[0], ...table.slice(1).map(() => [null])]));
    const [step, ...columns] = window.uPlot.join(tables);
    const suffixes = ["loss", "val", "norm", "threshold", "share", "speed"];
    const values = { step };
    runs.forEach(({ key }, run) =>
      suffixes.forEach((suffix, place) => {
        values[`${key}_${suffix}`] = columns[run * suffixes.length + place];
      })
    );
    // The unsmoothed losses.
    const ends = (losses, run) => {
      const known = losses.map((value) => inUnit(value, unit, bits[run])).filter((value) =>
        value !== null
      );
      return known.length
        ? { last: known.at(-1), best: known.reduce((a, b) => Math.min(a, b)) }
        : null;
    };
    values.ends = Object.fromEntries(runs.flatMap(({ key }, run) => [
      [`${key}_loss`, ends(answers[run].loss.mean, run)],
      [`${key}_val`, ends(answers[run].evaluations.map((one) => one.val_loss), run)],
    ]));
    const dead = runs.filter((_, run) => DEATHS.includes(abouts[run]?.state));
    const visible = range ?? [step[0] ?? 0, step.at(-1) ?? 1];
    for (const chart of charts) {
      const suffix = chart.spec.name;
      const crosses = (chart.spec.small ? [] : dead).map(({ key, colour }) => ({ step: Infinity,
        key: `${key}_${suffix}`, colour })
      );
      const axis = { ...STEP_AXIS, name: shown.axis, format: LABELS[shown.axis],
        say: PLACES[shown.axis] };
      chart.show({ ...values, crosses }, visible, axis);
    }
    resetButton.hidden = !range;
    page.dataset.overlaid = String(answers.filter((series) => series.rows > 0).length);
  }

  async function load() {
    const points = Math.max(200, Math.min(1200, loss.place.clientWidth - 60));
    // The server takes ranges of steps; on another axis, zooming shows the data already loaded.
    const [from, to] = shown.axis === "step" && range ? range : [null, null];
    const found = await Promise.all(
      names.map((name) => ask("series", { run: name, from, to, points })),
    );
    if (closed) return;
    answers = found;
    redraw();
  }

  async function loadAbout() {
    const [same, ...found] = await Promise.all([ask("equal", { run: names.join("\n") }),
      ...names.map((name) => ask("run", { run: name }))]);
    if (closed) return;
    abouts = found;
    equal = same;
    redraw();
    fill(legend,
      ...abouts.map((about, place) =>
        element("a", { href: runAddress(about.name) },
          element("i", { class: "key", style: { background: `var(${runs[place].colour})` } }),
          shortName(about.name), " ", badge(about.state))
      ));
    showDifferences();
  }

  /** The settings of the runs, and the names of those that differ. */
  function compared() {
    const tables = abouts.map((about) =>
      new Map(about.settings.map(({ name, value }) => [name, value]))
    );
    const keys = [...new Set(tables.flatMap((table) => [...table.keys()]))].filter((key) =>
      !IDLE.includes(key)
    );
    return { tables, keys,
      differing: keys.filter((key) => new Set(tables.map((table) => table.get(key))).size > 1) };
  }

  /**
   * Which settings differ, up to which step the runs are equal, which died where, and which is
   * best.
   */
  function inASentence({ tables, differing }) {
    const said = [];
    const telling = differing.filter((key) => !HOUSEKEEPING.includes(key));
    if (telling.length === 0) said.push("no setting that affects results differs");
    else if (telling.length > 3)
      said.push(`${telling.length} settings differ, ${telling.slice(0, 3).join(", ")} among them`);
    else {
      const values = (key) => tables.map((table) => table.get(key) || "none").join(" against ");
      said.push(telling.map((key) => `${key} differs: ${values(key)}`).join("; "));
    }
    if (equal.until === null) said.push("the runs differ from their first step on");
    else if (equal.whole)
      said.push(`they are equal as far as both go, up to step ${count(equal.until)}`);
    else said.push(`they are equal until step ${count(equal.until)}`);
    const verbs = { diverged: "diverged", failed: "failed", killed: "was killed" };
    for (const { name, state, step, judgement } of abouts) {
      const verdict = judgement?.verdict;
      // The verdict says where it broke, which is before it gave up.
      if (state === "diverged" && verdict?.tone === "bad")
        said.push(`run ${shortName(name)}: ${verdict.sentence}`);
      else if (DEATHS.includes(state))
        said.push(`run ${shortName(name)} ${verbs[state]} at step ${count(step)}`);
    }
    const measured = abouts.filter(({ best, group }) => best && group === abouts[0].group)
      .sort((a, b) => a.best.val_loss - b.best.val_loss);
    if (measured.length > 1) {
      const [first, second] = measured;
      const [loss, ...others] = measured.map(({ best }) => significant(best.val_loss));
      const best = `the best validation loss is ${loss} in ${shortName(first.name)}`;
      said.push(first.best.val_loss === second.best.val_loss
        ? `${best} and ${shortName(second.name)}`
        : `${best}, against ${others.join(" and ")}`);
    } else if (measured.length === 1) {
      const [{ name, best }] = measured;
      said.push(`only ${shortName(name)} has a validation loss: ${significant(best.val_loss)}`);
    }
    return `${said.map(sentence).join(". ")}.`;
  }

  function showDifferences() {
    const { tables, keys, differing } = compared();
    fill(summary, element("p", { class: "lead plain" }, names.length === 1
      ? "Select another run to compare with."
      : inASentence({ tables, differing })));
    const results = [
      ["best validation loss", (about) => significant(about.best?.val_loss)],
      ["steps clipped", (about) => (about.clip === "none" ? "–" : percent(about.clipped_share))],
      ["clipping", (about) => about.words ?? "–"],
    ];
    const key = (place) =>
      element("i", { class: "key", style: { background: `var(${runs[place].colour})` } });
    const wasOpen = differences.querySelector("details")?.open ?? false;
    const label = differing.length
      ? `Settings: ${differing.length} of ${keys.length} differ`
      : `Settings: all ${keys.length} are the same`;
    fill(differences,
      folded(label, { open: wasOpen },
        element("div", { class: "scroll" },
          element("table", {},
            element("thead", {},
              element("tr", {}, element("th", {}, ""),
                abouts.map((about, place) =>
                  element("th", { scope: "col" }, key(place), shortName(about.name))
                ))),
            element("tbody", {},
              differing.map((name) =>
                element("tr", {}, element("th", { scope: "row" }, name), tables.map((table) =>
                  element("td", {}, table.get(name) || "–")
                ))
              ),
              results.map(([label, show]) =>
                element("tr", { class: "result" }, element("th", { scope: "row" }, label),
                  abouts.map((about) => element("td", {}, show(about))))
              ))))));
  }

  function fail(error) {
    if (closed) return;
    if (answers.length === 0 && abouts.length === 0) {
      close();
      return showProblem(page, "There is nothing to compare", `${sentence(error.message)}.`);
    }
    problem.hidden = false;
    problem.textContent = error.message;
  }

  async function loadPicker() {
    const { runs: all } = await ask("runs");
    if (closed) return;
    const others = all.map((row) => row.name).filter((name) => !names.includes(name));
    const select = element("select", { "aria-label": "Add a run", on: { change: () => {
      if (select.value) location.hash = compareAddress([...names, select.value]);
    } } }, element("option", { value: "" }, "Add a run…"),
      others.map((name) => element("option", { value: name }, shortName(name))));
    fill(picker, select);
  }

  const refresh = throttled(() => load().catch(fail), 300);
  const refreshAbout = throttled(() => loadAbout().catch(fail), 3000);
  let stop = () => {};
  refresh();
  refreshAbout();
  loadPicker().catch(fail);
  stop = watch(names, () => {
    refresh();
    refreshAbout();
  });
  const keys = {
    l: () => {
      const log = !loss.log;
      [loss, val, norm].forEach((chart) => chart.setLog(log));
    },
    u: () => units.select(cycle(Object.keys(UNITS), shown.unit)),
    s: () => smoothing.select(cycle(SMOOTHING.map(([weight]) => weight), shown.smoothing)),
    0: () => actions.reset(),
  };
  function close() {
    closed = true;
    stop();
    refresh.stop();
    refreshAbout.stop();
    charts.forEach((chart) => chart.close());
  }
  return { close, keys, title: "Compare", crumbs: [["compare"]] };
}
