// One step: the size of its gradient, what clipping did, and the batch.

import { ask, runAddress } from "./api.js";
import { Chart, Crosshair } from "./charts.js";
import { button, element, fill } from "./elements.js";
import { count, percent, sentence, shortName, significant } from "./format.js";
import { PANELS, valuesOf } from "./panels.js";
import { showProblem } from "./problem.js";

/** The steps on each side in the small chart. */
const AROUND = 60;

export function showStep(page, name, step) {
  let closed = false;
  let view = null;
  const crosshair = new Crosshair();
  const go = (to) => {
    if (to !== null && to !== undefined) location.hash = runAddress(name, to);
  };
  const title = element("h1", {}, `Step ${count(step)}`);
  const lead = element("p", { class: "lead" }, "Reading…");
  const walk = element("div", { class: "walk" });
  const facts = element("dl", { class: "facts" });
  const tensors = element("section", { class: "tensors" });
  const batch = element("section", { class: "batch" });
  const chart = new Chart({
    ...PANELS[0],
    bare: false,
    title: "Around this step",
    height: 200,
    how: "The gradient norm of the steps around it; click one to open it.",
  }, { crosshair, zoom: () => {}, reset: () => {}, open: go });
  page.append(element("div", { class: "headline" }, element("div", {}, title, lead), walk), facts,
    chart.element, tensors, batch);

  /** What happened, in a sentence. */
  function whatHappened({ clip }) {
    const norm = significant(clip.norm_before);
    const more = view.times
      ? `, ${significant(view.times, 3)} times the median of the ${view.ordinary} steps before`
      : "";
    if (clip.action === "skip") {
      const where = clip.first_non_finite ? `, first in ${clip.first_non_finite}` : "";
      const why = clip.skip_reason ?? "its gradient could not be used";
      return `This step was skipped: ${why}${where}. `
        + "Parameters, moments and schedule did not change.";
    }
    if (clip.action === "clip") {
      const after = significant(clip.norm_after);
      if (clip.norm_after > clip.norm_before) {
        return `The gradient norm was ${norm}${more}, and was raised to ${after}.`;
      }
      const cut = percent(1 - clip.coefficient);
      return `The gradient norm was ${norm}${more}, and was cut to ${after}, by ${cut}.`;
    }
    return `The gradient norm was ${norm}${more}. Clipping did not change it.`;
  }

  /** The order of a policy's norm; null for the Euclidean one. */
  const orderOf = (policy) => policy.match(/\bp=([^,+\s]+)/)?.[1] ?? null;

  /** The policy that clipped this step: resumed runs may have changed it later. */
  function policyOf({ clip, changes }) {
    const later = changes.filter((change) => change.name === "clip" && change.step >= step);
    const earliest = later.reduce((first, change) => (
      first && first.step <= change.step ? first : change), null);
    return earliest ? earliest.before : clip;
  }

  function showFacts(event, policy) {
    const { clip } = event;
    const fact = (label, value, hint = null) =>
      element("div", {}, element("dt", {}, label),
        element("dd", {}, value, hint ? element("small", {}, hint) : null));
    const order = orderOf(policy ?? "");
    fill(facts, fact("action", clip.action), fact("policy", policy ?? "–"),
      fact("norm before", significant(clip.norm_before, 6),
        `${order === null ? "Euclidean" : `of order ${order}`}, over all tensors`),
      fact("threshold", significant(clip.threshold, 6)),
      fact("coefficient", significant(clip.coefficient, 6)),
      fact("norm after", significant(clip.norm_after, 6)), clip.cosine === null
      ? null
      : fact("cosine", significant(clip.cosine, 6),
        clip.cosine < 0.999999 ? "direction changed" : "direction kept"), clip.clipped_share
      ? fact("elements changed", percent(clip.clipped_share))
      : null, clip.non_finite ? fact("not finite", `${count(clip.non_finite)} elements`) : null,
      fact("loss", significant(event.loss, 6), "nats per token"),
      fact("learning rate", significant(event.lr, 5)));
  }

  function showTensors(event, policy) {
    const euclidean = orderOf(policy) === null;
    const longest = Math.max(...view.tensors.map(({ norm, median }) => Math.max(norm, median ?? 0)),
      1e-300);
    const ratios = event.update_ratios ?? {};
    const rows = view.tensors.map(({ name: tensor, norm, median, times, far, share }) => {
      const bar = element("div", { class: "length" },
        element("i", { style: { width: `${(100 * norm) / longest}%` } }), median
        ? element("b", { style: { left: `${(100 * median) / longest}%` },
          title: `median ${significant(median)}` })
        : null);
      return element("tr", { class: far ? "far" : null }, element("th", { scope: "row" }, tensor),
        element("td", { class: "c-bar" }, bar), element("td", {}, significant(norm)),
        element("td", {}, significant(median)),
        element("td", {}, times === null ? "–" : `${significant(times, 3)}×`),
        element("td", {}, euclidean ? percent(share) : "–"),
        element("td", {}, ratios[tensor] === undefined ? "–" : significant(ratios[tensor], 3)));
    });
    fill(tensors, element("h2", {}, "Tensors"), element("p", { class: "how" }, rows.length
      ? "Largest first. The tick in a bar is the tensor's median over the "
        + `${count(view.ordinary)} steps before; coloured rows exceed three times that.`
      : "No tensor had a finite gradient at this step."));
    if (rows.length) {
      tensors.append(
        element("div", { class: "scroll" },
          element("table", {},
            element("thead", {},
              element("tr", {},
                ["tensor", "", "norm", "median", "times", "share of square", "update / weights"]
                  .map((label) => element("th", { scope: "col" }, label)))),
            element("tbody", {}, rows))),
      );
    }
  }

  async function showBatch() {
    const { rows, problem } = await ask("batch", { run: name, step });
    if (closed) return;
    const first = rows.slice(0, 8);
    const lines = (texts, from) =>
      element("ol", { start: String(from) }, texts.map((text) => element("li", {}, text)));
    fill(batch, element("h2", {}, "Batch"), element("p", { class: "how" }, problem
      ? `${sentence(problem)}.`
      : `The ${count(rows.length)} rows of text that gave this gradient.`), lines(first, 1));
    if (rows.length > first.length) {
      batch.append(
        element("details", {},
          element("summary", {}, `${count(rows.length - first.length)} more rows`),
          lines(rows.slice(8), 9)),
      );
    }
  }

  function showWalk() {
    const link = (label, to, hint) =>
      button(label, () => go(to), { class: "quiet", title: hint, disabled: to === null });
    fill(walk, link("← previous", view.previous, "Previous step (←)"),
      link("next →", view.next, "Next step (→)"),
      link("previous clipped", view.previous_acted, "Previous clipped step (p)"),
      link("next clipped", view.next_acted, "Next clipped step (n)"));
  }

  async function load() {
    const [found, about, series] = await Promise.all([
      ask("step", { run: name, step }),
      ask("run", { run: name }),
      ask("series", { run: name, from: Math.max(0, step - AROUND), to: step + AROUND,
        points: 4 * AROUND }),
    ]);
    if (closed) return;
    view = found;
    lead.textContent = whatHappened(found.event);
    page.dataset.step = String(step);
    showWalk();
    showFacts(found.event, policyOf(about));
    const values = { ...valuesOf(series, { unit: "nats", bits: null, smoothing: 0 }), at: step };
    chart.show(values, [series.step[0], series.step.at(-1)]);
    showTensors(found.event, policyOf(about) ?? "");
    await showBatch();
  }

  load().catch((error) => {
    if (closed) return;
    close();
    showProblem(page, "There is nothing to show", `${sentence(error.message)}.`);
  });
  const keys = {
    ArrowLeft: () => go(view?.previous),
    ArrowRight: () => go(view?.next),
    p: () => go(view?.previous_acted),
    n: () => go(view?.next_acted),
  };
  function close() {
    closed = true;
    chart.close();
  }
  return { close, keys, title: `Step ${count(step)} · ${shortName(name)}`,
    crumbs: [[shortName(name), runAddress(name)], [`step ${count(step)}`]] };
}
