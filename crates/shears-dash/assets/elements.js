// Building parts of the page. Text always goes in as text, so nothing that a run contains can become markup.

/** An element: `element("a", {href, class, on: {click}, style: {width}}, child, "text", [more])`. */
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

/** Replaces what is in an element; null is nothing. */
export function fill(parent, ...children) {
  parent.replaceChildren(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return parent;
}

/** A button that calls `press`. */
export function button(label, press, attributes = {}) {
  return element("button", { type: "button", ...attributes, on: { click: press } }, label);
}

/** Buttons of which one is pressed; gives the element and a function that presses another. */
export function choice(label, options, current, choose) {
  const buttons = options.map(([value, text, hint]) =>
    button(text, () => select(value, true), { title: hint }),
  );
  const select = (value, tell) => {
    options.forEach(([known], place) => {
      buttons[place].setAttribute("aria-pressed", String(known === value));
    });
    if (tell) choose(value);
  };
  select(current, false);
  const made = element("div", { class: "choice", role: "group", "aria-label": label }, buttons);
  return { element: made, select: (value) => select(value, true) };
}

/** The option after the current one, and the first after the last. */
export function cycle(options, current) {
  return options[(options.indexOf(current) + 1) % options.length];
}

/** A badge with the state of a run. */
export function badge(state) {
  return element("span", { class: `badge ${state}` }, element("i", { "aria-hidden": "true" }), state);
}

/** A small curve, as SVG. */
export function curve(values, width = 120, height = 28) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.setAttribute("class", "curve");
  svg.setAttribute("aria-hidden", "true");
  const finite = values.filter((value) => value !== null);
  if (finite.length < 2) return svg;
  // A few wild losses at the start must not press the rest flat; a run that ends wild shows it.
  const sorted = finite.slice().sort((a, b) => a - b);
  const low = sorted[0];
  const most = sorted[Math.floor(0.9 * (sorted.length - 1))];
  const high = Math.min(sorted.at(-1), Math.max(finite.at(-1), low + 1.6 * (most - low)));
  const x = (place) => 1 + (place / (values.length - 1)) * (width - 2);
  const y = (value) => height - 2 - ((Math.min(value, high) - low) / (high - low || 1)) * (height - 4);
  let path = "";
  let open = false;
  values.forEach((value, place) => {
    if (value === null) open = false;
    else {
      path += `${open ? "L" : "M"}${x(place).toFixed(1)} ${y(value).toFixed(1)}`;
      open = true;
    }
  });
  const line = document.createElementNS("http://www.w3.org/2000/svg", "path");
  line.setAttribute("d", path);
  svg.append(line);
  return svg;
}

/** The value of a colour of the style sheet, such as `--accent`. */
export function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}
