// Every quantity day by day: how far it lay from its anchor, in floors (the smallest shift that is alarmed on).

import { h } from "./dom.js";
import { count, date, day, moment, NONE, number, signed, span, words } from "./format.js";
import { panel, verdict } from "./panel.js";

const FEW = 16;

/** -4 to 4: under half a floor, half, one, two, and four floors and more. */
export function level(shift, floor) {
  if (shift === null) return null;
  const floors = Math.abs(shift) / floor;
  const size = floors >= 4 ? 4 : floors >= 2 ? 3 : floors >= 1 ? 2 : floors >= 0.5 ? 1 : 0;
  return shift < 0 ? -size : size;
}

function unit(row, value, digits = 2) {
  return row.kind === "mean" ? `${signed(value, digits)} sd` : `${signed(100 * value, 1)} points`;
}

export function rowName(row) {
  return row.kind === "mean" ? row.quantity : `${row.quantity}, ${words(row.kind)}`;
}

export function driftPanel(ctx) {
  const { feeds, state, set } = ctx;
  const data = feeds.drift.data;
  return panel("drift", "Drift", "shift from the anchor, feature by day, in floors", feeds.drift, {
    tools: data && controls(data, state, set),
    empty: (found) => (found.days.length ? null : `No day of ${found.family === "features" ? "features" : "confidence"} was closed yet in the ${found.arm} arm.`),
    hint: "A day closes when it is over and its late events are in. The monitor needs traffic and a version with a reference profile.",
    body: (found) => [alarms(found), map(found, ctx), legend()],
  });
}

function controls(data, state, set) {
  const arms = data.arms.includes(data.arm) ? data.arms : [data.arm, ...data.arms];
  return [
    h("input", { key: "filter", id: "drift-filter", type: "search", placeholder: "Find a feature", "aria-label": "Find a feature by name", value: state.drift.filter, oninput: (event) => set(() => { state.drift.filter = event.target.value; state.drift.cell = null; }) }),
    h("label", { key: "family", class: "pick" }, h("span", { class: "unseen" }, "Family"),
      h("select", { value: state.drift.family, onchange: (event) => set(() => { Object.assign(state.drift, { family: event.target.value, cell: null }); }, "drift") },
        h("option", { value: "features" }, "features"), h("option", { value: "confidence" }, "confidence"))),
    arms.length > 1
      ? h("label", { key: "arm", class: "pick" }, h("span", { class: "unseen" }, "Arm"),
          h("select", { value: state.drift.arm, onchange: (event) => set(() => { Object.assign(state.drift, { arm: event.target.value, cell: null }); }, "drift") }, arms.map((arm) => h("option", { key: arm, value: arm }, arm.replace("-", " @")))))
      : null,
  ];
}

function alarms(found) {
  const open = openAlarms(found);
  const last = found.days.at(-1);
  const head = [verdict(last.verdict), ` ${found.arm} @${last.version}, day to ${moment(last.until_ms)}, ${count(last.lists)} lists. `];
  if (!open.length) return h("p", { key: "alarms", class: "said" }, head, last.why || "No alarm is open.");
  return h("div", { key: "alarms", class: "said" }, h("p", {}, head, `${open.length} ${open.length === 1 ? "alarm is" : "alarms are"} open:`),
    h("ul", { class: "alarms" }, open.slice(0, 6).map((one) =>
      h("li", { key: `${one.quantity}/${one.kind}` },
        h("span", { class: "sign", "aria-hidden": "true" }, "!"), h("strong", {}, one.quantity),
        ` ${one.kind === "mean" ? "mean" : words(one.kind)} ${one.kind === "mean" ? `${signed(one.effect)} sd` : `${signed(100 * one.effect, 1)} points`} from ${one.against.join(" and ")}, since ${date(one.onset_ms)}`),
    )),
    open.length > 6 ? h("p", { class: "hint" }, `and ${open.length - 6} more: sluice drift show`) : null,
  );
}

/** One for each quantity, whatever it is held against: the weightiest, with all that it is held against. */
export function openAlarms(found) {
  const by = new Map();
  for (const one of found.alarms.filter((alarm) => !alarm.answered)) {
    const of = `${one.quantity}/${one.kind}`;
    const known = by.get(of);
    if (known) Object.assign(known, { against: [...known.against, one.against].sort(), onset_ms: Math.min(known.onset_ms, one.onset_ms) });
    else by.set(of, { ...one, against: [one.against] });
  }
  return [...by.values()];
}

function shown(found, state) {
  const filter = state.drift.filter.trim().toLowerCase();
  const rows = filter ? found.rows.filter((row) => rowName(row).toLowerCase().includes(filter)) : found.rows;
  return { rows: state.drift.all || filter ? rows : rows.slice(0, FEW), of: rows.length };
}

function say(found, row, place) {
  const of = found.days[place];
  const shift = row.shifts[place];
  const head = `${rowName(row)}, ${day(of)}`;
  if (shift === null) return `${head}: nothing to compare, ${count(of.lists)} lists.`;
  const floors = Math.abs(shift) / row.floor;
  const cusum = row.cusums[place];
  return `${head}: ${unit(row, shift)}, ${number(floors)} floors; CUSUM ${cusum === null ? NONE : number(cusum)} of its threshold${cusum >= 1 ? ", over it" : ""}; ${count(of.lists)} lists of @${of.version}.`;
}

