// The list of runs.

import { ask, compareAddress, runAddress, watch } from "./api.js";
import { badge, button, curve, element, fill } from "./elements.js";
import { ago, count, percent, shortName, significant } from "./format.js";

const COLUMNS = [
  ["name", "Run", (row) => row.name, 1],
  ["state", "State", (row) => ["running", "diverged", "failed", "killed", "stopped", "finished"].indexOf(row.state), 1],
  ["curve", "Loss over steps", null, 0],
  ["step", "Step", (row) => row.step ?? -1, -1],
  ["loss", "Loss", (row) => row.loss ?? Infinity, 1],
  ["val_loss", "Validation", (row) => row.val_loss ?? Infinity, 1],
  ["clipped", "Clipped", (row) => row.clipped_share ?? -1, -1],
  ["speed", "Tokens/s", (row) => row.tokens_per_second ?? -1, -1],
  ["modified", "Changed", (row) => row.modified ?? 0, -1],
];

const VERDICTS = {
  off: "no clipping",
  idle: "idle",
  "seldom-decisive": "seldom, decisive",
  "trims-spikes": "trims spikes",
  "near-ordinary": "near ordinary",
  "second-learning-rate": "second learning rate",
  exploded: "exploded",
  "not-finite": "not finite",
  "too-short": "too short to say",
};

// What was chosen survives going into a run and back.
const chosen = new Set();
const sorting = { key: "modified", direction: -1 };
let search = "";

