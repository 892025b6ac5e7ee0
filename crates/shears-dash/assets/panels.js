// The charts of a run's page: what each shows, and how its values come from the server's series.

import { axesOf } from "./axes.js";
import { choice } from "./elements.js";
import { count, percent, significant } from "./format.js";
import { marked, placed, smoothed } from "./series.js";

/** The units of the loss, and the conversion from nats. */
export const UNITS = {
  nats: { label: "nats per token", of: (value) => value },
  bits: { label: "bits per character", of: (value, bits) => value * bits },
  perplexity: { label: "perplexity", of: (value) => Math.exp(value) },
};

/** Strengths of smoothing. */
export const SMOOTHING = [[0, "none"], [0.6, "light"], [0.9, "medium"], [0.97, "strong"]];

/**
 * Marks where a run was resumed, above other marks at the same steps: with the same settings, and
 * with others.
 */
const RESUMED = [
  { key: "resumes", shape: "play", colour: "--second", label: "resumed", row: 1 },
  { key: "changes", shape: "square", colour: "--second", label: "resumed with other settings",
    row: 1, line: true },
];

/** The charts. Keys are those of `valuesOf`. The first two share their horizontal axis. */
export const PANELS = [
  {
    name: "norm",
    title: "Gradient norm",
    unit: "before clipping",
    height: 270,
    log: true,
    cut: true,
    bare: true,
    marks: [
      { key: "skips", shape: "triangle", colour: "--skip", label: "skipped" },
      { key: "not_finite", shape: "cross", colour: "--bad", label: "not finite" },
      ...RESUMED,
    ],
    how: "The coloured part was cut off before the optimizer saw it; a dashed line is the "
      + "threshold of this norm. Click a spike to see what was in it.",
    bands: [{ low: "norm_min", high: "norm_max", colour: "--band" }],
    lines: [
      { key: "norm_mean", colour: "--ink-line", width: 1.4 },
      { key: "threshold", colour: "--accent", width: 1.2, dash: [5, 4], broken: true },
    ],
    readout: (values, at) => [
      ["norm", span(values.norm_min[at], values.norm_max[at]), "--ink-line"],
      ["threshold", significant(values.threshold[at]), null],
      ...(values.cut_top[at] === null
        ? []
        : [["cut to", significant(values.cut_bottom[at]), "--accent"]]),
      ...(values.skips[at] ? [["skipped", count(values.skips[at]), "--skip"]] : []),
      ...(values.not_finite[at] ? [["not finite", count(values.not_finite[at]), "--bad"]] : []),
    ],
  },
  {
    name: "loss",
    title: "Loss",
    unit: "nats per token",
    height: 250,
    robust: true,
    marks: [{ key: "checkpoints", shape: "diamond", colour: "--muted", label: "checkpoint" },
      ...RESUMED],
    how: "Training (line) and validation (dots). Where the validation loss rises while "
      + "the training loss still falls, the model overfits.",
    bands: [{ low: "loss_min", high: "loss_max", colour: "--band" }],
    lines: [
      { key: "loss", colour: "--ink-line", width: 1.6 },
      { key: "val", colour: "--second", width: 1.6, points: true, gaps: true },
    ],
    readout: (values, at) => [
      ["training", significant(values.loss[at]), "--ink-line"],
      ["validation", significant(values.latest_val[at]), "--second"],
    ],
  },
  {
    name: "coefficient",
    title: "Coefficient",
    unit: "norm after / norm before",
    height: 170,
    bounds: [0, 1.04],
    how: "At 1 the gradient is unchanged. The lower, the more was cut off; at 0 the step "
      + "was skipped.",
    bands: [{ low: "coefficient_min", high: "coefficient_max", colour: "--band" }],
    lines: [{ key: "coefficient", colour: "--ink-line" }],
    readout: (values, at) =>
      [["coefficient", span(values.coefficient_min[at], values.coefficient_max[at]), null]],
  },
  {
    name: "share",
    title: "Steps clipped",
    unit: "share of the last 100",
    height: 170,
    bounds: [0, 1.04],
    logarithmic: false,
    how: "Near 0 the threshold is idle. Near 1 it acts at every step, as a second learning rate.",
    lines: [{ key: "share", colour: "--accent" }],
    readout: (values, at) => [["clipped", percent(values.share[at]), null]],
  },
  {
    name: "lr",
    title: "Learning rate",
    unit: "factor of the update",
    height: 170,
    zero: true,
    marks: RESUMED,
    how: "Warm-up and decay of the schedule. Compare its jumps with those of the loss.",
    lines: [{ key: "lr", colour: "--ink-line" }],
    readout: (values, at) => [["rate", significant(values.lr[at]), null]],
  },
  {
    name: "speed",
    title: "Speed",
    unit: "tokens per second",
    height: 170,
    zero: true,
    how: "Dips are evaluations, checkpoints, or another program on the same machine.",
    bands: [{ low: "speed_min", high: "speed_max", colour: "--band" }],
    lines: [{ key: "speed", colour: "--ink-line" }],
    readout: (values, at) => [["tokens/s", count(values.speed[at]), null]],
  },
  // Only for several processes.
  {
    name: "exchange",
    title: "Exchange between processes",
    unit: "ms per step",
    height: 170,
    zero: true,
    how: "The time of the gradient exchange in the first rank, including the wait for "
      + "the slowest, which is also shown by itself.",
    lines: [{ key: "exchange", colour: "--ink-line" }, { key: "waited", colour: "--accent" }],
    readout: (values, at) =>
      [["exchange", significant(values.exchange[at], 3), "--ink-line"], ["slowest behind",
      significant(values.waited[at], 3), "--accent"]],
  },
];

