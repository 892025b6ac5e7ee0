// Numbers for people.

const grouped = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

/** A whole number with separators. */
export function count(value) {
  return value === null || value === undefined ? "–" : grouped.format(value);
}

/** A number with some significant digits; "–" if there is none. */
export function significant(value, digits = 4) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e6 || size < 1e-4) {
    return value.toExponential(Math.max(digits - 2, 1)).replace("e+", "e").replace(/\.?0+e/, "e");
  }
  if (size >= 10 ** digits) return count(value);
  return value.toPrecision(digits);
}

/** An axis label, short and without superfluous digits. */
export function tick(value) {
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e6 || size < 1e-3) {
    return value.toExponential(2).replace("e+", "e").replace(/\.?0+e/, "e");
  }
  if (size >= 1e4) return `${Number((value / 1000).toPrecision(4))}k`;
  if (size >= 1000) return count(value);
  return String(Number(value.toPrecision(4)));
}

/** A share as a percentage. */
export function percent(share) {
  if (share === null || share === undefined) return "–";
  const rounded = Number((100 * share).toPrecision(3));
  // 100 % only if it is exact.
  return rounded === 100 && share < 1 ? "more than 99.9 %" : `${rounded} %`;
}

/** A large amount, abbreviated: 3.2M. */
export function amount(value) {
  const [size, unit] =
    [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]].find(([size]) => value >= size) ?? [1, ""];
  return `${Number((value / size).toPrecision(3))}${unit}`;
}

/** A moment of a run, in seconds since its start. */
export function clock(seconds) {
  if (seconds < 120) return `${Number(seconds.toPrecision(3))} s`;
  if (seconds < 7200) return `${Number((seconds / 60).toPrecision(3))} min`;
  return `${Number((seconds / 3600).toPrecision(3))} h`;
}

/** A duration in seconds, in at most two units. */
export function duration(seconds) {
  if (!Number.isFinite(seconds)) return "–";
  if (seconds < 60) return `${Math.max(1, Math.round(seconds))} s`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 60) return `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  if (hours < 48) return `${hours} h ${minutes % 60} min`;
  return `${Math.round(hours / 24)} days`;
}

/** How long ago a time in seconds since 1970 was. */
export function ago(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  const past = Date.now() / 1000 - seconds;
  return past < 5 ? "now" : `${duration(past)} ago`;
}

const dated = new Intl.DateTimeFormat("sv", { dateStyle: "short", timeStyle: "short" });

/** A time in seconds since 1970 as local date and time. */
export function moment(seconds) {
  return seconds < 8e12 ? dated.format(new Date(1000 * seconds)) : "–";
}

/** A phrase with a capital first letter. */
export function sentence(phrase) {
  return phrase.charAt(0).toUpperCase() + phrase.slice(1);
}

/** A size in bytes. */
export function bytes(size) {
  const units = ["B", "kB", "MB", "GB"];
  let unit = 0;
  while (size >= 1000 && unit < units.length - 1) {
    size /= 1000;
    unit += 1;
  }
  return `${Number(size.toPrecision(3))} ${units[unit]}`;
}

/** The name of a run, or of the folder if that is the run. */
export function shortName(name) {
  return name === "." ? "this run" : name;
}
