// Line charts over steps: uPlot with our axes and zoom, a shared crosshair, and the cut-off part of
// gradients in colour.

import { STEP_AXIS, logarithmicMarks } from "./axes.js";
import { button, colour, element, fill } from "./elements.js";
import { tick } from "./format.js";
import { SHAPES, paintShape } from "./marks.js";

const PLOT = window.uPlot;
const FONT = "11px system-ui, -apple-system, \"Segoe UI\", sans-serif";

/** uPlot does not label axes with larger values. */
const LABELLED = 1e16;

/** The step under the pointer, shared by all charts of a page. */
export class Crosshair {
  #listeners = new Set();

  listen(listener) {
    this.#listeners.add(listener);
  }

  /** Passes a step, or null for none, to all listeners but `source`. */
  move(step, source) {
    for (const listener of this.#listeners) {
      if (listener !== source) listener(step);
    }
  }
}

/**
 * A chart. `spec` has: `title`, `unit`, `how` (how to read it), `lines` (`{key, label, colour,
 * width, dash, points, gaps, broken}`), `bands` (`{low, high, colour}`, keys of values), `cut`
 * (whether the area between `cut_top` and `cut_bottom` is shaded), `log`, `zero` (whether the axis
 * starts at 0), `robust` (whether a few outliers may leave the chart), `whole` (whether none may),
 * `height`, `readout` (for an index: an array of `[label, text, colour]`), `marks` (`{key, shape,
 * colour, label, row, line}`: drawn where the values of `key` are set, `row` rows above the lowest,
 * and with a line through the chart), `bare` (whether the chart below labels the horizontal axis),
 * `at` (formats a position on that axis). `values.crosses` (`{step, key, colour}`) mark where runs
 * died.
 */
