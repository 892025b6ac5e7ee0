// The list of runs.

import { ask, compareAddress, runAddress, watch } from "./api.js";
import { badge, button, element, fill, folded, sparkline, store, stored } from "./elements.js";
import { ago, count, percent, shortName, significant } from "./format.js";

/**
 * Key, heading, sort value and initial direction; whether it is numeric, and whether it is hidden
 * at first.
 */
const COLUMNS = [
  { key: "name", label: "Run", by: (row) => row.name, direction: 1 },
  { key: "state", label: "State",
    by: (row) =>
      ["running", "diverged", "failed", "killed", "stopped", "finished"].indexOf(row.state),
    direction: 1 },
  { key: "class", label: "Clipping",
    by: (row) => ["bad", "warning", "good", "plain"].indexOf(row.tone ?? "plain"), direction: 1 },
  { key: "norms", label: "Gradient norm" },
  { key: "step", label: "Step", by: (row) => row.step ?? -1, direction: -1, number: true },
  { key: "loss", label: "Loss", by: (row) => row.loss ?? Infinity, direction: 1, number: true },
  { key: "best", label: "Best validation", by: (row) => row.best?.val_loss ?? Infinity,
    direction: 1, number: true },
  { key: "lr", label: "Learning rate", by: (row) => row.lr ?? -1, direction: -1, number: true },
  { key: "clipped", label: "Clipped", by: (row) => row.clipped_share ?? -1, direction: -1,
    number: true, hidden: true },
  { key: "speed", label: "Tokens/s", by: (row) => row.tokens_per_second ?? -1, direction: -1,
    number: true, hidden: true },
  { key: "modified", label: "Changed", by: (row) => row.modified ?? 0, direction: -1,
    number: true },
];

/** The columns shown, as the user last chose them. */
const columnsShown = (() => {
  const usual = COLUMNS.filter(({ hidden }) => !hidden).map(({ key }) => key);
  return new Set(stored("columns")?.split(" ") ?? usual);
})();

// The selection survives opening a run and coming back.
const chosen = new Set();
const sorting = { key: "modified", direction: -1 };
let search = "";

