// The axes of charts.

import { amount, clock, count } from "./format.js";

/** Marks on a logarithmic axis: powers of ten, times 1, 2 and 5 or 1 to 9 if there is room. */
export function logarithmicMarks(low, high, room) {
  const decades = Math.log10(high / low);
  const most = Math.max(2, room / 34);
  let factors = [1];
  if (decades * 9 <= most) factors = [1, 2, 3, 4, 5, 6, 7, 8, 9];
  else if (decades * 3 <= most) factors = [1, 2, 5];
  const every = Math.max(1, Math.ceil(decades / most));
  const marks = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power += 1) {
    if (power % every !== 0) continue;
    for (const factor of factors) {
      const mark = factor * 10 ** power;
      if (mark >= low && mark <= high) marks.push(mark);
    }
  }
  // Less than a decade may contain no such number.
  return marks.length > 1 ? marks : [low, Math.sqrt(low * high), high];
}

/** Round numbers from `low` to `high`, about `most` of them. */
function round(low, high, most, factors = [1, 2, 5, 10]) {
  const raw = (high - low) / Math.max(1, most);
  if (!(raw > 0)) return [low];
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = factors.map((factor) => factor * power).find((size) => size >= raw) ?? 10 * power;
  const marks = [];
  for (let mark = Math.ceil(low / step) * step; mark <= high; mark += step) marks.push(mark);
  return marks;
}

/** Round times from `low` to `high`, about `most` of them. */
function roundTimes(low, high, most) {
  const spans = [1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400, 28800,
    43200, 86400];
  const span = spans.find((size) => size >= (high - low) / Math.max(1, most));
  if (!span || high - low < 10) return round(low, high, most);
  const marks = [];
  for (let mark = Math.ceil(low / span) * span; mark <= high; mark += span) marks.push(mark);
  return marks;
}

/** A horizontal axis: `of` converts a step to a value on it, and `back` a value to a step. */
export const STEP_AXIS = { name: "step", of: (step) => step, back: (step) => step, marks: round,
  format: count, say: (step) => `step ${count(step)}` };

/** The axes of a run: steps and, if known, the tokens and the time that they took. */
export function axesOf(step, tokens, seconds) {
  const inverse = (values) => (value) => {
    let place = values.findIndex((known) => known >= value);
    if (place < 0) place = values.length - 1;
    if (place === 0) return values[0] > 0 ? (step[0] * value) / values[0] : step[0];
    const share = (value - values[place - 1]) / (values[place] - values[place - 1] || 1);
    return step[place - 1] + Math.min(1, share) * (step[place] - step[place - 1]);
  };
  const at = (values) => (one) => {
    let place = step.findIndex((known) => known >= one);
    if (place < 0) place = step.length - 1;
    if (place === 0) return step[0] > 0 ? (values[0] * one) / step[0] : values[0];
    return values[place - 1]
      + ((values[place] - values[place - 1]) * (one - step[place - 1]))
        / (step[place] - step[place - 1] || 1);
  };
  const named = (name, values, marks, format) => ({
    name,
    of: at(values),
    back: inverse(values),
    marks,
    format,
    say: (one) => {
      const place = format(at(values)(one));
      return `step ${count(one)}, ${name === "time" ? place : `${place} ${name}`}`;
    },
  });
  return {
    step: STEP_AXIS,
    tokens: tokens && step.length ? named("tokens", tokens, round, amount) : null,
    time: seconds && step.length ? named("time", seconds, roundTimes, clock) : null,
  };
}