/** The two heat maps. */
export const MAPS = [
  {
    name: "norms",
    title: "Gradient norm of each tensor",
    unit: "before clipping",
    relative: true,
    palette: ["--heat-0", "--heat-1", "--heat-2", "--heat-3"],
    how: "Faint is small, strong is large, on a logarithmic scale. Rows that fade "
      + "towards the first layer are vanishing gradients; strong columns are spikes.",
    none: "No step in this range has tensor norms.",
  },
  {
    name: "ratios",
    title: "Update size relative to the weights",
    unit: "every tenth step",
    weights: true,
    palette: ["--heat-less", "--heat-middle", "--heat-more"],
    ordinary: [1e-5, 0.1],
    how: "Ordinary sizes have hardly any colour; warm rows change fast, cool rows "
      + "slowly. Biases start at zero, where any update is relatively large, so they "
      + "are hidden at first.",
    none: "The log of this run has no update sizes; newer versions write them every tenth step.",
  },
];

/** How far gradients reach back in time, in recurrent models. */
export const THROUGH_TIME = {
  name: "time",
  title: "Gradients through time",
  unit: "norm, with respect to earlier states",
  height: 200,
  log: true,
  whole: true,
  how: "How much the loss at one token depends on the state carried some tokens before. "
    + "Where the line falls steeply, the model cannot learn longer dependencies.",
  lines: [
    { key: "first", colour: "--second", width: 1.2, dash: [4, 3] },
    { key: "last", colour: "--ink-line", width: 1.6 },
  ],
  at: (back) => `${count(back)} ${back === 1 ? "token" : "tokens"} back`,
  readout: (values, at) => [
    ...(values.first[at] === null
      ? []
      : [[`step ${count(values.steps[0])}`, significant(values.first[at], 3), "--second"]]),
    [`step ${count(values.steps.at(-1))}`, significant(values.last[at], 3), "--ink-line"],
  ],
};

/** The chart's values from the first and the last measurement. */
export function throughTime(measured) {
  const last = measured.at(-1).norms;
  const first = measured.length > 1 ? measured[0].norms : [];
  return {
    step: last.map((_, place) => place + 1),
    steps: measured.map(({ step }) => step),
    first: last.map((_, place) => first[place] ?? null),
    last,
  };
}

