// The page for a problem.

import { element } from "./elements.js";

/** Says what is wrong, and links to the list. */
export function showProblem(page, title, reason) {
  page.replaceChildren(
    element("section", { class: "empty" }, element("h2", {}, title), element("p", {}, reason),
      element("p", { class: "how" }, element("a", { href: "#/" }, "All runs of this folder"))),
  );
  return { close: () => {}, keys: {}, title, crumbs: [] };
}
