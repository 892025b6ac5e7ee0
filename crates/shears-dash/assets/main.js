// Routing, the theme, and the keyboard.

import { button, element, store, stored } from "./elements.js";
import { runAddress } from "./api.js";
import { showCompare } from "./compare.js";
import { showList } from "./list.js";
import { showRun } from "./run.js";
import { showProblem } from "./problem.js";
import { showStep } from "./step.js";

const page = document.getElementById("page");
const help = document.getElementById("help");
let view = null;

/** The parts of the address; null if it is malformed. */
function parts() {
  try {
    return location.hash.replace(/^#\/?/, "").split("/").map(decodeURIComponent);
  } catch {
    return null;
  }
}

/** Shows the page of the address. Each page returns `{close, keys, title, crumbs}`. */
function route() {
  view?.close();
  page.replaceChildren();
  for (const key of Object.keys(page.dataset)) delete page.dataset[key];
  const [kind, name, ...rest] = parts() ?? ["malformed"];
  if (kind === "malformed") {
    view = showProblem(page, "This address is malformed",
      `${location.hash} is not the address of a run: `
        + "a % must be followed by two hexadecimal digits.");
  } else if (kind === "run" && name && rest[0] === "step" && /^\d+$/.test(rest[1] ?? "")) {
    view = showStep(page, name, Number(rest[1]));
  } else if (kind === "run" && name) {
    view = showRun(page, name);
  } else if (kind === "compare" && name) {
    view = showCompare(page, [name, ...rest].filter(Boolean));
  } else {
    view = showList(page);
  }
  document.title = view.title ? `${view.title} · Shears` : "Shears";
  const crumbs = (view.crumbs ?? []).flatMap(([text, address]) => [
    element("span", { class: "divider", "aria-hidden": "true" }, "/"),
    address ? element("a", { href: address }, text) : element("span", {}, text),
  ]);
  document.getElementById("crumbs").replaceChildren(...crumbs);
  window.scrollTo(0, 0);
}

// Theme: the system's, unless the user chose one.

const THEMES = { auto: "◐", light: "☀", dark: "☾" };
const themeButton = document.getElementById("theme");

function setTheme(theme) {
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  store("theme", theme);
  themeButton.textContent = THEMES[theme];
  themeButton.dataset.theme = theme;
  themeButton.title = `Theme: ${theme === "auto" ? "system" : theme} (t)`;
  themeButton.setAttribute("aria-label", themeButton.title);
  document.dispatchEvent(new Event("theme"));
}

function nextTheme() {
  const names = Object.keys(THEMES);
  const place = names.indexOf(themeButton.dataset.theme);
  setTheme(names[(place + 1) % names.length]);
}

themeButton.addEventListener("click", nextTheme);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  document.dispatchEvent(new Event("theme"));
});
const chosen = stored("theme");
setTheme(chosen in THEMES ? chosen : "auto");

// Help and keyboard.

const KEYS = [
  ["Everywhere", [
    ["?", "this list"],
    ["t", "theme: system, light, dark"],
    ["g", "list of runs"],
    ["Esc", "up one page"],
  ]],
  ["List of runs", [
    ["/", "search"],
    ["j k", "next, previous run"],
    ["Enter", "open the run"],
    ["x", "select it for comparison"],
    ["c", "compare the selected runs"],
  ]],
  ["Charts", [
    ["drag", "zoom in; finer steps are loaded"],
    ["double click, 0", "back to the whole run"],
    ["+ −", "zoom in, out"],
    ["← →", "move the range"],
    ["click", "open this step"],
    ["l", "logarithmic scale"],
    ["u", "nats, bits per character, perplexity"],
    ["s", "smoothing"],
  ]],
  ["A step", [
    ["← →", "previous, next step"],
    ["p n", "previous, next clipped step"],
  ]],
];

function fillHelp() {
  const groups = KEYS.map(([title, keys]) =>
    element("section", {}, element("h3", {}, title),
      element("dl", {}, keys.map(([key, meaning]) => [
        element("dt", {}, key.split(" ").map((part) =>
          part.endsWith(",") || part.length > 5 ? `${part} ` : [element("kbd", {}, part), " "]
        )),
        element("dd", {}, meaning),
      ])))
  );
  help.replaceChildren(
    element("h2", { id: "help-title" }, "Keyboard and mouse"),
    element("div", { class: "help-groups" }, groups),
    button("Close", () => help.close(), { class: "primary" }),
  );
}

document.getElementById("help-button").addEventListener("click", () => help.showModal());
help.addEventListener("click", (event) => {
  if (event.target === help) help.close();
});

function up() {
  const [kind, name, below] = parts() ?? ["malformed"];
  if (kind === "run" && below === "step") location.hash = runAddress(name);
  else if (kind) location.hash = "#/";
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || help.open) return;
  const typing = event.target.closest("input, select, textarea");
  if (typing) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  const everywhere = {
    "?": () => help.showModal(),
    t: nextTheme,
    g: () => {
      location.hash = "#/";
    },
    Escape: up,
  };
  const act = view?.keys?.[event.key] ?? everywhere[event.key];
  if (!act || act(event) === false) return;
  event.preventDefault();
});

fillHelp();
window.addEventListener("hashchange", route);
route();
