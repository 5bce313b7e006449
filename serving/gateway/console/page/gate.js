// What people's clicks say of the version under test, look by look, against the bound that was fixed before.

import { band, frame, path } from "./chart.js";
import { h } from "./dom.js";
import { clock, count, moment, NONE, percent, signed, signedPercent, span, steps, words } from "./format.js";
import { numbers, panel, verdict } from "./panel.js";

export function chosenRollout(list) {
  const found = list?.rollouts || [];
  return (found.find((one) => ["running", "paused"].includes(one.rollout.state)) || found[0] || null)?.rollout || null;
}

export function gatePanel(ctx) {
  const { feeds, state, set } = ctx;
  const rollout = state.rollout;
  return panel("gate", "Online gate", "interval over time against its bound", feeds.rollouts, {
    tools: rollout && picker(feeds.rollouts.data, rollout, (id) => set(() => { state.rolloutId = id; state.gateStep = null; })),
    empty: (list) => (list.rollouts.length ? null : "No rollout yet: a version that is registered gets one."),
    hint: "sluice rollout start MODEL VERSION --why …",
    body: () => [
      strip(rollout),
      feeds.looks.error && !feeds.looks.data ? h("p", { key: "refused", class: "note", role: "status" }, feeds.looks.error.message) : null,
      feeds.looks.data ? gates(feeds.looks.data, feeds.explain.data, rollout, ctx) : feeds.looks.error ? null : h("p", { key: "wait", class: "blank loading" }, "Loading…"),
    ],
  });
}

function picker(list, rollout, pick) {
  if (list.rollouts.length < 2) return null;
  return h("label", { class: "pick" }, h("span", { class: "unseen" }, "Rollout"),
    h("select", { value: rollout.id, onchange: (event) => pick(event.target.value) },
      list.rollouts.slice(0, 20).map(({ rollout: one }) => h("option", { key: one.id, value: one.id, selected: one.id === rollout.id }, `@${one.challenger} ${one.spec.aa ? "A/A" : `against @${one.champion}`}, ${words(one.state)}`)),
    ),
  );
}

function strip(rollout) {
  const over = !["running", "paused"].includes(rollout.state);
  return h("ol", { key: "strip", class: "steps", "aria-label": `Rollout ${rollout.id}, ${words(rollout.state)}` },
    rollout.spec.steps.map((step, place) => {
      const done = place < rollout.step || rollout.state === "promoted";
      const here = place === rollout.step && !over;
      const ended = place === rollout.step && over && rollout.state !== "promoted";
      const traffic = step.weight ? steps(step.weight) : step.mirror_share ? `mirror ${steps(step.mirror_share)}` : "no traffic";
      const said = done ? "done" : here ? rollout.state : ended ? words(rollout.state) : "to come";
      return h("li", { key: step.name, class: done ? "done" : here ? "here" : ended ? "ended" : "", "aria-current": here ? "step" : null },
        h("span", { class: "name" }, h("span", { "aria-hidden": "true" }, `${done ? "✓" : here ? "▶" : ended ? "✕" : "○"} `), step.name),
        h("span", { class: "means" }, `${traffic}, ${said}`),
      );
    }),
    h("li", { key: "end", class: rollout.state === "promoted" ? "done" : "" }, h("span", { class: "name" }, h("span", { "aria-hidden": "true" }, rollout.state === "promoted" ? "✓ " : "○ "), "champion"), h("span", { class: "means" }, rollout.state === "promoted" ? "promoted" : "to come")),
  );
}

function gates(looks, explained, rollout, ctx) {
  const { state, set } = ctx;
  if (!looks.gates.length) return h("p", { key: "none", class: "blank" }, "No step of this rollout judges clicks.");
  const begun = looks.gates.filter((one) => one.points.length);
  const current = looks.gates.find((one) => one.step === rollout.spec.steps[rollout.step].name);
  const gate = looks.gates.find((one) => one.step === state.gateStep) || (current?.points.length ? current : begun.at(-1)) || current || looks.gates[0];
  const mine = explained && explained.rollout === looks.rollout ? explained : null;
  return [
    looks.gates.length > 1
      ? h("div", { key: "which", class: "choices", role: "group", "aria-label": "Step" },
          looks.gates.map((one) => h("button", { key: one.step, type: "button", "aria-pressed": one === gate ? "true" : "false", onclick: () => set(() => { state.gateStep = one.step; state.cursor.gate = null; }) }, one.step)))
      : null,
    h("div", { key: "view", class: "gate" }, gate.points.length ? intervals(gate, reason(gate, mine), ctx) : waiting(gate), facts(gate, mine)),
  ];
}