export function showList(page) {
  const rows = new Map();
  const made = new Map();
  let cursor = null;

  const input = element("input", {
    type: "search", placeholder: "Search name, preset, policy, state", "aria-label": "Search runs",
    value: search, on: { input: () => { search = input.value; arrange(); } },
  });
  const summary = element("p", { class: "lead", role: "status" }, "Looking for runs…");
  const headings = COLUMNS.map(([key, label, value]) =>
    element("th", { scope: "col", class: `c-${key}` },
      value ? button(label, () => sortBy(key), { class: "sort" }) : label));
  const body = element("tbody");
  const table = element("table", { class: "runs" },
    element("thead", {}, element("tr", {}, element("th", { class: "c-choose" }, element("span", { class: "hidden" }, "Choose")), headings)),
    body);
  const bar = element("div", { class: "bar", role: "region", "aria-label": "Comparison" });
  const empty = element("section", { class: "empty" });
  page.append(
    element("div", { class: "headline" }, element("div", {}, element("h1", {}, "Runs"), summary), input),
    empty, element("div", { class: "runs-frame" }, table), bar);

  function sortBy(key) {
    const column = COLUMNS.find(([known]) => known === key);
    sorting.direction = sorting.key === key ? -sorting.direction : column[3];
    sorting.key = key;
    arrange();
  }

  function visible() {
    const words = search.toLowerCase().split(/\s+/).filter(Boolean);
    const [, , value] = COLUMNS.find(([key]) => key === sorting.key);
    const found = [...rows.values()].filter((row) => {
      const text = [row.name, row.preset, row.model, row.clip, row.state, row.class, row.damage ? "damaged" : ""]
        .join(" ").toLowerCase();
      return words.every((word) => text.includes(word));
    });
    return found.sort((left, right) => {
      const [a, b] = [value(left), value(right)];
      const order = typeof a === "string" ? a.localeCompare(b, "en", { numeric: true }) : a - b;
      return order * sorting.direction || left.name.localeCompare(right.name, "en", { numeric: true });
    });
  }

  function line(row) {
    const progress = row.steps ? Math.min(1, (row.step ?? 0) / row.steps) : 0;
    const choose = element("input", {
      type: "checkbox", checked: chosen.has(row.name), "aria-label": `Choose ${row.name} for comparison`,
      on: { change: () => choosing(row.name, choose.checked) },
    });
    const cell = (key, label, ...content) =>
      element("td", { class: `c-${key}`, "data-label": label }, content);
    return element("tr", { "data-run": row.name, class: row.name === cursor ? "current" : null },
      element("td", { class: "c-choose" }, choose),
      cell("name", null,
        element("a", { href: runAddress(row.name) }, shortName(row.name)),
        element("small", {}, [row.preset, row.clip].filter(Boolean).join(" · ") || "no plan")),
      cell("state", null, badge(row.state), row.damage ? element("span", { class: "badge damaged", title: row.damage.reason }, "damaged") : null),
      cell("curve", null, curve(row.curve)),
      cell("step", "step", count(row.step), row.steps ? element("small", {}, ` of ${count(row.steps)}`) : null,
        element("div", { class: "progress" }, element("i", { style: { width: `${100 * progress}%` } }))),
      cell("loss", "loss", significant(row.loss)),
      cell("val_loss", "validation", significant(row.val_loss)),
      cell("clipped", "clipped", row.digested
        ? [row.class === "off" ? "–" : percent(row.clipped_share), element("small", {}, VERDICTS[row.class] ?? "")]
        : element("small", {}, "reading…")),
      cell("speed", "tokens/s", count(row.tokens_per_second)),
      cell("modified", "changed", ago(row.modified)));
  }

  function arrange() {
    const found = visible();
    if (!found.some((row) => row.name === cursor)) cursor = null;
    const lines = found.map((row) => {
      if (!made.has(row.name)) made.set(row.name, line(row));
      return made.get(row.name);
    });
    const same = lines.length === body.children.length && lines.every((made, place) => body.children[place] === made);
    if (!same) fill(body, ...lines);
    headings.forEach((heading, place) => {
      const sorted = COLUMNS[place][0] === sorting.key;
      if (sorted) heading.setAttribute("aria-sort", sorting.direction > 0 ? "ascending" : "descending");
      else heading.removeAttribute("aria-sort");
    });
    const running = [...rows.values()].filter((row) => row.state === "running").length;
    const all = `${count(rows.size)} ${rows.size === 1 ? "run" : "runs"}`;
    const parts = [found.length === rows.size ? all : `${count(found.length)} of ${all}`];
    if (running > 0) parts.push(`${running} running`);
    if (rows.size > 0) summary.textContent = parts.join(", ");
    table.hidden = rows.size === 0;
    input.hidden = rows.size === 0;
    showBar();
  }

  function choosing(name, is) {
    if (is) chosen.add(name);
    else chosen.delete(name);
    made.delete(name);
    arrange();
  }

  function showBar() {
    const names = [...chosen].filter((name) => rows.has(name));
    bar.hidden = names.length === 0;
    fill(bar,
      element("span", {}, names.length === 1 ? "Choose another run to lay over this one" : `${names.length} runs chosen`),
      names.length > 1 ? element("a", { class: "primary", href: compareAddress(names) }, "Compare") : null,
      button("Clear", () => { chosen.clear(); made.clear(); arrange(); }, { class: "quiet" }));
  }

  function showEmpty(folder) {
    summary.textContent = "";
    const none = rows.size === 0;
    empty.hidden = !none;
    if (!none) return;
    fill(empty,
      element("h2", {}, "No run yet"),
      element("p", {}, "Nothing in ", element("code", {}, folder), " has a plan. Start a run, and it appears here while it trains:"),
      element("pre", {}, element("code", {}, `shears train my-text.txt --out ${folder}/first`)),
      element("p", { class: "how" }, "Without a text it trains on one that it carries: ", element("code", {}, "shears train"), "."));
  }

  function take(news) {
    for (const row of news) {
      made.delete(row.name);
      if (row.gone) rows.delete(row.name);
      else rows.set(row.name, row);
    }
    if (rows.size > 0) empty.hidden = true;
    arrange();
  }

  let stop = () => {};
  let closed = false;
  ask("runs").then(({ folder, runs }) => {
    if (closed) return;
    take(runs);
    showEmpty(folder);
    stop = watch(null, take);
  }).catch((error) => { summary.textContent = error.message; });

  // "3 min ago" grows old; what somebody is about to press stays.
  const clock = setInterval(() => {
    if (body.contains(document.activeElement)) return;
    made.clear();
    arrange();
  }, 20000);

  function move(by) {
    const found = visible();
    const place = found.findIndex((row) => row.name === cursor);
    const next = found[Math.max(0, Math.min(found.length - 1, place + by))];
    if (!next) return;
    made.get(cursor)?.classList.remove("current");
    cursor = next.name;
    made.get(cursor)?.classList.add("current");
    made.get(cursor)?.scrollIntoView({ block: "nearest" });
  }

  const keys = {
    "/": () => input.focus(),
    j: () => move(1),
    k: () => move(-1),
    ArrowDown: () => move(1),
    ArrowUp: () => move(-1),
    Enter: (event) => {
      if (!cursor || event.target.closest("a, button")) return false;
      location.hash = runAddress(cursor);
    },
    x: () => cursor && choosing(cursor, !chosen.has(cursor)),
    c: () => chosen.size > 1 && (location.hash = compareAddress([...chosen])),
  };
  return { close: () => { closed = true; clearInterval(clock); stop(); }, keys, title: null, crumbs: [] };
}
