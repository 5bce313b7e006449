// Where an answered query's time goes: each stage's median, 95th and 99th percentile on one logarithmic ruler.

import { linear, path } from "./chart.js";
import { h } from "./dom.js";
import { count, ms, NONE, span } from "./format.js";
import { panel } from "./panel.js";

const MEANS = {
  queue: "waiting for a device",
  features: "rows of the candidates",
  device: "forward pass, top-k",
  hop: "gateway, there and back",
  total: "permit to answer",
};

export function latencyPanel({ feeds, width }) {
  return panel("latency", "Latency by stage", "ms, answered queries", feeds.traffic, {
    empty: (traffic) => (traffic.answered ? null : `No answered query in the last ${span((traffic.until_ms - traffic.since_ms) / 1000)}.`),
    body: (traffic) => {
      const seen = traffic.stages.flatMap((one) => [one.p50_ms, one.p99_ms]).filter((one) => one > 0);
      const low = Math.floor(Math.log10(Math.max(0.01, Math.min(...seen))) + 1e-9);
      const high = Math.max(low + 1, Math.ceil(Math.log10(Math.max(...seen)) - 1e-9));
      const wide = Math.max(90, width("latency", 520) - 330);
      const x = linear(6, wide - 8, low, high);
      const sx = (value) => x(Math.log10(Math.max(10 ** low, value)));
      const decades = Array.from({ length: high - low + 1 }, (_, place) => low + place);
      return [
        h("div", { key: "stages", id: "latency-host", class: "scroll", tabindex: "0", role: "region", "aria-label": "Latency by stage" },
          h("table", { class: "rows stages" },
            h("caption", { class: "unseen" }, `Latency by stage in milliseconds, ${count(traffic.answered)} queries`),
            h("thead", {}, h("tr", {},
              h("th", { scope: "col" }, "stage"),
              h("th", { scope: "col", class: "ruler", "aria-hidden": "true" }, h("svg", { width: wide, height: 14 }, decades.map((one) => h("text", { x: x(one), y: 11, "text-anchor": one === low ? "start" : one === high ? "end" : "middle" }, ruler(one))))),
              h("th", { scope: "col", class: "n" }, "p50"), h("th", { scope: "col", class: "n" }, "p95"), h("th", { scope: "col", class: "n" }, "p99"),
            )),
            h("tbody", {}, traffic.stages.map((one) =>
              h("tr", { key: one.stage, class: one.stage === "total" ? "sum" : "" },
                h("th", { scope: "row" }, one.stage, h("span", { class: "means" }, MEANS[one.stage] || "")),
                h("td", { class: "ruler", "aria-hidden": "true" }, bar(one, wide, decades, x, sx)),
                h("td", { class: "n" }, ms(one.p50_ms)), h("td", { class: "n" }, ms(one.p95_ms)), h("td", { class: "n strong" }, ms(one.p99_ms)),
              ),
            )),
          ),
        ),
        h("p", { key: "key", class: "hint" }, h("span", { class: "mark dot", "aria-hidden": "true" }), " median ", h("span", { class: "mark bar", "aria-hidden": "true" }), " to p95 ", h("span", { class: "mark whisker", "aria-hidden": "true" }), ` to p99. ${count(traffic.answered)} queries of ${span(traffic.watched_s)}; read from buckets, to 19 %.`),
        h("div", { key: "over", class: "over" }, h("span", { class: "means" }, "total over time, p50 and p99"), spark(traffic)),
      ];
    },
  });
}

function ruler(power) {
  return power >= 3 ? `${10 ** (power - 3)} s` : `${Number((10 ** power).toPrecision(1))}`;
}

function bar(one, wide, decades, x, sx) {
  if (one.p50_ms === null) return h("svg", { width: wide, height: 20 });
  const [p50, p95, p99] = [one.p50_ms, one.p95_ms, one.p99_ms].map(sx);
  return h("svg", { width: wide, height: 20, class: "stage" },
    decades.map((power) => h("line", { class: "rule", x1: x(power), x2: x(power), y1: 0, y2: 20 })),
    h("line", { class: "whisker", x1: p95, x2: p99, y1: 10, y2: 10 }),
    h("line", { class: "whisker", x1: p99, x2: p99, y1: 6, y2: 14 }),
    h("rect", { class: "span", x: p50, y: 6.5, width: Math.max(1, p95 - p50), height: 7, rx: 2 }),
    h("circle", { class: "median", cx: p50, cy: 10, r: 4.5 }),
  );
}

function spark(traffic) {
  const total = traffic.stages.at(-1);
  const seen = total.p99_ms_of.filter((one) => one !== null);
  const [width, height] = [220, 34];
  const sx = linear(2, width - 2, 0, total.p99_ms_of.length - 1);
  const sy = linear(height - 3, 3, 0, Math.max(...seen, 0.01));
  const xs = total.p99_ms_of.map((_, place) => sx(place));
  const label = `p99 of the total over ${span((traffic.until_ms - traffic.since_ms) / 1000)}: between ${ms(Math.min(...seen))} and ${ms(Math.max(...seen))}`;
  return [
    h("svg", { class: "spark", viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": seen.length ? label : "no query" },
      h("path", { class: "p50", d: path(xs, total.p50_ms_of.map((one) => (one === null ? null : sy(one)))) }),
      h("path", { class: "p99", d: path(xs, total.p99_ms_of.map((one) => (one === null ? null : sy(one)))) }),
    ),
    h("span", { class: "means" }, seen.length ? `p99 ${ms(Math.min(...seen))} to ${ms(Math.max(...seen))}` : NONE),
  ];
}