export class Chart {
  constructor(spec, { crosshair, zoom, reset, open }) {
    this.spec = spec;
    this.log = spec.log ?? false;
    this.values = { step: [] };
    this.range = null;
    this.axis = { ...STEP_AXIS, ...(spec.at ? { say: spec.at } : {}) };
    this.actions = { zoom, reset, open };
    this.crosshair = crosshair;
    this.follow = (step) => this.#follow(step);
    crosshair.listen(this.follow);
    this.readout = element("output", { class: "readout" });
    this.note = element("p", { class: "how" }, spec.how);
    this.unit = element("span", { class: "unit" }, spec.unit);
    this.beyond = element("span", { class: "beyond" });
    this.legend = element("p", { class: "marks" });
    this.place = element("div", { class: "plot", style: { height: `${spec.height}px` } },
      this.beyond);
    this.logButton = spec.logarithmic === false
      ? null
      : button("log", () => this.setLog(!this.log), { class: "toggle",
        title: "Logarithmic scale (l)" });
    this.element = element("section", { class: `chart ${spec.nearest ? "wide" : ""}`,
      "data-chart": spec.name },
      element("header", {}, element("h2", {}, spec.title, " ", this.unit), this.readout,
        this.logButton), this.place, this.legend, this.note);
    this.#showLog();
    this.observer = new ResizeObserver(() => this.#resize());
    this.observer.observe(this.place);
    this.themed = () => this.plot?.redraw(false);
    document.addEventListener("theme", this.themed);
  }

  close() {
    this.observer.disconnect();
    document.removeEventListener("theme", this.themed);
    this.plot?.destroy();
    this.plot = null;
  }

  setLog(log) {
    if (this.spec.logarithmic === false) return;
    this.log = log;
    this.#showLog();
    this.plot?.destroy();
    this.plot = null;
    this.#draw();
  }

  setUnit(unit) {
    this.unit.textContent = unit;
  }

  /**
   * Shows values: `step`, and an array of the same length for each key, over `range`, `[from, to]`;
   * `axis` is one of `axesOf`.
   */
  show(values, range, axis = this.axis) {
    this.values = values;
    this.range = range;
    const named = axis.name !== this.axis.name;
    this.axis = axis;
    this.ordinary = this.#ordinary();
    this.#draw();
    // The labels change although the ends are the same.
    if (named) this.plot?.redraw(false, true);
    this.#read(null);
    const marks = (this.spec.marks ?? []).filter(({ key }) => values[key]?.some(Boolean));
    fill(this.legend, marks.map(({ shape, colour: name, label }) =>
      element("span", {}, element("i", { style: { color: `var(${name})` } }, SHAPES[shape]), label)
    ));
  }

  /** The range of most values, so that a few outliers do not flatten all others. */
  #ordinary() {
    const all = this.#keys().flatMap((key) => this.values[key] ?? []).filter((value) =>
      value !== null && value !== undefined
    );
    all.sort((a, b) => a - b);
    const at = (share) => all[Math.floor(share * (all.length - 1))];
    // Among few steps, the last of which explode, the upper quantiles are not ordinary.
    const [most, times] = all.length < 100 ? [0.5, 10] : [0.98, 3];
    return all.length ? { low: at(0.02), middle: at(0.5), high: at(most), times } : null;
  }

  /** The upper end of the axis; a note says how far lines extend beyond it. */
  #top(high) {
    const { ordinary } = this;
    if (!ordinary) return high;
    const { low, middle, high: most, times } = ordinary;
    if (this.spec.whole) return high;
    if (this.log) return middle > 0 ? Math.min(high, middle * 1e9) : high;
    if (!this.spec.robust) return high;
    const limit = most + times * (most - low);
    if (high <= limit || !(most > low)) return high;
    const inside = this.#keys().flatMap((key) => this.values[key] ?? []).filter((value) =>
      value !== null && value <= limit
    );
    return Math.max(...inside);
  }

  #showLog() {
    this.logButton?.setAttribute("aria-pressed", String(this.log));
    this.element.dataset.scale = this.log ? "log" : "linear";
  }

  #keys() {
    const { lines, bands = [], cut } = this.spec;
    return [...bands.flatMap(({ high, low }) => [high, low]),
      ...(cut ? ["cut_top", "cut_bottom"] : []), ...lines.map(({ key }) => key)];
  }

  #data() {
    const steps = this.values.step;
    const shown = (value) =>
      value === null || value === undefined || (this.log && value <= 0) ? null : value;
    const columns = this.#keys().map((key) => {
      const column = this.values[key];
      return column ? column.map(shown) : new Array(steps.length).fill(null);
    });
    return [steps, ...columns];
  }

  #draw() {
    const width = this.place.clientWidth;
    if (!width || !PLOT) return;
    if (!this.plot) this.plot = new PLOT(this.#options(width), this.#data(), this.place);
    else this.plot.setData(this.#data(), true);
  }

  #resize() {
    if (!this.plot) return this.#draw();
    const { clientWidth: width, clientHeight: height } = this.place;
    if (width && width !== this.plot.width) this.plot.setSize({ width, height });
  }

  #options(width) {
    const { lines, bands = [], cut, height } = this.spec;
    const hidden = () => ({ stroke: null, width: 0, points: { show: false } });
    const series = [
      {},
      ...bands.flatMap(() => [hidden(), hidden()]),
      ...(cut ? [hidden(), hidden()] : []),
      ...lines.map((line) => (line.broken ? hidden() : {
        stroke: () => colour(line.colour),
        width: line.width ?? 1.5,
        dash: line.dash,
        spanGaps: line.gaps ?? false,
        points: line.points
          ? { show: true, size: 6, fill: () => colour("--surface"),
            stroke: () => colour(line.colour), width: 1.5 }
          : { show: (plot) => this.values.step.length < 3, size: 5 },
      })),
    ];
    return {
      width,
      height,
      series,
      padding: [10, 26, 0, 0],
      legend: { show: false },
      bands: bands.map((band, place) => ({ series: [1 + 2 * place, 2 + 2 * place],
        fill: () => colour(band.colour) })
      ),
      scales: {
        x: { time: false, range: (plot, low, high) => this.#steps(low, high) },
        y: { distr: this.log ? 3 : 1, range: (plot, low, high) => this.#heights(low, high) },
      },
      axes: this.#axes(width),
      cursor: {
        drag: { x: true, y: false, setScale: false },
        points: { size: 7, fill: () => colour("--surface"), width: 2 },
        bind: { dblclick: () => () => {
          this.actions.reset();
          return null;
        } },
      },
      hooks: {
        setSelect: [(plot) => this.#selected(plot)],
        setCursor: [(plot) => this.#pointed(plot)],
        draw: [(plot) => this.#paint(plot)],
        ready: [(plot) => this.#clicks(plot)],
      },
    };
  }

  #axes(width) {
    const look = { stroke: () => colour("--muted"), font: FONT, ticks: { show: false },
      border: { show: false } };
    const grid = { stroke: () => colour("--grid"), width: 1 };
    const logarithmic = {
      splits: (plot) => {
        const { min, max } = plot.scales.y;
        return min > 0 ? logarithmicMarks(min, max, plot.bbox.height / devicePixelRatio) : [];
      },
      filter: (plot, marks) => marks,
    };
    const { bare } = this.spec;
    return [
      { ...look, size: bare ? 4 : 26, gap: 6, grid: { ...grid, show: Boolean(bare) },
        splits: (plot, axis, low, high) => {
          const { of, back, marks } = this.axis;
          return marks(of(low), of(high), width / (width < 500 ? 84 : 110)).map(back);
        }, filter: (plot, marks) => marks, values: (
          plot,
          marks,
        ) => (bare
          ? marks.map(() => "")
          : marks.map((step) => this.axis.format(this.axis.of(step)))) },
      { ...look, size: width < 500 ? 46 : 56, gap: 6, space: 36, grid,
        values: (plot, marks) => marks.map(tick), ...(this.log ? logarithmic : {}) },
    ];
  }

  #steps(low, high) {
    const [from, to] = this.range ?? [low ?? 0, high ?? 1];
    return to > from ? [from, to] : [from - 1, from + 1];
  }

  #heights(low, high) {
    if (low === null || high === null || !Number.isFinite(low) || !Number.isFinite(high))
      return this.log ? [0.1, 10] : [0, 1];
    if (this.spec.bounds && !this.log) return this.spec.bounds;
    const top = Math.max(low, Math.min(LABELLED, this.#top(high)));
    this.beyond.textContent = top < high ? `↑ up to ${tick(Number(high.toPrecision(3)))}` : "";
    if (this.log) {
      const pad = Math.max(1.04, (top / low) ** 0.06);
      return [low / pad, top * pad];
    }
    const pad = (top - low || Math.abs(top) || 1) * 0.06;
    const bottom = this.spec.zero && low >= 0 ? 0 : low - pad;
    return [bottom, top + pad];
  }

  #selected(plot) {
    const { left, width } = plot.select;
    if (width < 4) return;
    const [from, to] = [plot.posToVal(left, "x"), plot.posToVal(left + width, "x")];
    plot.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
    this.actions.zoom(Math.floor(from), Math.ceil(to));
  }

  #pointed(plot) {
    const place = plot.cursor.left >= 0 ? plot.cursor.idx : null;
    this.#read(place);
    if (!this.following)
      this.crosshair.move(place === null || place === undefined ? null : this.values.step[place],
        this.follow);
  }

  #follow(step) {
    if (!this.plot) return;
    this.following = true;
    const left = step === null ? -10 : this.plot.valToPos(step, "x");
    this.plot.setCursor({ left, top: step === null ? -10 : 0 });
    this.following = false;
  }

  #read(place) {
    const marked = this.values.at === undefined ? -1 : this.values.step.indexOf(this.values.at);
    const at = place ?? (marked >= 0 ? marked : this.values.step.length - 1);
    if (at < 0) return fill(this.readout);
    const parts = this.spec.readout(this.values, at);
    const now = place === null && marked < 0;
    fill(this.readout,
      element("span", { class: "at" },
        `${now ? "now at " : ""}${this.axis.say(this.values.step[at])}`),
      ...parts.map(([label, text, name]) =>
        element("span", {},
          name ? element("i", { class: "key", style: { background: `var(${name})` } }) : null,
          label, " ", element("b", {}, text))
      ));
  }

  /** A click that does not end a drag opens the step, or the largest gradient of its bucket. */
  #clicks(plot) {
    let down = null;
    plot.over.addEventListener("mousedown", (event) => {
      down = [event.clientX, event.clientY];
    });
    plot.over.addEventListener("click", (event) => {
      const moved = down && Math.hypot(event.clientX - down[0], event.clientY - down[1]) > 3;
      const place = plot.cursor.idx;
      if (moved || place === null || place === undefined || event.detail > 1) return;
      clearTimeout(this.clicked);
      const step = this.values.peak?.[place] ?? this.values.step[place];
      const key = this.spec.nearest ? this.#nearest(plot, place) : null;
      // Wait, in case it becomes a double click.
      this.clicked = setTimeout(() => this.actions.open(step, key), 220);
    });
    plot.over.addEventListener("dblclick", () => clearTimeout(this.clicked));
  }

  /** The key of the line nearest to the pointer. */
  #nearest(plot, place) {
    const distance = ({ key }) => {
      const column = this.values[key] ?? [];
      const known = column.findLastIndex((value, at) =>
        at <= place && value !== null && value !== undefined
      );
      return known < 0 ? Infinity : Math.abs(plot.valToPos(column[known], "y") - plot.cursor.top);
    };
    const lines = this.spec.lines.filter(({ broken }) => !broken);
    return lines.reduce((near, line) => (distance(line) < distance(near) ? line : near)).key;
  }

  #paint(plot) {
    if (this.values.at !== undefined) this.#paintAt(plot);
    for (const line of this.spec.lines) if (line.broken) this.#paintBroken(plot, line);
    if (this.spec.cut) this.#paintCut(plot);
    for (const mark of this.spec.marks ?? []) this.#paintMark(plot, mark);
    for (const cross of this.values.crosses ?? []) this.#paintCross(plot, cross);
  }

  /** Highlights the step that the page shows. */
  #paintAt(plot) {
    const { ctx, bbox } = plot;
    ctx.save();
    ctx.fillStyle = colour("--band");
    const width = 9 * devicePixelRatio;
    ctx.fillRect(plot.valToPos(this.values.at, "x", true) - width / 2, bbox.top, width,
      bbox.height);
    ctx.restore();
  }

  /**
   * Draws a line with breaks where it jumps, such as a threshold that another rule sets at single
   * steps.
   */
  #paintBroken(plot, line) {
    const { ctx, bbox } = plot;
    const { step } = this.values;
    const values = this.values[line.key] ?? [];
    const half = 3 * devicePixelRatio;
    ctx.save();
    ctx.beginPath();
    ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
    ctx.clip();
    ctx.strokeStyle = colour(line.colour);
    ctx.lineWidth = line.width * devicePixelRatio;
    ctx.setLineDash(line.dash.map((length) => length * devicePixelRatio));
    ctx.beginPath();
    let before = null;
    step.forEach((at, place) => {
      const value = values[place] ?? null;
      if (value === null || (this.log && value <= 0)) return;
      const [x, y] = [plot.valToPos(at, "x", true), plot.valToPos(value, "y", true)];
      const jumps = before === null || Math.abs(value - before) > 0.1 * Math.max(value, before);
      if (jumps) ctx.moveTo(x - half, y);
      ctx.lineTo(jumps ? x + half : x, y);
      before = value;
    });
    ctx.stroke();
    ctx.restore();
  }

  /** Fills what was cut off: the area between the norm before clipping and after. */
  #paintCut(plot) {
    const { step, cut_top: top, cut_bottom: bottom, norm_max: norm } = this.values;
    if (!top?.some((value) => value !== null)) return;
    const { ctx, bbox } = plot;
    const x = (place) => plot.valToPos(step[place], "x", true);
    const y = (value) =>
      this.log && value <= 0 ? bbox.top + bbox.height : plot.valToPos(value, "y", true);
    ctx.save();
    ctx.beginPath();
    ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
    ctx.clip();
    ctx.fillStyle = colour("--cut-fill");
    ctx.strokeStyle = colour("--accent");
    ctx.lineWidth = 2 * devicePixelRatio;
    ctx.lineJoin = "round";
    // The dashes of the threshold are still set.
    ctx.setLineDash([]);
    // From the step before to the step after, so that a single clipped step is a peak and not a
    // line.
    for (let first = 0; first < step.length; first += 1) {
      if (top[first] === null) continue;
      let last = first;
      while (last + 1 < step.length && top[last + 1] !== null) last += 1;
      const edge = (place, beside, side) => this.#crossing(x, y, place, beside, side, norm, bottom);
      const rise = edge(first, first - 1, -1);
      const fall = edge(last, last + 1, 1);
      ctx.beginPath();
      ctx.moveTo(...rise);
      for (let place = first; place <= last; place += 1) ctx.lineTo(x(place), y(top[place]));
      ctx.lineTo(...fall);
      ctx.stroke();
      for (let place = last; place >= first; place -= 1) ctx.lineTo(x(place), y(bottom[place]));
      ctx.closePath();
      ctx.fill();
      first = last;
    }
    ctx.restore();
  }

  /**
   * Where the norm crosses the level to which the step at the edge of a clipped stretch was cut.
   */
  #crossing(x, y, place, beside, side, norm, bottom) {
    const level = y(bottom[place]);
    const other = norm?.[beside];
    if (other === null || other === undefined)
      return [x(place) + side * 1.5 * devicePixelRatio, level];
    const [from, to] = [y(other), y(this.values.cut_top[place])];
    const share = from === to ? 0 : Math.min(1, Math.max(0, (level - from) / (to - from)));
    return [x(beside) + (x(place) - x(beside)) * share, level];
  }

  /** Draws the marks of one kind along the bottom. */
  #paintMark(plot, { key, shape, colour: name, row = 0, line = false }) {
    const { ctx, bbox } = plot;
    const size = 4 * devicePixelRatio;
    const middle = bbox.top + bbox.height - (1 + 2.6 * row) * size - devicePixelRatio;
    ctx.save();
    ctx.fillStyle = ctx.strokeStyle = colour(name);
    ctx.lineWidth = 1.5 * devicePixelRatio;
    this.values.step.forEach((at, place) => {
      if (!this.values[key]?.[place]) return;
      const x = plot.valToPos(at, "x", true);
      if (x < bbox.left - 1 || x > bbox.left + bbox.width + 1) return;
      paintShape(ctx, shape, x, middle, size);
      if (line) {
        ctx.setLineDash([2 * devicePixelRatio, 3 * devicePixelRatio]);
        ctx.lineWidth = devicePixelRatio;
        ctx.beginPath();
        ctx.moveTo(x, bbox.top);
        ctx.lineTo(x, middle - size);
        ctx.stroke();
      }
    });
    ctx.restore();
  }

  /** Draws a cross where a run died. */
  #paintCross(plot, { step, key, colour: name }) {
    const { step: steps } = this.values;
    const column = this.values[key] ?? [];
    let place = column.findLastIndex((value, at) =>
      value !== null && value !== undefined && steps[at] <= step
    );
    if (place < 0) return;
    const { ctx, bbox } = plot;
    const value = this.log ? Math.max(column[place], 1e-300) : column[place];
    const x = plot.valToPos(steps[place], "x", true);
    const y = Math.min(bbox.top + bbox.height - 8 * devicePixelRatio,
      Math.max(bbox.top + 8 * devicePixelRatio, plot.valToPos(value, "y", true)));
    if (x < bbox.left - 1 || x > bbox.left + bbox.width + 1) return;
    ctx.save();
    ctx.strokeStyle = colour("--surface");
    ctx.lineWidth = 6 * devicePixelRatio;
    paintShape(ctx, "cross", x, y, 6 * devicePixelRatio);
    ctx.strokeStyle = colour(name);
    ctx.lineWidth = 2.5 * devicePixelRatio;
    paintShape(ctx, "cross", x, y, 6 * devicePixelRatio);
    ctx.restore();
  }
}