let known = { key: "", found: null, map: null };

/** A map of thousands of cells is described anew only when something in it is new. */
function map(found, ctx) {
  const key = JSON.stringify(ctx.state.drift);
  if (known.found !== found || known.key !== key) known = { key, found, map: describe(found, ctx) };
  return known.map;
}

function describe(found, { state, set }) {
  const { rows, of } = shown(found, state);
  const days = found.days;
  const alarmed = new Set(found.alarms.filter((one) => !one.answered).map((one) => `${one.quantity}/${one.kind}`));
  const cell = state.drift.cell;
  const here = cell && { row: Math.min(cell.row, rows.length - 1), day: Math.min(cell.day, days.length - 1) };
  const at = here || { row: 0, day: days.length - 1 };
  const told = state.drift.hover || here;

  function move(event) {
    const to = { ...at };
    const { key, ctrlKey } = event;
    if (key === "ArrowLeft") to.day -= 1;
    else if (key === "ArrowRight") to.day += 1;
    else if (key === "ArrowUp") to.row -= 1;
    else if (key === "ArrowDown") to.row += 1;
    else if (key === "PageUp") to.row -= 8;
    else if (key === "PageDown") to.row += 8;
    else if (key === "Home") { to.day = 0; if (ctrlKey) to.row = 0; }
    else if (key === "End") { to.day = days.length - 1; if (ctrlKey) to.row = rows.length - 1; }
    else return;
    event.preventDefault();
    to.row = Math.max(0, Math.min(rows.length - 1, to.row));
    to.day = Math.max(0, Math.min(days.length - 1, to.day));
    set(() => { state.drift.cell = to; }, "now");
    document.getElementById(`cell-${to.row}-${to.day}`)?.focus();
  }

  const every = Math.max(1, Math.ceil(days.length / 14));
  const grid = h("table", { class: "map", role: "grid", "aria-label": `Shift of ${rows.length} quantities over ${days.length} days. Arrow keys move.`, "aria-rowcount": of + 1, "aria-colcount": days.length + 1, onkeydown: move, onpointerleave: () => set(() => { state.drift.hover = null; }) },
    h("thead", {}, h("tr", {}, h("th", { scope: "col", class: "corner" }, h("span", { class: "unseen" }, "quantity")),
      days.map((one, place) => h("th", { key: one.since_ms, scope: "col", class: `day d-${one.verdict}` },
        (days.length - 1 - place) % every === 0 ? h("span", {}, day(one)) : h("span", { class: "unseen" }, day(one)))))),
    h("tbody", {}, rows.map((row, r) => h("tr", { key: `${row.quantity}/${row.kind}` },
      h("th", { scope: "row", title: rowName(row) }, alarmed.has(`${row.quantity}/${row.kind}`) ? h("span", { class: "sign", title: "an alarm is open" }, "!") : null, h("span", { class: "name" }, rowName(row))),
      days.map((one, d) => {
        const shift = row.shifts[d];
        const size = level(shift, row.floor);
        return h("td", {
          key: one.since_ms, id: `cell-${r}-${d}`, role: "gridcell", tabindex: r === at.row && d === at.day ? "0" : "-1",
          class: size === null ? "none" : `l${size < 0 ? "m" : "p"}${Math.abs(size)}`, "aria-label": say(found, row, d),
          onpointerenter: () => set(() => { state.drift.hover = { row: r, day: d }; }),
          onfocus: () => set(() => { state.drift.cell = { row: r, day: d }; state.drift.hover = null; }),
        }, row.cusums[d] >= 1 && size !== null ? h("span", { class: "over", "aria-hidden": "true" }) : null);
      }))),
    ),
  );
  const row = told && rows[told.row];
  return h("div", { key: "map" },
    rows.length
      ? h("div", { class: "scroll wide" }, grid)
      : h("p", { class: "blank" }, `No quantity is called like “${state.drift.filter}”.`),
    h("output", { class: "tell", id: "drift-tell", "aria-live": "polite" }, row ? say(found, row, told.day) : `${rows.length} of ${found.total} quantities, those first that shifted most; ${days.length} days of ${span((days.at(-1).until_ms - days.at(-1).since_ms) / 1000)}.`),
    of > FEW && !state.drift.filter
      ? h("button", { class: "more", type: "button", "aria-expanded": state.drift.all ? "true" : "false", onclick: () => set(() => { state.drift.all = !state.drift.all; }) }, state.drift.all ? `Show the first ${FEW} only` : `Show all ${of}`)
      : null,
  );
}

function legend() {
  const sizes = ["lm4", "lm3", "lm2", "lm1", "lp0", "lp1", "lp2", "lp3", "lp4"];
  return h("div", { key: "legend", class: "scale", role: "img", "aria-label": "Colours: blue lower than the anchor, orange higher; each shade from half a floor, one, two, to four floors" },
    h("span", { class: "means" }, "lower"), sizes.map((one, place) => h("span", { key: place, class: `swatch ${one}` })), h("span", { class: "means" }, "higher"),
    h("span", { class: "means" }, "½, 1, 2, 4 floors"),
    h("span", { class: "swatch none" }), h("span", { class: "means" }, "nothing known"),
    h("span", { class: "swatch lp0 dotted" }, h("span", { class: "over" })), h("span", { class: "means" }, "CUSUM over its threshold"),
  );
}