function waiting(gate) {
  return h("p", { class: "blank" }, gate.began_ms === null ? "This step has not begun." : `No look yet: the first closes ${moment(gate.looks_ms[0])}.`);
}

function unitOf(gate) {
  return gate.kind === "ab"
    ? { format: (value, digits = 1) => signedPercent(value, digits), name: "relative lift of click-NDCG" }
    : { format: (value, digits = 2) => signed(value, digits), name: "clicks a list, challenger's less champion's" };
}

/** The newest points say how tall the chart is: first intervals are endless, and are cut off. */
function limits(gate, points) {
  const late = points.slice(-Math.max(4, Math.ceil(points.length * 0.7)));
  const ends = late.flatMap((one) => [one.low, one.high, one.estimate]).filter((one) => one !== null);
  const wide = late.flatMap((one) => [one.anytime_low, one.anytime_high]).filter((one) => one !== null);
  const inner = ends.length ? ends : wide;
  const low = Math.min(gate.passes_over, gate.fails_under, 0, ...inner);
  const high = Math.max(gate.passes_over, 0, ...inner);
  const spread = high - low || 0.01;
  const reach = wide.length ? [Math.max(Math.min(...wide), low - 0.5 * spread), Math.min(Math.max(...wide), high + 0.5 * spread)] : [low, high];
  const [bottom, top] = [Math.min(low, reach[0]), Math.max(high, reach[1])];
  return { low: bottom - 0.06 * (top - bottom), high: top + 0.1 * (top - bottom) };
}

function intervals(gate, said, { state, set, width }) {
  const points = gate.points;
  const unit = unitOf(gate);
  const at = { width: width("gate-plot", 560), height: 290, left: 58, right: 12, top: 12, bottom: 30 };
  const lastLook = gate.looks_ms.at(-1) ?? points.at(-1).at_ms;
  const high = Math.max(points.at(-1).at_ms, Math.min(lastLook, points.at(-1).at_ms + 0.6 * (points.at(-1).at_ms - gate.began_ms)));
  const x = { low: gate.began_ms ?? points[0].at_ms, high, format: (value) => axis(value, high - (gate.began_ms ?? 0)) };
  const range = limits(gate, points);
  const y = { ...range, format: (value) => unit.format(value, gate.kind === "ab" ? (range.high - range.low < 0.04 ? 1 : 0) : 2) };
  const xs = points.map((one) => one.at_ms);
  const cursor = state.cursor.gate ?? null;
  const tell = (place) => {
    const one = points[place];
    const found = one.estimate === null ? "no look yet" : `estimate ${unit.format(one.estimate)}, interval ${end(one.low, unit)} to ${end(one.high, unit)}`;
    return `${moment(one.at_ms)}, look ${one.closed} of ${gate.terms.looks}: ${found}; whenever one looks ${end(one.anytime_low, unit)} to ${end(one.anytime_high, unit)}; ${one.verdict}.`;
  };
  const last = points.at(-1);
  return h("figure", { class: "figure", id: "gate-plot-host" },
    frame({
      id: "gate-chart", at, xs, x, y, about: 5, cursor, tell,
      move: (next) => set(() => { state.cursor.gate = next; }),
      label: `Online gate of ${gate.step}, ${unit.name}. ${tell(points.length - 1)} It passes when the interval lies over ${unit.format(gate.passes_over)} at a planned look; it is rolled back when surely under ${unit.format(gate.fails_under)}.`,
      draw: (sx, sy) => {
        const clip = (value, open) => Math.min(at.height - at.bottom, Math.max(at.top, value === null ? open : sy(value)));
        const places = xs.map(sx);
        const [floor, roof] = [at.height - at.bottom, at.top];
        const stepped = (values) => values.flatMap((value, place) => (place ? [values[place - 1], value] : [value]));
        const along = places.flatMap((value, place) => (place ? [value, value] : [value]));
        const inside = points.map((one) => one.estimate !== null);
        return [
          h("path", { key: "anytime", class: "anytime", d: band(along, stepped(points.map((one) => clip(one.anytime_low, floor))), stepped(points.map((one) => clip(one.anytime_high, roof)))) }),
          h("path", { key: "interval", class: "interval", d: band(along, stepped(points.map((one, place) => (inside[place] ? clip(one.low, floor) : null))), stepped(points.map((one, place) => (inside[place] ? clip(one.high, roof) : null)))) }),
          h("g", { key: "looks", class: "looks" }, gate.looks_ms.filter((one) => one <= x.high).map((one, place) => h("line", { key: place, x1: sx(one), x2: sx(one), y1: floor, y2: floor + (place < last.closed ? 7 : 4), class: place < last.closed ? "closed" : "" }))),
          bound("passes", gate.passes_over, sy, at, `passes over ${unit.format(gate.passes_over)}`, true),
          bound("fails", gate.fails_under, sy, at, `rolled back under ${unit.format(gate.fails_under)}`, false),
          h("path", { key: "estimate", class: "estimate", d: path(along, stepped(points.map((one) => (one.estimate === null ? null : clip(one.estimate, floor))))) }),
          last.estimate === null ? null : h("circle", { key: "last", class: `last v-${last.verdict}`, cx: places.at(-1), cy: clip(last.estimate, floor), r: 4.5 }),
        ];
      },
    }),
    h("figcaption", { class: "hint marks" },
      [["interval", "interval at planned looks, adjusted for looking"], ["anytime", "holds whenever one looks"], ["estimate", `estimate of the ${unit.name}`]].map(([name, means]) =>
        h("span", { key: name }, h("span", { class: `mark ${name}`, "aria-hidden": "true" }), ` ${means}`))),
    h("p", { class: "why" }, said),
    h("output", { class: "tell", "aria-live": "polite" }, cursor === null ? "" : tell(cursor)),
    numbers("numbers", `Looks of ${gate.step}`, ["UTC", "look", "estimate", "low", "high", "anytime low", "anytime high", "lists", "verdict"],
      points.map((one) => [moment(one.at_ms), `${one.closed}`, end(one.estimate, unit), end(one.low, unit), end(one.high, unit), end(one.anytime_low, unit), end(one.anytime_high, unit), count(one.lists), one.verdict]).toReversed()),
  );
}

