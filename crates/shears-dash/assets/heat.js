// A heat map of tensors over steps: a row per tensor, a column per bucket of steps.

import { STEP_AXIS } from "./axes.js";
import { button, colour, element, fill } from "./elements.js";
import { count, significant } from "./format.js";

const ROW = 17;
/** The gap between two layers. */
const GAP = 5;
/** The height of the horizontal axis. */
const AXIS = 20;
/** How far the ends of the ordinary range are from the middle of the palette, in powers of ten. */
const FAINT = 0.3;
/** Maps with more rows than this show one per layer at first. */
const MANY = 24;

const median = (values) => {
  const sorted = values.filter((value) => value !== null).sort((a, b) => a - b);
  const middle = sorted.length / 2;
  return sorted.length ? (sorted[Math.ceil(middle) - 1] + sorted[Math.floor(middle)]) / 2 : null;
};

function parsed(text) {
  return text.match(/\d+/g).slice(0, 3).map(Number);
}

/** The maximum of values, ignoring null. */
const greatest = (values) =>
  values.reduce((most, value) => (most === null || (value !== null && value > most) ? value : most),
    null);

/** The colour at a position (0 to 1) in a palette of evenly spaced colours. */
function blend(palette, share) {
  const at = Math.min(1, Math.max(0, share)) * (palette.length - 1);
  const low = Math.min(palette.length - 2, Math.floor(at));
  const part = at - low;
  return palette[low].map((value, place) =>
    Math.round(value + (palette[low + 1][place] - value) * part)
  );
}

/**
 * A heat map. `spec`: `name`, `title`, `unit`, `how`, `palette` (names of colours), `ordinary` (the
 * range at the middle of a diverging palette), `relative` (whether rows can be shown relative to
 * their median), `weights` (whether only matrices are shown at first).
 */
export class HeatMap {
  constructor(spec, { crosshair, open }) {
    this.spec = spec;
    this.map = { names: [], layers: [], weights: [], step: [], values: [] };
    this.rows = [];
    // Until the server's first answer, nothing is known to be missing.
    this.loaded = false;
    this.relative = false;
    this.all = false;
    this.readout = element("output", { class: "readout" });
    this.canvas = element("canvas", { role: "img", "aria-label": `${spec.title}: ${spec.how}` });
    this.scale = element("div", { class: "scale" });
    this.place = element("div", { class: "heat" }, this.canvas);
    this.toggle = spec.relative
      ? button("relative to median", () => this.#toggle(), { class: "toggle",
        "aria-pressed": "false", title: "Colour each row by its distance from its own median" })
      : null;
    this.unfold = button("", () => this.#unfold(), { class: "toggle" });
    this.how = element("p", { class: "how" }, spec.how);
    this.none = element("p", { class: "none", hidden: true }, spec.none ?? "");
    this.element = element("section", { class: "chart", "data-chart": spec.name },
      element("header", {},
        element("h2", {}, spec.title, " ", element("span", { class: "unit" }, spec.unit)),
        this.readout, this.unfold, this.toggle), this.none, this.place, this.scale, this.how);
    this.crosshair = crosshair;
    this.follow = (step) => this.#point(step, null);
    crosshair.listen(this.follow);
    this.canvas.addEventListener("mousemove", (event) => this.#hover(event));
    this.canvas.addEventListener("mouseleave", () => {
      this.#point(null, null);
      crosshair.move(null, this.follow);
    });
    this.canvas.addEventListener("click", (event) => {
      const { column } = this.#cell(event);
      if (column !== null) open(this.map.step[column]);
    });
    this.observer = new ResizeObserver(() => this.#draw());
    this.observer.observe(this.place);
    this.themed = () => this.#draw();
    document.addEventListener("theme", this.themed);
  }

  close() {
    this.observer.disconnect();
    document.removeEventListener("theme", this.themed);
  }

  /** Sets the explanation of the map. */
  say(words) {
    this.how.textContent = words;
  }

  /** Shows the server's data; `ordered` says whether its tensors are in the order of the model. */
  show(map, ordered) {
    const alphabetical = " An earlier version wrote this log without a description of the model, "
      + "so rows are in alphabetical order.";
    this.how.textContent = this.spec.how + (ordered ? "" : alphabetical);
    this.map = map;
    this.loaded = true;
    this.#arrange();
    this.#draw();
  }

  /**
   * Groups rows by layer in the order of the forward pass, weights first; for a large model, one
   * row per layer.
   */
  #arrange() {
    const { names, layers, weights, values } = this.map;
    const matrices = names.map((_, place) => place).filter((place) => weights[place]);
    const known = this.spec.weights && !this.all && matrices.length
      ? matrices
      : names.map((_, place) => place);
    const groups = Map.groupBy(known, (place) => layers[place]);
    const fold = !this.all && known.length > MANY;
    this.rows = [];
    let top = 0;
    for (const [layer, members] of groups) {
      members.sort((left, right) => Number(weights[right]) - Number(weights[left]) || left - right);
      const made = fold
        ? [{ name: layer, values: this.map.step.map((_, column) =>
          greatest(members.map((place) =>
            values[place][column]
          ))
        ) }]
        : members.map((place) => ({ name: names[place], values: values[place] }));
      for (const row of made) {
        this.rows.push({ ...row, top });
        top += ROW;
      }
      if (!fold) top += GAP;
    }
    this.height = top;
    const hides = fold || known.length < names.length;
    this.unfold.hidden = !hides && !this.all;
    this.unfold.textContent = `all ${count(names.length)} tensors`;
    this.unfold.setAttribute("aria-pressed", String(this.all));
    this.unfold.title = fold
      ? "A row shows the largest tensor of a layer"
      : "Include biases, and unfold all layers";
  }

  #unfold() {
    this.all = !this.all;
    this.#arrange();
    this.#draw();
  }

