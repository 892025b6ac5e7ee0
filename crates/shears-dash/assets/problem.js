// What is shown where there is nothing to show.

import { element } from "./elements.js";

/** A page that says what is wrong, and leads back to the list. */
export function showProblem(page, title, reason) {
  page.replaceChildren(
    element("section", { class: "empty" },
      element("h2", {}, title),
      element("p", {}, reason),
      element("p", { class: "how" }, element("a", { href: "#/" }, "All runs of this folder"))));
  return { close: () => {}, keys: {}, title, crumbs: [] };
}
