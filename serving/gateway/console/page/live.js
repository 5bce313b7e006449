// A few of the newest answers: what was ranked, by which arm, and where the time went. Nobody's name is in it.

import { linear } from "./chart.js";
import { h } from "./dom.js";
import { clock, ms, number } from "./format.js";
import { panel } from "./panel.js";

const SHOWN = 17;
const STAGES = ["queue", "features", "device", "hop"];

export function livePanel({ feeds, state, set }) {
  const frozen = state.live.frozen;
  const feed = feeds.live;
  return panel("live", "Live queries", "a sample", feed, {
    tools: [h("span", { key: "stages", class: "legend means" }, STAGES.map((stage) => h("span", { key: stage, class: `key k-${stage}` }, stage))), h("button", { id: "live-pause", type: "button", "aria-pressed": frozen ? "true" : "false", onclick: () => set(() => { state.live.frozen = frozen ? null : feed.data; }) }, frozen ? "Go on" : "Pause")],
    empty: (found) => (found.glimpses.length ? null : "No query in the last hour."),
    hint: "POST /v1/models/{model}/rank",
    body: (found) => {
      const rows = (frozen || found).glimpses.slice(0, SHOWN);
      const longest = Math.max(...rows.map((one) => one.stages_ms.total || 0), 1);
      return h("div", { key: "queries", class: "scroll", tabindex: "0", role: "region", "aria-label": "Live queries" },
        h("table", { class: "rows queries" },
          h("caption", { class: "unseen" }, "The newest answers, the newest first"),
          h("thead", {}, h("tr", {}, h("th", { scope: "col", class: "at" }, "UTC"), h("th", { scope: "col", class: "arm" }, "arm"), h("th", { scope: "col" }, "best items"), h("th", { scope: "col", class: "n of" }, "candidates"), h("th", { scope: "col", class: "n split" }, "time"), h("th", { scope: "col", class: "n total" }, "total"))),
          h("tbody", {}, rows.map((one) => query(one, longest))),
        ),
      );
    },
  });
}

function query(one, longest) {
  const total = one.stages_ms.total || 0;
  const parts = STAGES.map((stage) => `${stage} ${ms(one.stages_ms[stage] ?? null)}`).join(", ");
  return h("tr", { key: one.ranking_id },
    h("th", { scope: "row", title: `ranking ${one.ranking_id}` }, clock(one.answered_ms)),
    h("td", {}, h("span", { class: `tag a-${one.arm}`, title: one.experiment ? `experiment ${one.experiment}` : null }, `${one.arm} @${one.version}`), one.degraded.length ? h("span", { class: "warn", title: `degraded: ${one.degraded.join("; ")}` }, h("span", { class: "sign", "aria-hidden": "true" }, "!"), h("span", { class: "unseen" }, "degraded")) : null),
    h("td", { class: "items" }, one.items.map((item, place) => h("span", { key: place, class: "item", title: `${item}, score ${number(one.scores[place])}` }, item)), one.shown > one.items.length ? h("span", { class: "means" }, `+${one.shown - one.items.length}`) : null),
    h("td", { class: "n of" }, `${one.candidates}`),
    h("td", { class: "n split" }, bar(one, longest, parts)),
    h("td", { class: "n" }, ms(total)),
  );
}

function bar(one, longest, parts) {
  const [wide, high] = [72, 10];
  const x = linear(0, wide, 0, longest);
  let from = 0;
  return h("svg", { width: wide, height: high, role: "img", "aria-label": parts, class: "split" }, h("title", {}, parts),
    STAGES.map((stage) => {
      const time = one.stages_ms[stage] || 0;
      const part = h("rect", { key: stage, class: `s-${stage}`, x: x(from), y: 0, width: Math.max(0, x(time)), height: high });
      from += time;
      return part;
    }),
  );
}