export function showList(page) {
  const rows = new Map();
  const made = new Map();
  let cursor = null;

  const input = element("input", {
    type: "search",
    placeholder: "Search name, model, policy, state",
    "aria-label": "Search runs",
    value: search,
    on: { input: () => {
      search = input.value;
      arrange();
    } },
  });
  const summary = element("p", { class: "lead", role: "status" }, "Looking for runs…");
  const heading = ({ key, label, by, number }) =>
    element("th", { scope: "col", class: `c-${key} ${number ? "number" : ""}` },
      by ? button(label, () => sortBy(key), { class: "sort" }) : label);
  const headings = new Map(COLUMNS.map((column) => [column.key, heading(column)]));
  const headingRow = element("tr");
  const chooser = folded("Columns", { class: "columns" },
    element("div", {}, COLUMNS.slice(1).map(({ key, label }) => {
      const box = element("input", { type: "checkbox", checked: columnsShown.has(key),
        on: { change: () => showColumn(key, box.checked) } });
      return element("label", {}, box, label);
    })));
  const body = element("tbody");
  const table = element("table", { class: "runs" }, element("thead", {}, headingRow), body);
  const bar = element("div", { class: "bar", role: "region", "aria-label": "Comparison" });
  const empty = element("section", { class: "empty" });
  const reportList = element("p", { class: "reports" });
  page.append(
    element("div", { class: "headline" }, element("div", {}, element("h1", {}, "Runs"), summary),
      input, chooser),
    reportList,
    empty,
    element("div", { class: "runs-frame" }, table),
    bar,
  );

  function showColumn(key, is) {
    if (is) columnsShown.add(key);
    else columnsShown.delete(key);
    store("columns", [...columnsShown].join(" "));
    made.clear();
    arrange();
  }

  const visibleColumns = () => COLUMNS.filter(({ key }) => key === "name" || columnsShown.has(key));

  /** The runs with the lowest validation loss among those with the same text. */
  function bestOnes() {
    const groups = Map.groupBy([...rows.values()].filter(({ best }) => best), ({ group }) => group);
    const lowest = (group) =>
      group.reduce((left, right) => (right.best.val_loss < left.best.val_loss ? right : left));
    return new Set(
      [...groups.values()].filter((group) => group.length > 1).map((group) => lowest(group).name),
    );
  }

  function sortBy(key) {
    const column = COLUMNS.find((known) => known.key === key);
    sorting.direction = sorting.key === key ? -sorting.direction : column.direction;
    sorting.key = key;
    arrange();
  }

  function visible() {
    const words = search.toLowerCase().split(/\s+/).filter(Boolean);
    const { by: value } = COLUMNS.find(({ key }) => key === sorting.key);
    const found = [...rows.values()].filter((row) => {
      const text = [row.name, row.preset, row.model, row.clip, row.state, row.words,
        row.damage ? "damaged" : ""]
        .join(" ").toLowerCase();
      return words.every((word) => text.includes(word));
    });
    return found.sort((left, right) => {
      const [a, b] = [value(left), value(right)];
      const order = typeof a === "string" ? a.localeCompare(b, "en", { numeric: true }) : a - b;
      return order * sorting.direction
        || left.name.localeCompare(right.name, "en", { numeric: true });
    });
  }

  function line(row, best) {
    const progress = row.steps ? Math.min(1, (row.step ?? 0) / row.steps) : 0;
    const choose = element("input", {
      type: "checkbox",
      checked: chosen.has(row.name),
      "aria-label": `Select ${row.name} for comparison`,
      on: { change: () => choosing(row.name, choose.checked) },
    });
    const content = {
      name:
        () => [element("a", { href: runAddress(row.name) }, shortName(row.name)),
          element("small", {}, [row.model, row.clip].filter(Boolean).join(" · ") || "no plan")],
      state: () => [badge(row.state), row.damage
        ? element("span", { class: "badge damaged", title: row.damage.reason }, "damaged")
        : null],
      class: () => [
        element("span", { class: `tone ${row.tone ?? "plain"}` },
          row.words ?? (row.digested ? "–" : "reading…")),
        element("small", {}, [
          row.digested && row.clip !== "none"
            ? percent(row.clipped_share)
              + (row.since ? ` since step ${count(row.since)}` : " of steps")
            : null,
          row.skipped ? `${count(row.skipped)} skipped` : null,
        ].filter(Boolean).join(", ")),
      ],
      norms: () => sparkline(row.norms, row.thresholds),
      step:
        () => [count(row.step), row.steps ? element("small", {}, ` of ${count(row.steps)}`) : null,
          element("div", { class: "progress" },
            element("i", { style: { width: `${100 * progress}%` } }))],
      loss: () => significant(row.loss),
      best: () => [
        best.has(row.name)
          ? element("span", { class: "badge best", title: "The lowest of all runs on this text" },
            "best")
          : null,
        significant(row.best?.val_loss),
        row.best ? element("small", {}, `step ${count(row.best.step)}`) : null,
      ],
      lr: () => (row.lr === null ? "–" : String(Number(row.lr.toPrecision(3)))),
      clipped: () => (row.clip === "none" ? "–" : percent(row.clipped_share)),
      speed: () => count(row.tokens_per_second),
      modified: () => ago(row.modified),
    };
    return element("tr", { "data-run": row.name, class: row.name === cursor ? "current" : null },
      element("td", { class: "c-choose" }, choose),
      visibleColumns().map(({ key, label, number }) =>
        element("td", { class: `c-${key} ${number ? "number" : ""}`,
          "data-label": number ? label.toLowerCase() : null }, content[key]())
      ));
  }

  function arrange() {
    const found = visible();
    if (!found.some((row) => row.name === cursor)) cursor = null;
    const best = bestOnes();
    const lines = found.map((row) => {
      if (!made.has(row.name)) made.set(row.name, line(row, best));
      return made.get(row.name);
    });
    const same = lines.length === body.children.length
      && lines.every((made, place) => body.children[place] === made);
    if (!same) fill(body, ...lines);
    fill(headingRow,
      element("th", { class: "c-choose" }, element("span", { class: "hidden" }, "Select")),
      visibleColumns().map(({ key }) => headings.get(key)));
    headings.forEach((heading, key) => {
      if (key === sorting.key)
        heading.setAttribute("aria-sort", sorting.direction > 0 ? "ascending" : "descending");
      else heading.removeAttribute("aria-sort");
    });
    const running = [...rows.values()].filter((row) => row.state === "running").length;
    const all = `${count(rows.size)} ${rows.size === 1 ? "run" : "runs"}`;
    const parts = [found.length === rows.size ? all : `${count(found.length)} of ${all}`];
    if (running > 0) parts.push(`${running} running`);
    if (rows.size > 0) summary.textContent = parts.join(", ");
    table.hidden = rows.size === 0;
    input.hidden = rows.size === 0;
    chooser.hidden = rows.size === 0;
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
    fill(bar, element("span", {}, names.length === 1
      ? "Select another run to compare with"
      : `${names.length} runs selected`), names.length > 1
      ? element("a", { class: "primary", href: compareAddress(names) }, "Compare")
      : null, button("Clear", () => {
        chosen.clear();
        made.clear();
        arrange();
      }, { class: "quiet" }));
  }

  function showEmpty(folder) {
    const none = rows.size === 0;
    empty.hidden = !none;
    if (!none) return;
    summary.textContent = "";
    fill(empty, element("h2", {}, "No runs yet"),
      element("p", {}, "There is no run in ", element("code", {}, folder),
        ". Start one, and it appears here while it trains:"),
      element("pre", {}, element("code", {}, `shears train my-text.txt --out ${folder}/first`)),
      element("p", { class: "how" }, "Without a text it trains on a built-in one: ",
        element("code", {}, "shears train"), "."));
  }

  function take(news) {
    const before = [...bestOnes()];
    for (const row of news) {
      made.delete(row.name);
      if (row.gone) rows.delete(row.name);
      else rows.set(row.name, row);
    }
    // Another run may be the best now.
    for (const name of [...before, ...bestOnes()]) made.delete(name);
    if (rows.size > 0) empty.hidden = true;
    arrange();
  }

  let stop = () => {};
  let closed = false;
  ask("runs").then(({ folder, reports, runs }) => {
    if (closed) return;
    fill(reportList, reports.length ? "Reports: " : null,
      reports.map((name) =>
        element("a", { href: `/report?of=${encodeURIComponent(name)}`, target: "_blank" },
          shortName(name) === name ? name : "this folder")
      ));
    take(runs);
    showEmpty(folder);
    stop = watch(null, take);
  }).catch((error) => {
    summary.textContent = error.message;
  });

  // Keeps "3 min ago" up to date, unless the user is about to press something in the list.
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
  return { close: () => {
    closed = true;
    clearInterval(clock);
    stop();
  }, keys, title: null, crumbs: [] };
}
