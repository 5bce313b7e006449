// What all panels have in common: a title with its unit, and what to say while there is nothing, or nothing new.

import { h } from "./dom.js";
import { clock } from "./format.js";

/** feed: whose answer the panel shows. parts: the body, called only when there is an answer. empty: what to say instead
 * of it, null if there is something to show. */
export function panel(id, title, unit, feed, { tools = null, empty = null, hint = null, body }) {
  return h(
    "section",
    { key: id, id, class: `panel ${feed.stale || (feed.data && feed.error) ? "stale" : ""}`, "aria-labelledby": `${id}-title`, "aria-busy": feed.data || feed.error ? "false" : "true" },
    h("header", { class: "head" },
      h("h2", { id: `${id}-title`, tabindex: "-1" }, title, h("span", { class: "unit" }, unit)),
      h("div", { class: "tools" }, feed.data ? tools : null),
    ),
    note(feed),
    h("div", { key: "body", class: "body" }, content(feed, empty, hint, body)),
  );
}

function content(feed, empty, hint, body) {
  if (!feed.data) {
    if (feed.error) return null;
    return h("p", { key: "loading", class: "blank loading" }, feed.asked ? "Loading…" : "Nothing to show yet.");
  }
  const nothing = typeof empty === "function" ? empty(feed.data) : empty;
  if (nothing) return h("div", { key: "empty", class: "blank" }, h("p", {}, nothing), hint && h("p", { class: "hint" }, hint));
  return body(feed.data);
}

function note(feed) {
  if (!feed.error && !feed.stale) return null;
  const why = feed.error ? feed.error.message : "no answer for a while";
  const what = feed.data ? `These figures are of ${clock(feed.atMs)}. Since then: ` : "";
  return h("p", { key: "note", class: "note", role: "status" }, h("span", { class: "sign", "aria-hidden": "true" }, "!"), ` ${what}${why}. Asking again.`);
}

/** A chart's numbers as a table, folded away. rows: arrays of cells; the first is the row's name. */
export function numbers(key, caption, head, rows) {
  return h("details", { key, class: "numbers" },
    h("summary", {}, "Numbers"),
    h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
      h("table", {},
        h("caption", { class: "unseen" }, caption),
        h("thead", {}, h("tr", {}, head.map((one) => h("th", { scope: "col" }, one)))),
        h("tbody", {}, rows.map((cells) => h("tr", {}, cells.map((cell, place) => (place ? h("td", {}, cell) : h("th", { scope: "row" }, cell)))))),
      ),
    ),
  );
}

export function verdict(of) {
  const sign = { passed: "✓", failed: "✕", inconclusive: "…", errored: "!" }[of] || "";
  return h("span", { class: `verdict v-${of}` }, h("span", { "aria-hidden": "true" }, `${sign} `), of);
}
