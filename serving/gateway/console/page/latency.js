// Where an answered query's time goes: each stage's median, 95th and 99th percentile on one logarithmic ruler.

import { frame, linear, path } from "./chart.js";
import { h } from "./dom.js";
import { clock, count, ms, plain, span } from "./format.js";
import { panel } from "./panel.js";

const MEANS = {
  queue: "wait for a device",
  features: "rows of items",
  device: "forward pass",
  hop: "there and back",
  total: "permit to answer",
};

export function latencyPanel(ctx) {
  const { feeds, width } = ctx;
  return panel("latency", "Latency by stage", "ms, answered queries", feeds.traffic, {
    empty: (traffic) => (traffic.answered ? null : `No answered query in the last ${span((traffic.until_ms - traffic.since_ms) / 1000)}.`),
    body: (traffic) => {
      const seen = traffic.stages.flatMap((one) => [one.p50_ms, one.p99_ms]).filter((one) => one > 0);
      const low = Math.floor(Math.log10(Math.max(0.01, Math.min(...seen))) + 1e-9);
      const high = Math.max(low + 1, Math.ceil(Math.log10(Math.max(...seen)) - 1e-9));
      const wide = Math.max(80, width("latency", 520) - 350);
      const x = linear(6, wide - 8, low, high);
      const sx = (value) => x(Math.log10(Math.max(10 ** low, value)));
      const decades = Array.from({ length: high - low + 1 }, (_, place) => low + place);
      return [
        h("div", { key: "stages", id: "latency-host", class: "scroll", tabindex: "0", role: "region", "aria-label": "Latency by stage" },
          h("table", { class: "rows stages" },
            h("caption", { class: "unseen" }, `Latency by stage in milliseconds, ${count(traffic.answered)} queries`),
            h("thead", {}, h("tr", {},
              h("th", { scope: "col" }, "stage"),
              h("th", { scope: "col", class: "ruler", "aria-hidden": "true" }, h("svg", { width: wide, height: 14 }, decades.filter((one) => (one - low) % Math.ceil(34 / ((wide - 14) / (high - low))) === 0).map((one) => h("text", { x: x(one), y: 11, "text-anchor": one === low ? "start" : one === high ? "end" : "middle" }, ruler(one))))),
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
        overTime(traffic, ctx),
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

function overTime(traffic, { state, set, width }) {
  const total = traffic.stages.at(-1);
  const seen = total.p99_ms_of.filter((one) => one !== null);
  const at = { width: width("total", 480), height: 128, left: 40, right: 8, top: 10, bottom: 20 };
  const xs = traffic.steps_ms;
  const cursor = state.cursor.total ?? null;
  const tell = (place) => `${clock(xs[place])}: p50 ${ms(total.p50_ms_of[place])}, p99 ${ms(total.p99_ms_of[place])}`;
  return h("figure", { key: "over", class: "figure later", id: "total-host" },
    h("figcaption", { class: "apart" }, h("span", {}, "Total over time, ms"), h("span", { class: "legend" }, h("span", { class: "key p50" }, "p50"), h("span", { class: "key p99" }, "p99"))),
    frame({
      id: "total-chart", at, xs, about: 3, cursor, tell,
      x: { low: traffic.since_ms, high: traffic.until_ms, format: (value) => clock(value, false) },
      y: { low: 0, high: Math.max(...seen, 0.01) * 1.08, format: plain },
      label: `Total latency over ${span((traffic.until_ms - traffic.since_ms) / 1000)}: p50 ${ms(total.p50_ms)}, p99 ${ms(total.p99_ms)}.`,
      move: (next) => set(() => { state.cursor.total = next; }),
      draw: (sx, sy) => ["p50", "p99"].map((one) => h("path", { key: one, class: `line ${one}`, d: path(xs.map(sx), total[`${one}_ms_of`].map((value) => (value === null ? null : sy(value)))) })),
    }),
    h("output", { class: "tell", "aria-live": "polite" }, cursor === null ? "" : tell(cursor)),
  );
}
