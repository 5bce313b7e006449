// Who answers whom, how much and how fast.

import { band, frame, path } from "./chart.js";
import { h } from "./dom.js";
import { clip, clock, count, moment, ms, NONE, number, percent, plain, span, steps } from "./format.js";
import { numbers, panel } from "./panel.js";

const LATELY = 6;

export function arms(traffic, versions) {
  const places = new Map((versions?.versions || []).map((one) => [one.version, one.place]));
  return traffic.arms.map((arm) => {
    const holdback = arm.arm === "challenger" && (arm.experiment.startsWith("holdback") || places.get(arm.version) === "holdback");
    const kind = holdback ? "holdback" : arm.arm;
    const at = arm.version === null ? "" : ` @${arm.version}`;
    return { ...arm, kind, name: `${kind}${at}`, lately: lately(arm.per_s), key: `${arm.arm}/${arm.experiment}` };
  });
}

function lately(values) {
  const seen = values.filter((one) => one !== null).slice(-LATELY);
  return seen.length ? seen.reduce((sum, one) => sum + one, 0) / seen.length : null;
}

export function trafficPanel({ feeds, state, set, width }) {
  const versions = feeds.versions.data;
  return panel("traffic", "Versions and traffic", "answers a second, latency in ms", feeds.traffic, {
    body: (traffic) => {
      const found = arms(traffic, versions);
      return [
        versions && shares(versions),
        versions && versionTable(versions, found),
        versions?.registry ? h("p", { key: "registry", class: "hint" }, `Without figures of training, for the registry does not answer: ${versions.registry}`) : null,
        found.length
          ? h("div", { key: "charts", class: "pair" },
              chart("rate", "Answers a second", found, traffic, "per_s", (value) => `${number(value)} /s`, plain, { state, set, width }),
              chart("p99", "p99, permit to answer", found, traffic, "p99_ms_of", ms, axisMs, { state, set, width }),
            )
          : h("p", { key: "quiet", class: "blank" }, `No query in the last ${span((traffic.until_ms - traffic.since_ms) / 1000)}.`),
        found.length
          ? numbers("numbers", "Answers a second and p99 by arm", ["UTC", ...found.flatMap((arm) => [`${arm.name}, /s`, `${arm.name}, p99 ms`])],
              traffic.steps_ms.map((at, place) => [clock(at), ...found.flatMap((arm) => [number(arm.per_s[place]), number(arm.p99_ms_of[place])])]).toReversed())
          : null,
      ];
    },
  });
}

function axisMs(value) {
  return value >= 1000 ? `${value / 1000} s` : `${Number(value.toPrecision(3))}`;
}

function shares({ versions }) {
  const served = versions.filter((one) => one.share > 0);
  const words = served.map((one) => `${one.place} @${one.version} ${steps(one.share)}`).join(", ");
  return h("div", { key: "shares", class: "shares", role: "img", "aria-label": `Shares of units by the plan: ${words}` },
    served.map((one) =>
      h("svg", { key: one.version, class: `share a-${one.place}`, width: `${one.share / 10}%`, height: 22 },
        h("rect", { width: "100%", height: 22, rx: 3 }),
        one.share >= 70 ? h("text", { x: 8, y: 15 }, clip(`@${one.version}  ${steps(one.share)}`, one.share >= 140 ? 40 : 12)) : null,
      ),
    ),
  );
}

function versionTable({ versions }, found) {
  const metric = mainMetric(versions);
  return h("div", { key: "versions", class: "scroll", tabindex: "0", role: "region", "aria-label": "Versions" },
    h("table", { class: "rows versions" },
      h("caption", { class: "unseen" }, "Versions and their place in the traffic"),
      h("thead", {}, h("tr", {},
        h("th", { scope: "col" }, "version"), h("th", { scope: "col" }, "place"), num("units"), num("answers"), num("p50"), num("p99"), num("failed"), num("degraded"), metric ? num(short(metric)) : null, num("since"),
      )),
      h("tbody", {}, versions.slice(0, 8).map((one) => {
        const mine = found.filter((arm) => arm.version === one.version && arm.kind !== "outside");
        const arm = mine[0];
        const asked = arm ? arm.answered + arm.failed : 0;
        return h("tr", { key: one.version },
          h("th", { scope: "row" }, `@${one.version}`),
          h("td", {}, h("span", { class: `tag a-${one.place}` }, one.place)),
          h("td", { class: "n" }, one.share ? steps(one.share) : one.mirror_share ? `mirror ${steps(one.mirror_share)}` : NONE),
          h("td", { class: "n" }, arm ? `${number(arm.lately)} /s` : NONE),
          h("td", { class: "n" }, arm ? ms(arm.p50_ms) : NONE),
          h("td", { class: "n" }, arm ? ms(arm.p99_ms) : NONE),
          h("td", { class: `n ${asked && arm.failed / asked > 0.01 ? "bad" : ""}` }, asked ? percent(arm.failed / asked) : NONE),
          h("td", { class: "n" }, arm && arm.answered ? percent(arm.degraded / arm.answered) : NONE),
          metric ? h("td", { class: "n" }, one.metrics && metric in one.metrics ? one.metrics[metric].toFixed(4) : NONE) : null,
          h("td", { class: "n" }, moment(one.promoted_ms ?? one.created_ms)),
        );
      })),
    ),
  );
}