function span(low, high) {
  if (low === high || low === undefined) return significant(high);
  return `${significant(low, 3)} … ${significant(high, 3)}`;
}

/** The switch between units. */
export function unitChoice(unit, pick) {
  return choice("Unit of the loss", [
    ["nats", "nats", "Nats per token"],
    ["bits", "bits/char", "Bits per character"],
    ["perplexity", "perplexity", "exp(loss)"],
  ], unit, pick);
}

/** A loss in another unit; null if it is not finite. */
export function inUnit(value, unit, bits) {
  if (value === null) return null;
  const converted = UNITS[unit].of(value, bits);
  return Number.isFinite(converted) ? converted : null;
}

/** Bits per character of one nat per token; null if no evaluation shows it. */
export function bitsOfNat(series, settings) {
  const known = series.evaluations.find(({ val_loss: loss, bits_per_char: bits }) =>
    loss > 0 && bits > 0
  );
  if (known) return known.bits_per_char / known.val_loss;
  const tokenizer = settings?.find(({ name }) => name === "tokenizer")?.value;
  return tokenizer === "char" ? 1 / Math.LN2 : null;
}

/** Tokens per step, from a run's settings. */
export function tokensPerStep(settings) {
  const factors = settings?.filter(({ name }) => ["batch", "window", "accumulate"].includes(name))
    ?? [];
  return factors.length ? factors.reduce((product, { value }) => product * Number(value), 1) : null;
}

/** The possible horizontal axes of a run's charts. */
export function axesOfRun(series, settings) {
  const tokens = tokensPerStep(settings);
  const { step, seconds_per_token: seconds } = series;
  return axesOf(step, tokens && step.map((one) => one * tokens),
    tokens && seconds.map((one) => one * tokens));
}

/** The switch between axes. */
export function axisChoice(axis, pick) {
  return choice("Horizontal axis", [
    ["step", "steps", "Steps"],
    ["tokens", "tokens", "Tokens trained on"],
    ["time", "time", "Time spent on steps"],
  ], axis, pick);
}

/** The values of all charts, from the server's series. */
export function valuesOf(
  series,
  { unit, bits, smoothing, checkpoints = [], resumes = [], changes = [] },
) {
  const convert = (value) => inUnit(value, unit, bits);
  const { step, norm, loss, cut, coefficient, tokens_per_second: speed } = series;
  const val = placed(step, series.evaluations.map((one) => [one.step, one.val_loss])).map(convert);
  let latest = null;
  return {
    step,
    peak: series.norm_peak,
    norm_min: norm.min,
    norm_mean: norm.mean,
    norm_max: norm.max,
    threshold: series.threshold,
    cut_top: cut.top,
    cut_bottom: cut.bottom,
    skips: series.skipped.map((skipped, place) => Math.max(0, skipped - series.not_finite[place])),
    not_finite: series.not_finite,
    checkpoints: marked(step, checkpoints),
    resumes: marked(step,
      resumes.map((one) => one.step).filter((at) => !changes.some((change) => change.step === at))),
    changes: marked(step, changes.map((change) => change.step)),
    loss: smoothed(loss.mean, smoothing).map(convert),
    loss_min: loss.min.map(convert),
    loss_max: loss.max.map(convert),
    val,
    latest_val: val.map((value) => (latest = value ?? latest)),
    coefficient: coefficient.mean,
    coefficient_min: coefficient.min,
    coefficient_max: coefficient.max,
    share: series.clipped_share,
    lr: series.lr,
    exchange: smoothed(series.exchange_ms, smoothing),
    waited: smoothed(series.waited_ms, smoothing),
    speed: smoothed(speed.mean, smoothing),
    speed_min: speed.min,
    speed_max: speed.max,
  };
}
