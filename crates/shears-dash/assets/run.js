// The page of a run.

import { ask, compareAddress, runAddress, throttled, watch } from "./api.js";
import { Chart, Crosshair } from "./charts.js";
import { badge, button, choice, command, cycle, element, fill, folded, tool } from "./elements.js";
import { bytes, count, duration, moment, percent, sentence, shortName,
  significant } from "./format.js";
import { HeatMap } from "./heat.js";
import {
  MAPS,
  PANELS,
  SMOOTHING,
  THROUGH_TIME,
  UNITS,
  axesOfRun,
  axisChoice,
  bitsOfNat,
  throughTime,
  tokensPerStep,
  unitChoice,
  valuesOf,
} from "./panels.js";
import { showProblem } from "./problem.js";

// The settings of charts survive opening a step and coming back.
const shown = { axis: "step", unit: "nats", smoothing: 0 };

export function showRun(page, name) {
  const crosshair = new Crosshair();
  let range = null;
  let series = null;
  let about = null;
  let closed = false;

  const actions = {
    crosshair,
    zoom: (from, to) => zoom(from, to),
    reset: () => zoom(null),
    open: (step) => {
      location.hash = runAddress(name, step);
    },
  };
  const charts = PANELS.map((panel) => new Chart(panel, actions));
  const maps = MAPS.map((map) => new HeatMap(map, actions));
  // It has a crosshair of its own, because its axis has no steps.
  const time = new Chart(THROUGH_TIME, { crosshair: new Crosshair(), zoom: () => {},
    reset: () => {}, open: () => {} });
  time.element.hidden = true;
  const head = element("div", { class: "run-head" });
  const figures = element("dl", { class: "figures" });
  const verdict = element("section", { class: "verdict", "aria-label": "Verdict on clipping" });
  const problem = element("div", { class: "problem", role: "alert", hidden: true });
  const reading = element("div", { class: "reading", hidden: true });
  const spikeList = element("p", { class: "spikes" });
  const rangeText = element("span", { class: "range" });
  const resetButton = button("Whole run", () => zoom(null), { class: "quiet",
    title: "Double click on a chart (0)" });
  const axes = axisChoice(shown.axis, (axis) => {
    shown.axis = axis;
    redraw();
  });
  const units = unitChoice(shown.unit, (unit) => {
    shown.unit = unit;
    redraw();
  });
  const smoothing = choice("Smoothing",
    SMOOTHING.map(([weight, label]) => [weight, label, `Smoothing: ${label}`]), shown.smoothing,
    (weight) => {
      shown.smoothing = weight;
      redraw();
    });
  const tools = element("div", { class: "tools" }, rangeText, resetButton,
    element("span", { class: "gap" }), tool("along", axes), tool("loss in", units),
    tool("smoothing", smoothing));
  const resumes = element("section", { class: "resumes", hidden: true });
  const samples = element("section", { class: "samples" });
  const checkpoints = element("section", { class: "checkpoints" });
  const settings = element("section", { class: "settings" });

  const [norm, loss, ...small] = charts;
  const exchange = small.pop();
  const teams = element("div");
  const processes = folded("Processes", { class: "processes", hidden: true }, teams,
    exchange.element);
  norm.note.after(spikeList);
  page.append(head, problem, verdict, reading, figures, tools,
    element("div", { class: "stack" }, norm.element, loss.element),
    folded("Coefficient, share of clipped steps, learning rate, speed", { class: "more" },
      element("div", { class: "pair" }, small.map((chart) => chart.element))), maps[0].element,
    time.element, maps[1].element, resumes, processes, samples,
    element("div", { class: "pair" }, settings, checkpoints));

  function zoom(from, to) {
    const whole = series?.whole;
    if (from === null || !whole) range = null;
    else {
      const [first, last] = whole;
      const [low, high] = [Math.max(first, from), Math.min(last, Math.max(to, from + 1))];
      range = low <= first && high >= last ? null : [low, high];
    }
    refresh();
  }

  function redraw() {
    if (!series) return;
    const bits = bitsOfNat(series, about?.settings);
    const unit = shown.unit === "bits" && bits === null ? "nats" : shown.unit;
    loss.setUnit(UNITS[unit].label);
    const checkpoints = about?.checkpoints.map(({ step }) => step) ?? [];
    const { resumes = [], changes = [] } = about ?? {};
    const values = valuesOf(series, { unit, bits, smoothing: shown.smoothing, checkpoints, resumes,
      changes });
    const known = axesOfRun(series, about?.settings);
    const visible = range ?? series.whole ?? [0, 1];
    exchange.element.hidden = values.exchange.length === 0;
    for (const chart of charts) chart.show(values, visible, known[shown.axis] ?? known.step);
    const found = series.spikes;
    fill(spikeList, ...(found.length === 0 ? [] : [
      "Largest: ",
      ...found.map(({ step, norm, times }) => [
        element("a", { href: runAddress(name, step) }, `step ${count(step)}`),
        ` ${significant(norm, 3)} (${significant(times, 2)}×)  `,
      ]).flat(),
    ]));
    const [first, last] = visible;
    rangeText.textContent = range
      ? `Steps ${count(first)} to ${count(last)}`
      : `All ${count(series.rows)} steps`;
    if (series.bucket > 1) rangeText.textContent += `, ${count(series.bucket)} per point`;
    resetButton.hidden = !range;
    page.dataset.rows = String(series.rows);
    page.dataset.last = String(series.whole?.[1] ?? 0);
  }

  async function load() {
    const points = Math.max(200, Math.min(1600, norm.place.clientWidth - 60));
    const [from, to] = range ?? [null, null];
    const [answer, tables] = await Promise.all([
      ask("series", { run: name, from, to, points }),
      ask("maps", { run: name, from, to, points: 240 }),
    ]);
    if (closed) return;
    series = answer;
    showReading(answer.reach);
    redraw();
    maps.forEach((map) => map.show(tables[map.spec.name], tables.ordered));
    showTime(tables);
    showPace();
  }

  /** Shows the judgement of the update sizes beside their map. */
  function showPace() {
    const words = about?.judgement?.update_pace?.words;
    maps[1].say(words ? `${sentence(words)}. ${MAPS[1].how}` : MAPS[1].how);
  }

  function showTime({ time: measured, time_words: words }) {
    time.element.hidden = measured.length === 0;
    if (measured.length === 0) return;
    const values = throughTime(measured);
    time.note.textContent = `${sentence(words)}. ${THROUGH_TIME.how}`;
    time.show(values, [1, values.step.at(-1)]);
  }

  function showReading({ read, length, complete }) {
    reading.hidden = complete;
    const share = length ? read / length : 0;
    fill(reading, `Showing a sample until the log is read: ${bytes(read)} of ${bytes(length)}`,
      element("div", { class: "progress" }, element("i", { style: { width: `${100 * share}%` } })));
  }

  async function loadAbout() {
    about = await ask("run", { run: name });
    if (closed) return;
    showHead();
    showFigures();
    showVerdict();
    showPace();
    showResumes();
    showProcesses();
    showSamples();
    showCheckpoints();
    showSettings();
    redraw();
  }

  function fail(error) {
    if (closed) return;
    // Nothing was shown yet, and empty axes would say less than one sentence.
    if (!about && !series) {
      close();
      return showProblem(page, "There is nothing to show", `${sentence(error.message)}.`);
    }
    problem.hidden = false;
    problem.textContent = error.message;
  }

  const refresh = throttled(() => load().catch(fail), 250);
  const refreshAbout = throttled(() => loadAbout().catch(fail), 2000);

  function showHead() {
    const text = [about.model, about.clip && `clip ${about.clip}`].filter(Boolean).join(" · ");
    fill(head,
      element("div", {}, element("h1", {}, shortName(name)), element("p", { class: "lead" }, text)),
      badge(about.state),
      element("a", { class: "quiet", href: compareAddress([name]) }, "Compare"));
    const said = [];
    if (about.damage) {
      const { line, lines, reason } = about.damage;
      const more = lines > 1 ? `, and ${lines - 1} more` : "";
      said.push(line === null
        ? `Damaged: ${reason}.`
        : `Damaged log: line ${count(line)} is not an event (${reason})${more}. `
          + "The other lines are shown.");
    }
    if (about.message) said.push(sentence(about.message));
    if (about.state === "killed") said.push("The trainer is gone, and the log has no end.");
    problem.hidden = said.length === 0;
    problem.className = `problem ${about.damage ? "damaged" : about.state}`;
    // A verdict includes this command as its next step.
    fill(problem, said.join(" "),
      about.state === "killed" && !about.judgement ? command(about.resume) : null);
  }

  function showFigures() {
    const { step, steps, loss: last, val_loss: val, clipped_share: share, tokens_per_second: speed,
      state } = about;
    const perStep = tokensPerStep(about.settings) ?? NaN;
    const left = state === "running" && speed ? ((steps - step) * perStep) / speed : NaN;
    const figure = (key, label, value, more = null) =>
      element("div", { "data-figure": key }, element("dt", {}, label),
        element("dd", {}, value, more ? element("small", {}, more) : null));
    fill(figures, figure("step", "step", count(step), steps ? ` of ${count(steps)}` : null),
      figure("loss", "loss", significant(last)),
      figure("val", "validation", significant(val), about.best
        ? ` best ${significant(about.best.val_loss)} at step ${count(about.best.step)}`
        : null),
      figure("clipped", "clipped",
        !about.digested ? "…" : about.clip === "none" ? "off" : percent(share),
        [about.skipped ? ` ${count(about.skipped)} skipped` : "",
          about.since ? ` since step ${count(about.since)}` : ""].join("")),
      Number.isFinite(left) && left > 1 ? figure("left", "time left", duration(left)) : null);
    figures.style.setProperty("--done", steps ? String(Math.min(1, step / steps)) : "0");
  }

  function showVerdict() {
    verdict.hidden = !about.judgement;
    if (verdict.hidden) return;
    const { verdict: { tone, sentence: words, numbers, notes, next }, advice,
      gradient_flow: layers } = about.judgement;
    fill(verdict, element("p", { class: `lead ${tone}` }, sentence(words)),
      element("p", { class: "numbers" },
        [numbers, ...notes, layers?.words].filter(Boolean).map((part) =>
          `${sentence(part).replace(/\.$/, "")}. `
        )), advice
      ? element("p", { class: "numbers" }, "Advice: ",
        element("code", {}, `--clip ${advice.policy}`), ` (confidence ${advice.confidence}). `,
        advice.reasons.join(" "))
      : null, next
      ? element("div", { class: "next" }, element("span", {}, "Try next"), command(next))
      : null);
  }

  function showResumes() {
    const { resumes: all, changes } = about;
    resumes.hidden = all.length + changes.length === 0;
    const steps = [...new Set([...all, ...changes].map(({ step }) => step))].sort((a, b) => b - a);
    const went = ({ time, version, checkpoint }) =>
      element("p", {}, `${moment(time)}, from ${checkpoint || "the start"}, by shears ${version}`);
    const changed = ({ name: setting, before, after }) =>
      element("p", { class: "change" }, element("code", {}, setting), ` ${before} → `,
        element("b", {}, after));
    const at = (step) =>
      element("li", {}, element("span", { class: "at" }, `step ${count(step)}`),
        element("div", {}, all.filter((one) => one.step === step).map(went), changes.filter((one) =>
          one.step === step
        ).map(changed)));
    fill(resumes, element("h2", {}, "Resumed"),
      element("p", { class: "how" }, "Newest first. A changed setting applies from the "
        + "next step on; earlier steps are as without the change."),
      element("ol", {}, steps.map(at)));
  }

  /** The processes that train the run, and the cost of their exchanges. */
  function showProcesses() {
    const { ranks, exchanged } = about;
    processes.hidden = ranks.length === 0;
    if (processes.hidden) return;
    const one = ({ step, words, hosts, same_bits: same }) =>
      element("li", {}, element("span", { class: "at" }, `from step ${count(step + 1)}`),
        element("div", {}, element("p", {}, sentence(words)),
          element("p", { class: "how" },
            [same ? "Any other number of ranks that divides its shards gives the same bits." : null,
              hosts.length > 1
                ? `Ranks: ${hosts.map((host, rank) => `${rank} on ${host}`).join(", ")}.`
                : null].filter(Boolean).join(" "))));
    processes.querySelector("summary").textContent = `Processes: ${ranks.at(-1).words}`;
    fill(teams, exchanged ? element("p", { class: "how" }, `${sentence(exchanged)}.`) : null,
      element("ol", {}, ranks.slice().reverse().map(one)));
  }

  function showSamples() {
    const all = about.samples.slice().reverse();
    const one = ({ step, text }) =>
      element("li", {}, element("span", { class: "at" }, `step ${count(step)}`),
        element("blockquote", {}, text));
    samples.hidden = all.length === 0;
    const rest = all.slice(3);
    const wasOpen = samples.querySelector("details")?.open ?? false;
    fill(samples, element("h2", {}, "Samples"),
      element("p", { class: "how" }, `Newest first, ${count(about.all_samples)} in all. `
        + "Words before grammar, grammar before sense."),
      element("ol", {}, all.slice(0, 3).map(one)), rest.length
      ? element("details", { open: wasOpen },
        element("summary", {}, `${count(rest.length)} earlier`), element("ol", {}, rest.map(one)))
      : null);
  }

  function showCheckpoints() {
    const newest = about.checkpoints.slice().reverse();
    const rows = newest.map(({ step, bytes: size, val_loss: loss, best }) =>
      element("tr", {},
        element("td", {}, count(step),
          best ? element("span", { class: "badge best" }, "best") : null),
        element("td", {}, significant(loss)), element("td", {}, bytes(size)))
    );
    fill(checkpoints, element("h2", {}, "Checkpoints"),
      element("p", { class: "how" },
        rows.length ? "States that the run can resume from, newest first." : "None yet."),
      rows.length
        ? element("table", {},
          element("thead", {},
            element("tr", {},
              ["step", "validation loss", "size"].map((label) =>
                element("th", { scope: "col" }, label)
              ))), element("tbody", {}, rows))
        : null);
  }

  function showSettings() {
    const own = about.settings.filter(({ preset }) => preset !== null);
    const differs = own.length === 1 ? "differs" : "differ";
    const row = ({ name, value, preset }) => [
      element("dt", {}, name),
      element("dd", {}, value || "–",
        preset === null ? null : element("small", {}, ` preset ${preset}`)),
    ];
    const wasOpen = settings.querySelector("details")?.open ?? false;
    fill(settings, element("h2", {}, "Settings"), element("p", { class: "how" }, !about.preset_known
      ? "As in plan.toml."
      : own.length
      ? `${own.length} ${differs} from the preset ${about.preset}.`
      : `As in the preset ${about.preset}.`), element("dl", { class: "own" }, own.map(row)),
      element("details", { open: wasOpen },
        element("summary", {}, `All ${about.settings.length} settings`),
        element("dl", {}, about.settings.map(row))));
  }

  let stop = () => {};
  refresh();
  refreshAbout();
  stop = watch([name], (news) => {
    const pulse = news.find((one) => one.name === name);
    if (!pulse || pulse.gone) return fail(new Error("The folder of this run is gone."));
    const figure = figures.querySelector("[data-figure=step] dd");
    if (figure?.firstChild) figure.firstChild.textContent = count(pulse.step);
    if (pulse.reach) showReading(pulse.reach);
    refresh();
    refreshAbout();
  });

  function scaled(factor) {
    const [first, last] = range ?? series?.whole ?? [0, 1];
    const half = Math.max(2, ((last - first) * factor) / 2);
    const middle = (first + last) / 2;
    zoom(Math.floor(middle - half), Math.ceil(middle + half));
  }

  function moved(share) {
    if (!range || !series?.whole) return false;
    const by = Math.round((range[1] - range[0]) * share);
    const bounded = Math.max(series.whole[0] - range[0], Math.min(series.whole[1] - range[1], by));
    zoom(range[0] + bounded, range[1] + bounded);
  }

  const keys = {
    l: () => {
      const log = !norm.log || !loss.log;
      norm.setLog(log);
      loss.setLog(log);
    },
    u: () => units.select(cycle(Object.keys(UNITS), shown.unit)),
    s: () => smoothing.select(cycle(SMOOTHING.map(([weight]) => weight), shown.smoothing)),
    0: () => zoom(null),
    "+": () => scaled(0.5),
    "=": () => scaled(0.5),
    "-": () => scaled(2),
    ArrowLeft: () => moved(-0.25),
    ArrowRight: () => moved(0.25),
  };
  function close() {
    closed = true;
    stop();
    refresh.stop();
    refreshAbout.stop();
    for (const one of [...charts, time, ...maps]) one.close();
  }
  return { close, keys, title: shortName(name), crumbs: [[shortName(name)]] };
}
