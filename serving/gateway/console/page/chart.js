// Lines, bands and marks as SVG descriptions. Every chart has a name, a unit and a cursor that the arrow keys move.

import { h } from "./dom.js";

export function linear(from, to, low, high) {
  const scale = (to - from) / (high - low || 1);
  return (value) => from + (value - low) * scale;
}

/** Round numbers from low to high, about so many. */
export function ticks(low, high, about) {
  const rough = (high - low || 1) / about;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((one) => one * power).find((one) => one >= rough * 0.999);
  const found = [];
  for (let value = Math.ceil(low / step - 1e-9) * step; value <= high + step * 1e-9; value += step) found.push(Math.abs(value) < step * 1e-9 ? 0 : value);
  return found;
}

const TIME_STEPS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14_400, 21_600, 43_200, 86_400, 172_800, 345_600, 604_800];

/** Round times, ms. */
export function timeTicks(lowMs, highMs, about) {
  const rough = (highMs - lowMs) / 1000 / about;
  const step = 1000 * (TIME_STEPS.find((one) => one >= rough) || TIME_STEPS.at(-1));
  const found = [];
  for (let value = Math.ceil(lowMs / step) * step; value <= highMs; value += step) found.push(value);
  return found;
}

const DOT = "m-1.3 0a1.3 1.3 0 1 0 2.6 0a1.3 1.3 0 1 0-2.6 0";

/** The path through the points that are there: a gap where one is not, a dot where one is alone. */
export function path(xs, ys) {
  const there = (place) => Number.isFinite(ys[place]);
  return xs
    .map((x, place) => {
      if (!there(place)) return "";
      const alone = !there(place - 1) && !there(place + 1);
      return `${there(place - 1) ? "L" : "M"}${x.toFixed(1)} ${ys[place].toFixed(1)}${alone ? DOT : ""}`;
    })
    .join("");
}

/** The area between two lines, where both are. */
export function band(xs, lows, highs) {
  const parts = [];
  let part = [];
  xs.forEach((x, place) => {
    if (lows[place] === null || highs[place] === null || lows[place] === undefined || highs[place] === undefined) {
      if (part.length) parts.push(part);
      part = [];
    } else part.push([x, lows[place], highs[place]]);
  });
  if (part.length) parts.push(part);
  return parts
    .map((one) => {
      const there = one.map(([x, , high]) => `${x.toFixed(1)} ${high.toFixed(1)}`);
      const back = one.toReversed().map(([x, low]) => `${x.toFixed(1)} ${low.toFixed(1)}`);
      return `M${there.concat(back).join("L")}Z`;
    })
    .join("");
}

/** The frame that all charts over time have in common.
 *
 * at: {width, height, left, right, top, bottom}. xs: times, ms, of the points that the cursor can stand on.
 * y: {low, high, format}. x: {low, high, format}. label: what a screen reader says. draw: (sx, sy) to children.
 * cursor: index or null; move: called with the next one; tell: words for an index. */
export function frame({ id, at, xs, x, y, label, draw, cursor, move, tell, about = 4 }) {
  const { width, height, left, right, top, bottom } = at;
  const sx = linear(left, width - right, x.low, x.high);
  const sy = linear(height - bottom, top, y.low, y.high);
  const here = cursor !== null && cursor !== undefined && cursor < xs.length ? cursor : null;

  function nearest(event) {
    const box = event.currentTarget.getBoundingClientRect();
    const want = ((event.clientX - box.left) / box.width) * width;
    let best = null;
    xs.forEach((one, place) => {
      if (best === null || Math.abs(sx(one) - want) < Math.abs(sx(xs[best]) - want)) best = place;
    });
    return best;
  }

  function keyed(event) {
    const last = xs.length - 1;
    const by = { ArrowLeft: -1, ArrowRight: 1, PageUp: -10, PageDown: 10 }[event.key];
    let next = null;
    if (by) next = here === null ? (by < 0 ? last : 0) : Math.min(last, Math.max(0, here + by));
    else if (event.key === "Home") next = 0;
    else if (event.key === "End") next = last;
    else if (event.key === "Escape") next = null;
    else return;
    if (last < 0) return;
    event.preventDefault();
    move(next);
  }

  return h(
    "svg",
    {
      key: id,
      id,
      class: "chart",
      viewBox: `0 0 ${width} ${height}`,
      width,
      height,
      role: "img",
      tabindex: "0",
      "aria-label": `${label} Arrow keys step through it.`,
      onkeydown: keyed,
      onpointermove: (event) => move(nearest(event)),
      onpointerleave: () => move(null),
      onblur: () => move(null),
    },
    h("g", { class: "grid", "aria-hidden": "true" },
      ticks(y.low, y.high, about).map((value) => [
        h("line", { x1: left, x2: width - right, y1: sy(value), y2: sy(value), class: value === 0 ? "zero" : "" }),
        h("text", { x: left - 6, y: sy(value) + 3.5, "text-anchor": "end" }, y.format(value)),
      ]),
      timeTicks(x.low, x.high, Math.max(2, Math.round((width - left - right) / 110))).map((value) =>
        h("text", { x: sx(value), y: height - 4, "text-anchor": "middle" }, x.format(value)),
      ),
    ),
    draw(sx, sy),
    here !== null && h("line", { class: "cursor", x1: sx(xs[here]), x2: sx(xs[here]), y1: top, y2: height - bottom }),
    here !== null && h("desc", {}, tell(here)),
  );
}
