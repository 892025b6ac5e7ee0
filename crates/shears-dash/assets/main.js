// Which page is shown, the theme, and the keyboard.

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

/** Shows what the address says. Each page gives back `{close, keys, title, crumbs}`. */
function route() {
  view?.close();
  page.replaceChildren();
  for (const key of Object.keys(page.dataset)) delete page.dataset[key];
  const [kind, name, ...rest] = parts() ?? ["malformed"];
  if (kind === "malformed") {
    view = showProblem(page, "This address is malformed", `${location.hash} names no run: a % in it is not followed by two digits.`);
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

// Theme: as the system has it, unless somebody chose.

const THEMES = { auto: "◐", light: "☀", dark: "☾" };
const themeButton = document.getElementById("theme");

function setTheme(theme) {
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  store("theme", theme);
  themeButton.textContent = THEMES[theme];
  themeButton.dataset.theme = theme;
  themeButton.title = `Theme: ${theme === "auto" ? "as the system has it" : theme} (t)`;
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
    ["t", "theme: as the system, light, dark"],
    ["g", "to the list of runs"],
    ["Esc", "one page up"],
  ]],
  ["List of runs", [
    ["/", "search"],
    ["j k", "next, previous run"],
    ["Enter", "open the run"],
    ["x", "choose it for comparison"],
    ["c", "lay the chosen runs over each other"],
  ]],
  ["Charts", [
    ["drag", "zoom in; the server is asked for the finer steps"],
    ["double click, 0", "the whole run again"],
    ["+ −", "zoom in, out"],
    ["← →", "move the range"],
    ["click", "what happened at this step"],
    ["l", "logarithmic scale"],
    ["u", "nats, bits a character, perplexity"],
    ["s", "smoothing"],
  ]],
  ["A step", [
    ["← →", "the step before, after"],
    ["p n", "the last, next step that clipping changed"],
  ]],
];

function fillHelp() {
  const groups = KEYS.map(([title, keys]) =>
    element("section", {},
      element("h3", {}, title),
      element("dl", {}, keys.map(([key, meaning]) => [
        element("dt", {}, key.split(" ").map((part) =>
          part.endsWith(",") || part.length > 5 ? `${part} ` : [element("kbd", {}, part), " "])),
        element("dd", {}, meaning),
      ]))));
  help.replaceChildren(
    element("h2", { id: "help-title" }, "Keyboard and mouse"),
    element("div", { class: "help-groups" }, groups),
    button("Close", () => help.close(), { class: "primary" }));
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
    g: () => { location.hash = "#/"; },
    Escape: up,
  };
  const act = view?.keys?.[event.key] ?? everywhere[event.key];
  if (!act || act(event) === false) return;
  event.preventDefault();
});

fillHelp();
window.addEventListener("hashchange", route);
route();