  #toggle() {
    this.relative = !this.relative;
    this.toggle.setAttribute("aria-pressed", String(this.relative));
    this.#draw();
  }

  /** The logarithms of the values, and the range that the palette covers. */
  #logarithms() {
    const shown = this.rows.map(({ values }) => {
      const own = this.relative ? median(values) : 1;
      return values.map((
        value,
      ) => (value === null || value <= 0 || !own ? null : this.#place(Math.log10(value / own))));
    });
    const all = shown.flat().filter((value) => value !== null).sort((a, b) => a - b);
    if (all.length === 0) return { shown, low: 0, high: 1 };
    let [low, high] = [all[Math.floor(0.01 * (all.length - 1))],
      all[Math.ceil(0.995 * (all.length - 1))]];
    if (this.relative || this.spec.ordinary) {
      const reach = Math.max(this.relative ? 0.5 : 2, Math.abs(low), Math.abs(high));
      [low, high] = [-reach, reach];
    }
    return { shown, low, high: high > low ? high : low + 1 };
  }

  /**
   * The position of a logarithm in the palette: its distance from the ordinary range, if the map
   * has one.
   */
  #place(logarithm) {
    if (this.relative || !this.spec.ordinary) return logarithm;
    const [low, high] = this.spec.ordinary.map(Math.log10);
    if (logarithm < low) return logarithm - low - FAINT;
    if (logarithm > high) return logarithm - high + FAINT;
    return FAINT * (2 * (logarithm - low) / (high - low) - 1);
  }

  #palette() {
    const names = this.relative
      ? ["--heat-less", "--heat-middle", "--heat-more"]
      : this.spec.palette;
    return names.map((name) => parsed(colour(name)));
  }

  #layout() {
    const width = this.place.clientWidth;
    const gutter = width < 500 ? 104 : 168;
    return { width, gutter, inner: width - gutter - 8, height: this.height ?? 0 };
  }

  #draw() {
    const empty = this.rows.length === 0 || this.map.step.length === 0;
    this.none.hidden = !this.loaded || !empty || !this.spec.none;
    this.place.hidden = empty;
    this.scale.hidden = empty;
    const { width, gutter, inner, height } = this.#layout();
    if (empty || width <= 0) return;
    const ratio = devicePixelRatio;
    this.canvas.width = width * ratio;
    this.canvas.height = (height + AXIS) * ratio;
    this.canvas.style.height = `${height + AXIS}px`;
    const context = this.canvas.getContext("2d");
    context.scale(ratio, ratio);
    const { shown, low, high } = this.#logarithms();
    const palette = this.#palette();
    const columns = this.map.step.length;
    const bitmap = new ImageData(columns, shown.length);
    const nothing = parsed(colour("--surface"));
    shown.forEach((values, row) =>
      values.forEach((value, column) => {
        const [red, green, blue] = value === null
          ? nothing
          : blend(palette, (value - low) / (high - low));
        bitmap.data.set([red, green, blue, 255], 4 * (row * columns + column));
      })
    );
    const small = new OffscreenCanvas(columns, shown.length);
    small.getContext("2d").putImageData(bitmap, 0, 0);
    context.imageSmoothingEnabled = false;
    this.rows.forEach(({ top }, row) =>
      context.drawImage(small, 0, row, columns, 1, gutter, top, inner, ROW - 1)
    );
    this.#labels(context, gutter);
    this.#axis(context, gutter, inner, height);
    this.#showScale(palette, low, high);
    this.image = context.getImageData(0, 0, this.canvas.width, this.canvas.height);
    this.#point(null, null);
  }

  #labels(context, gutter) {
    context.font = "11px system-ui, -apple-system, \"Segoe UI\", sans-serif";
    context.textAlign = "right";
    context.textBaseline = "middle";
    context.fillStyle = colour("--muted");
    this.rows.forEach(({ name: full, top }) => {
      let name = full;
      while (name.length > 4 && context.measureText(name).width > gutter - 10)
        name = `…${name.slice(2)}`;
      context.fillText(name, gutter - 8, top + ROW / 2);
    });
  }

  /** Labels columns with their steps along the bottom. */
  #axis(context, gutter, inner, height) {
    const { step } = this.map;
    const most = Math.max(2, Math.floor(inner / (inner < 400 ? 60 : 110)));
    context.textAlign = "center";
    for (const mark of STEP_AXIS.marks(step[0], step.at(-1), most).filter((mark) =>
      mark >= step[0]
    )) {
      const column = step.findIndex((known) => known >= mark);
      const x = gutter + ((column + 0.5) / step.length) * inner;
      context.fillRect(x - 0.5, height + 1, 1, 3);
      context.fillText(count(mark), Math.min(Math.max(x, gutter + 14), gutter + inner - 14),
        height + 13);
    }
  }

  #showScale(palette, low, high) {
    const stops = palette.map((part) => `rgb(${part.join(" ")})`).join(", ");
    const times = this.relative ? "×" : "";
    const texts = this.spec.ordinary && !this.relative
      ? [significant(this.spec.ordinary[0] * 10 ** (low + FAINT), 2),
        this.spec.ordinary.map((end) => significant(end, 2)).join(" … "),
        significant(this.spec.ordinary[1] * 10 ** (high - FAINT), 2)]
      : [low, (low + high) / 2, high].map((value) => `${times}${significant(10 ** value, 2)}`);
    fill(this.scale, element("i", { style: { background: `linear-gradient(to right, ${stops})` } }),
      ...texts.map((text) => element("span", {}, text)));
  }

  #cell(event) {
    const box = this.canvas.getBoundingClientRect();
    const { gutter, inner } = this.#layout();
    const share = (event.clientX - box.left - gutter) / inner;
    const column = share >= 0 && share < 1 ? Math.floor(share * this.map.step.length) : null;
    const y = event.clientY - box.top;
    const row = this.rows.findIndex(({ top }) => y >= top && y < top + ROW);
    return { column, row: row >= 0 ? row : null };
  }

  #hover(event) {
    const { column, row } = this.#cell(event);
    const step = column === null ? null : this.map.step[column];
    this.#point(step, row);
    this.crosshair.move(step, this.follow);
  }

  /** Draws the crosshair at a step, and shows its values. */
  #point(step, row) {
    if (!this.image) return;
    const context = this.canvas.getContext("2d");
    context.putImageData(this.image, 0, 0);
    const steps = this.map.step;
    if (step === null || steps.length === 0) return fill(this.readout);
    let column = steps.findIndex((known) => known >= step);
    if (column < 0) column = steps.length - 1;
    const { gutter, inner, height } = this.#layout();
    const x = gutter + ((column + 0.5) / steps.length) * inner;
    context.fillStyle = colour("--ink");
    context.fillRect(x - 0.5, 0, 1, height);
    const parts = [element("span", { class: "at" }, `step ${count(steps[column])}`)];
    if (row !== null) {
      parts.push(
        element("span", {}, `${this.rows[row].name} `,
          element("b", {}, significant(this.rows[row].values[column]))),
      );
    }
    fill(this.readout, ...parts);
  }
}
