// A map of tensors over steps: one row a tensor, one column some steps, colour for the number.

import { button, colour, element, fill } from "./elements.js";
import { count, significant } from "./format.js";

const ROW = 17;

function parsed(text) {
  const [red, green, blue] = text.match(/[0-9a-f]{2}/gi).map((part) => parseInt(part, 16));
  return [red, green, blue];
}

/** The colour at a share of a palette, whose colours are evenly spread. */
function blend(palette, share) {
  const at = Math.min(1, Math.max(0, share)) * (palette.length - 1);
  const low = Math.min(palette.length - 2, Math.floor(at));
  const part = at - low;
  return palette[low].map((value, place) => Math.round(value + (palette[low + 1][place] - value) * part));
}

/**
 * A map. `spec`: `name`, `title`, `unit`, `how`, `palette` (names of colours), `middle` (a number in the middle of
 * the palette, for maps with two sides), `relative` (whether rows can be shown against their own median).
 */
export class HeatMap {
  constructor(spec, { crosshair, open }) {
    this.spec = spec;
    this.map = { names: [], step: [], values: [], median: [] };
    this.relative = false;
    this.readout = element("output", { class: "readout" });
    this.canvas = element("canvas", { role: "img", "aria-label": `${spec.title}: ${spec.how}` });
    this.scale = element("div", { class: "scale" });
    this.place = element("div", { class: "heat" }, this.canvas);
    this.toggle = spec.relative
      ? button("against own median", () => this.#toggle(), { class: "toggle", "aria-pressed": "false", title: "Colour each row by how far it is from its own median" })
      : null;
    this.how = element("p", { class: "how" }, spec.how);
    this.none = element("p", { class: "none" }, spec.none ?? "");
    this.element = element("section", { class: "chart", "data-chart": spec.name },
      element("header", {}, element("h2", {}, spec.title, " ", element("span", { class: "unit" }, spec.unit)), this.readout, this.toggle),
      this.none, this.place, this.scale, this.how);
    this.crosshair = crosshair;
    this.follow = (step) => this.#point(step, null);
    crosshair.listen(this.follow);
    this.canvas.addEventListener("mousemove", (event) => this.#hover(event));
    this.canvas.addEventListener("mouseleave", () => { this.#point(null, null); crosshair.move(null, this.follow); });
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

  /** Shows a map of the server, whose tensors are in the order of the model if the log says what it is. */
  show(map, ordered) {
    this.how.textContent = ordered ? this.spec.how
      : `${this.spec.how} An earlier version wrote this log, which does not describe the model: rows are in the order of the alphabet.`;
    this.map = map;
    this.#draw();
  }

  #toggle() {
    this.relative = !this.relative;
    this.toggle.setAttribute("aria-pressed", String(this.relative));
    this.#draw();
  }

  /** The numbers that colours stand for: their logarithms, and the range of these. */
  #logarithms() {
    const shown = this.map.values.map((values, row) => {
      const own = this.relative ? this.map.median[row] : 1;
      return values.map((value) => (value === null || value <= 0 || !own ? null : Math.log10(value / own)));
    });
    const all = shown.flat().filter((value) => value !== null).sort((a, b) => a - b);
    if (all.length === 0) return { shown, low: 0, high: 1 };
    let [low, high] = [all[Math.floor(0.01 * (all.length - 1))], all[Math.ceil(0.995 * (all.length - 1))]];
    const middle = this.relative ? 0 : this.spec.middle && Math.log10(this.spec.middle);
    if (typeof middle === "number") {
      const reach = Math.max(0.5, Math.abs(low - middle), Math.abs(high - middle));
      [low, high] = [middle - reach, middle + reach];
    }
    return { shown, low, high: high > low ? high : low + 1 };
  }

  #palette() {
    const names = this.relative ? ["--heat-less", "--heat-middle", "--heat-more"] : this.spec.palette;
    return names.map((name) => parsed(colour(name)));
  }

  #layout() {
    const width = this.place.clientWidth;
    const gutter = width < 500 ? 104 : 168;
    return { width, gutter, inner: width - gutter - 8, height: this.map.names.length * ROW };
  }

  #draw() {
    const empty = this.map.names.length === 0 || this.map.step.length === 0;
    this.none.hidden = !empty || !this.spec.none;
    this.place.hidden = empty;
    this.scale.hidden = empty;
    const { width, gutter, inner, height } = this.#layout();
    if (empty || width <= 0) return;
    const ratio = devicePixelRatio;
    this.canvas.width = width * ratio;
    this.canvas.height = height * ratio;
    this.canvas.style.height = `${height}px`;
    const context = this.canvas.getContext("2d");
    context.scale(ratio, ratio);
    const { shown, low, high } = this.#logarithms();
    const palette = this.#palette();
    const columns = this.map.step.length;
    const bitmap = new ImageData(columns, shown.length);
    const nothing = parsed(colour("--surface"));
    shown.forEach((values, row) => values.forEach((value, column) => {
      const [red, green, blue] = value === null ? nothing : blend(palette, (value - low) / (high - low));
      bitmap.data.set([red, green, blue, 255], 4 * (row * columns + column));
    }));
    const small = new OffscreenCanvas(columns, shown.length);
    small.getContext("2d").putImageData(bitmap, 0, 0);
    context.imageSmoothingEnabled = false;
    context.drawImage(small, gutter, 0, inner, height);
    context.fillStyle = colour("--surface");
    for (let row = 1; row < shown.length; row += 1) context.fillRect(gutter, row * ROW - 1, inner, 1);
    this.#labels(context, gutter);
    this.#showScale(palette, low, high);
    this.image = context.getImageData(0, 0, this.canvas.width, this.canvas.height);
    this.#point(null, null);
  }

  #labels(context, gutter) {
    context.font = '11px system-ui, -apple-system, "Segoe UI", sans-serif';
    context.textAlign = "right";
    context.textBaseline = "middle";
    context.fillStyle = colour("--muted");
    this.map.names.forEach((full, place) => {
      let name = full;
      while (name.length > 4 && context.measureText(name).width > gutter - 10) name = `…${name.slice(2)}`;
      context.fillText(name, gutter - 8, place * ROW + ROW / 2);
    });
  }

  #showScale(palette, low, high) {
    const stops = palette.map((part) => `rgb(${part.join(" ")})`).join(", ");
    const times = this.relative ? "×" : "";
    const texts = [low, (low + high) / 2, high].map((value) => `${times}${significant(10 ** value, 2)}`);
    fill(this.scale,
      element("i", { style: { background: `linear-gradient(to right, ${stops})` } }),
      ...texts.map((text) => element("span", {}, text)));
  }

  #cell(event) {
    const box = this.canvas.getBoundingClientRect();
    const { gutter, inner } = this.#layout();
    const share = (event.clientX - box.left - gutter) / inner;
    const column = share >= 0 && share < 1 ? Math.floor(share * this.map.step.length) : null;
    const row = Math.floor((event.clientY - box.top) / ROW);
    return { column, row: row >= 0 && row < this.map.names.length ? row : null };
  }

  #hover(event) {
    const { column, row } = this.#cell(event);
    const step = column === null ? null : this.map.step[column];
    this.#point(step, row);
    this.crosshair.move(step, this.follow);
  }

  /** Draws the crosshair at a step, and says what is there. */
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
      parts.push(element("span", {}, `${this.map.names[row]} `, element("b", {}, significant(this.map.values[row][column]))));
    }
    fill(this.readout, ...parts);
  }
}
