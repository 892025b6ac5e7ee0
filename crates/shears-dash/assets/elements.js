// Builds parts of the page. Text is always inserted as text, so that nothing in a run becomes
// markup.

/**
 * An element: `element("a", {href, class, on: {click}, style: {width}}, child, "text", [more])`.
 */
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "on") {
      for (const [event, handler] of Object.entries(value)) made.addEventListener(event, handler);
    } else if (name === "style") {
      for (const [property, text] of Object.entries(value)) made.style.setProperty(property, text);
    } else if (name === "checked" || name === "value" || name === "open") {
      made[name] = value;
    } else {
      made.setAttribute(name, value === true ? "" : value);
    }
  }
  return fill(made, ...children);
}

/** Replaces the children of an element; null is ignored. */
export function fill(parent, ...children) {
  parent.replaceChildren(
    ...children.flat(Infinity).filter((child) => child !== null && child !== undefined),
  );
  return parent;
}

/** A button that calls `press`. */
export function button(label, press, attributes = {}) {
  return element("button", { type: "button", ...attributes, on: { click: press } }, label);
}

/** Buttons of which one is pressed; returns the element and a function that presses another. */
export function choice(label, options, current, choose) {
  const buttons = options.map(([value, text, hint]) =>
    button(text, () => select(value, true), { title: hint })
  );
  const select = (value, notify) => {
    options.forEach(([known], place) => {
      buttons[place].setAttribute("aria-pressed", String(known === value));
    });
    if (notify) choose(value);
  };
  select(current, false);
  const made = element("div", { class: "choice", role: "group", "aria-label": label }, buttons);
  return { element: made, select: (value) => select(value, true) };
}

/** A choice with a label, which stays beside it on a narrow page. */
export function tool(word, chosen) {
  return element("span", { class: "tool" }, element("span", { "aria-hidden": "true" }, word),
    chosen.element);
}

/** The option after the current one, or the first after the last. */
export function cycle(options, current) {
  return options[(options.indexOf(current) + 1) % options.length];
}

/** A badge with the state of a run. */
export function badge(state) {
  return element("span", { class: `badge ${state}` }, element("i", { "aria-hidden": "true" }),
    state);
}

const SVG = "http://www.w3.org/2000/svg";

/** A small curve of norms on a logarithmic axis, as SVG, with a dashed threshold. */
export function sparkline(norms, thresholds, width = 132, height = 30) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.setAttribute("class", "curve");
  svg.setAttribute("aria-hidden", "true");
  const positive = (value) => value !== null && value > 0;
  const all = [...norms, ...thresholds].filter(positive);
  if (norms.filter(positive).length < 2) return svg;
  const [low, high] = [Math.min(...all), Math.max(...all)].map(Math.log);
  const x = (place) => 1 + (place / Math.max(1, norms.length - 1)) * (width - 2);
  const y = (value) =>
    height - 2 - (high > low ? (Math.log(value) - low) / (high - low) : 0.5) * (height - 4);
  for (const [values, name] of [[thresholds, "threshold"], [norms, "norm"]]) {
    let path = "";
    let open = false;
    values.forEach((value, place) => {
      if (positive(value))
        path += `${open ? "L" : "M"}${x(place).toFixed(1)} ${y(value).toFixed(1)}`;
      open = positive(value);
    });
    const line = document.createElementNS(SVG, "path");
    line.setAttribute("d", path);
    line.setAttribute("class", name);
    svg.append(line);
  }
  return svg;
}

const probe = document.documentElement.appendChild(element("i", { hidden: true }));
const colours = new Map();
document.addEventListener("theme", () => colours.clear());

/** A colour of the style sheet, such as `--accent`, in the current theme: "rgb(…)". */
export function colour(name) {
  if (!colours.has(name)) {
    probe.style.color = `var(${name})`;
    colours.set(name, getComputedStyle(probe).color);
  }
  return colours.get(name);
}

/** A command with a button that copies it. */
export function command(text) {
  const copy = button("Copy", async () => {
    try {
      await navigator.clipboard.writeText(text);
      copy.textContent = "Copied";
    } catch {
      // Without permission it can still be selected.
      getSelection().selectAllChildren(shown);
    }
    setTimeout(() => {
      copy.textContent = "Copy";
    }, 1500);
  }, { class: "quiet" });
  const shown = element("code", {}, text);
  return element("div", { class: "command" }, shown, copy);
}

/** Content that is folded at first. */
export function folded(label, attributes, ...children) {
  return element("details", attributes, element("summary", {}, label), ...children);
}

/**
 * A value that the browser stored for this page; null if there is none, or storage is not allowed.
 */
export function stored(name) {
  try {
    return localStorage.getItem(name);
  } catch {
    return null;
  }
}

/** Stores a value for this page, if the browser allows it. */
export function store(name, value) {
  try {
    localStorage.setItem(name, value);
  } catch {
    // The page works without storage.
  }
}