function axis(value, rangeMs) {
  return rangeMs > 3 * 86_400_000 ? moment(value).slice(0, -6) : clock(value, rangeMs < 900_000);
}

function end(value, unit) {
  return value === null ? NONE : unit.format(value, 2);
}

function bound(kind, value, sy, at, said, above) {
  const y = sy(value);
  if (y < at.top - 1 || y > at.height - at.bottom + 1) return null;
  return h("g", { key: kind, class: `bound ${kind}` },
    h("line", { x1: at.left, x2: at.width - at.right, y1: y, y2: y }),
    h("text", { x: at.width - at.right - 4, y: above ? y - 5 : y + 13, "text-anchor": "end" }, said),
  );
}

/** What comes next and why, while the gate's step is the one that it is in; else what its verdict said. */
function reason(gate, mine) {
  if (mine?.step === gate.step && mine.outlook?.why) return `Next, ${words(String(mine.outlook.next))}: ${mine.outlook.why}.`;
  return `${gate.points.at(-1).why}.`;
}

function facts(gate, mine) {
  const unit = unitOf(gate);
  const last = gate.points.at(-1);
  const terms = gate.terms;
  const about = mine?.gates.find((one) => one.step === gate.step);
  const next = about?.next_look_ms;
  return h("dl", { key: "facts", class: "facts" },
    fact("verdict", last ? verdict(last.verdict) : "none yet"),
    last?.estimate === null || !last ? null : fact("estimate", h("span", { class: "big" }, unit.format(last.estimate, 2))),
    last?.estimate === null || !last ? null : fact("interval", `${end(last.low, unit)} to ${end(last.high, unit)}`),
    last?.z === null || !last ? null : fact("z and its boundary", `${last.z.toFixed(2)} of ${last.boundary === null ? NONE : last.boundary.toFixed(2)}`),
    fact("looks", last ? `${last.closed} of ${terms.looks}, each ${span(terms.look_s)}` : `${terms.looks} planned, each ${span(terms.look_s)}`),
    next ? fact("next look closes", moment(next)) : null,
    last ? fact("lists", count(last.lists)) : null,
    last ? fact("units", `${count(last.champion_units)} and ${count(last.challenger_units)}`) : null,
    fact("alpha", `${percent(terms.alpha ?? 0.05, 1)}, all looks`),
    mine && mine.budget ? fact("spent this year", `${percent(mine.budget.spent, 1)} of ${percent(mine.budget.yearly, 0)}`) : null,
    about?.alarms?.length ? fact("held by", about.alarms.join("; ")) : null,
  );
}

function fact(name, value) {
  return h("div", { key: name }, h("dt", {}, name), h("dd", {}, value));
}
