// Numbers as people read them.

const grouped = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

/** A whole number with separators. */
export function count(value) {
  return value === null || value === undefined ? "–" : grouped.format(value);
}

/** A number with some significant digits; "–" where there is none. */
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

/** A label of an axis: short, without digits that say nothing. */
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

/** A share as percent. */
export function percent(share, digits = 3) {
  if (share === null || share === undefined) return "–";
  const rounded = Number((100 * share).toPrecision(digits));
  // All of it only if it is all.
  return rounded === 100 && share < 1 ? "more than 99.9 %" : `${rounded} %`;
}

/** A large amount in short, such as 3.2M. */
export function amount(value) {
  const [size, unit] = [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]].find(([size]) => value >= size) ?? [1, ""];
  return `${Number((value / size).toPrecision(3))}${unit}`;
}

/** A moment of a run, in seconds since it began. */
export function clock(seconds) {
  if (seconds < 120) return `${Number(seconds.toPrecision(3))} s`;
  if (seconds < 7200) return `${Number((seconds / 60).toPrecision(3))} min`;
  return `${Number((seconds / 3600).toPrecision(3))} h`;
}

/** A span of time in seconds, in two units at most. */
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

/** A time in seconds since 1970 as a date and a time of this place. */
export function moment(seconds) {
  return seconds < 8e12 ? dated.format(new Date(1000 * seconds)) : "–";
}

/** A phrase as the beginning of a sentence. */
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

/** The last part of a run's name, where it is nested. */
export function shortName(name) {
  return name === "." ? "this run" : name;
}