function num(title) {
  return h("th", { scope: "col", class: "n" }, title);
}

function mainMetric(versions) {
  const counts = new Map();
  for (const one of versions) for (const name of Object.keys(one.metrics || {})) counts.set(name, (counts.get(name) || 0) + 1);
  const names = [...counts.keys()].sort((a, b) => counts.get(b) - counts.get(a) || a.localeCompare(b));
  return names.find((name) => name.includes("test") && name.includes("ndcg")) || names.find((name) => name.includes("ndcg")) || null;
}

function short(metric) {
  return clip(metric.replaceAll("_", " ").replace("ndcg", "NDCG"), 16);
}

function chart(id, title, found, traffic, field, say, axis, { state, set, width }) {
  const at = { width: width(id, 420), height: 150, left: 40, right: 8, top: 10, bottom: 20 };
  const xs = traffic.steps_ms;
  const highest = Math.max(...found.flatMap((arm) => arm[field].filter((one) => one !== null)), 0);
  const y = { low: 0, high: (highest || 1) * 1.08, format: axis };
  const cursor = state.cursor[id] ?? null;
  const tell = (place) => `${clock(xs[place])}: ${found.map((arm) => `${arm.name} ${arm[field][place] === null ? "nothing" : say(arm[field][place])}`).join(", ")}`;
  const now = found.map((arm) => `${arm.name} ${say(field === "per_s" ? arm.lately : arm.p99_ms)}`).join(", ");
  return h("figure", { key: id, class: "figure", id: `${id}-host` },
    h("figcaption", {}, h("span", {}, title), h("span", { class: "legend" }, found.map((arm) => h("span", { key: arm.key, class: `key a-${arm.kind}` }, arm.name)))),
    frame({
      id: `${id}-chart`, at, xs, y, x: { low: traffic.since_ms, high: traffic.until_ms, format: (value) => clock(value, false) },
      label: `${title} by arm over ${span((traffic.until_ms - traffic.since_ms) / 1000)}; ${now}.`,
      cursor, move: (next) => set(() => { state.cursor[id] = next; }), tell,
      draw: (sx, sy) => found.map((arm) => {
        const ys = arm[field].map((one) => (one === null ? null : sy(one)));
        const places = xs.map(sx);
        return h("g", { key: arm.key, class: `series a-${arm.kind}` },
          field === "per_s" ? h("path", { class: "under", d: band(places, ys.map((one) => (one === null ? null : sy(0))), ys) }) : null,
          h("path", { class: "line", d: path(places, ys) }),
          cursor !== null && ys[cursor] !== null && ys[cursor] !== undefined ? h("circle", { cx: places[cursor], cy: ys[cursor], r: 3 }) : null,
        );
      }),
    }),
    h("output", { class: "tell", "aria-live": "polite" }, cursor === null ? "" : tell(cursor)),
  );
}

export function answered(traffic) {
  return traffic.arms.reduce((sum, arm) => sum + arm.answered, 0);
}

export function totals(traffic) {
  const sum = (field) => traffic.arms.reduce((all, arm) => all + arm[field], 0);
  const rates = traffic.arms.map((arm) => lately(arm.per_s)).filter((one) => one !== null);
  const asked = sum("answered") + sum("failed");
  return {
    perS: rates.length ? rates.reduce((all, one) => all + one, 0) : null,
    failed: asked ? sum("failed") / asked : null,
    degraded: sum("answered") ? sum("degraded") / sum("answered") : null,
    p99: traffic.arms.find((arm) => arm.arm === "champion")?.p99_ms ?? null,
    asked: count(asked),
  };
}
