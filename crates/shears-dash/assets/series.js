// Values over the steps of a chart: smoothing, and placing values of other steps.

/** The running median, in which a spike leaves no trace; gaps stay gaps. */
function medians(values, side) {
  const around = (place) =>
    values.slice(Math.max(0, place - side), place + side + 1).filter((one) => one !== null)
      .sort((a, b) => a - b);
  // The lower of two: at an end, half of the few values may be a spike.
  const lower = (sorted) => sorted[Math.floor((sorted.length - 1) / 2)];
  return values.map((value, place) => (value === null ? null : lower(around(place))));
}

/** Exponential smoothing of running medians, corrected for the bias of its start. */
export function smoothed(values, weight) {
  if (!weight) return values;
  let [mean, known] = [0, 0];
  return medians(values, weight < 0.9 ? 3 : 7).map((value) => {
    if (value === null) return null;
    mean = weight * mean + (1 - weight) * value;
    known = weight * known + (1 - weight);
    return mean / known;
  });
}

/** Sets a mark at the first position at or after each step. */
export function marked(steps, points) {
  const last = steps.at(-1) ?? 0;
  return placed(steps, points.filter((step) => step <= last).map((step) => [step, true]));
}

/** Puts values at the first position of a chart's steps at or after their own. */
export function placed(steps, points) {
  const column = new Array(steps.length).fill(null);
  let place = 0;
  for (const [step, value] of points) {
    while (place < steps.length - 1 && steps[place] < step) place += 1;
    if (steps.length > 0) column[place] = value;
  }
  return column;
}
