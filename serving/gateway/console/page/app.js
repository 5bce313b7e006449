// The page: signs in, asks, draws, and takes keys.

import { Feed, get, key, modelPath, Refused } from "./api.js";
import { h, patch } from "./dom.js";
import { driftPanel, openAlarms } from "./drift.js";
import { clock, ms, number, percent, steps, words } from "./format.js";
import { chosenRollout, gatePanel } from "./gate.js";
import { latencyPanel } from "./latency.js";
import { livePanel } from "./live.js";
import { totals, trafficPanel } from "./traffic.js";

const THEMES = ["auto", "light", "dark"];
const PANELS = ["traffic", "latency", "gate", "live", "drift"];

const state = {
  model: "",
  signIn: { text: "", refused: "", busy: false },
  theme: THEMES.includes(localStorage.getItem("sluice.theme")) ? localStorage.getItem("sluice.theme") : "auto",
  singleKeys: localStorage.getItem("sluice.keys") !== "off",
  cursor: {},
  rollout: null,
  rolloutId: null,
  gateStep: null,
  drift: { arm: "champion", family: "features", filter: "", all: false, cell: null, hover: null },
  live: { frozen: null },
  widths: {},
};

const ofModel = (...parts) => () => (state.model ? modelPath(state.model, ...parts) : null);
const ofRollout = (part) => () => (state.model && state.rollout ? modelPath(state.model, "rollouts", state.rollout.id, part) : null);
const feeds = {
  me: new Feed(() => (key.get() ? "v1/me" : null), 20, heard),
  traffic: new Feed(ofModel("traffic"), 5, heard),
  versions: new Feed(ofModel("versions"), 15, heard),
  rollouts: new Feed(ofModel("rollouts"), 5, heard),
  looks: new Feed(ofRollout("looks"), 10, heard),
  explain: new Feed(ofRollout("explain"), 10, heard),
  drift: new Feed(() => (state.model ? `${modelPath(state.model, "drift", "days")}?${new URLSearchParams({ arm: state.drift.arm, family: state.drift.family, limit: 400 })}` : null), 60, heard),
  live: new Feed(() => (state.model ? `${modelPath(state.model, "live")}?limit=20` : null), 2, heard),
};

function heard(feed) {
  if (feed.error instanceof Refused && feed.error.status === 401) return signOut(feed.error.message);
  if (feed === feeds.me && feed.data) chooseModel();
  if (feed === feeds.rollouts) chooseRollout();
  draw();
  return undefined;
}

function chooseModel() {
  const names = feeds.me.data.models.map((one) => one.model);
  const wanted = new URLSearchParams(location.hash.slice(1)).get("model");
  const next = names.includes(state.model) ? state.model : names.includes(wanted) ? wanted : names[0] || "";
  if (next !== state.model) openModel(next);
}

function openModel(name) {
  state.model = name;
  Object.assign(state, { rollout: null, rolloutId: null, gateStep: null, cursor: {} });
  Object.assign(state.drift, { arm: "champion", cell: null, hover: null });
  state.live.frozen = null;
  history.replaceState(null, "", name ? `#${new URLSearchParams({ model: name })}` : location.pathname);
  for (const [what, feed] of Object.entries(feeds)) if (what !== "me") feed.now();
}

function chooseRollout() {
  const list = feeds.rollouts.data;
  const picked = list?.rollouts.find((one) => one.rollout.id === state.rolloutId)?.rollout;
  const next = picked || chosenRollout(list);
  const other = next?.id !== state.rollout?.id;
  state.rollout = next;
  if (other) {
    state.cursor.gate = null;
    feeds.looks.now();
    feeds.explain.now();
  }
}

/** Changes the state and draws; what: a feed that is to be asked again, `now` to draw at once. */
function set(change, what) {
  change();
  chooseRollout();
  if (feeds[what]) feeds[what].now();
  if (what === "now") drawNow();
  else draw();
}

// ---- signing in ------------------------------------------------------------------------------------------------

/** A key that came in the address (`sluice console`) is taken out of it before anything else happens. */
function keyFromAddress() {
  const told = new URLSearchParams(location.hash.slice(1));
  if (!told.has("key")) return;
  key.keep(told.get("key"));
  told.delete("key");
  history.replaceState(null, "", location.pathname + (told.size ? `#${told}` : ""));
}

async function signIn(event) {
  event.preventDefault();
  const text = state.signIn.text.trim();
  if (!text) {
    set(() => { state.signIn.refused = "Enter a key first."; });
    return;
  }
  set(() => { Object.assign(state.signIn, { busy: true, refused: "" }); });
  try {
    await get("v1/me", text);
    key.keep(text);
    state.signIn = { text: "", refused: "", busy: false };
    feeds.me.now();
    drawNow();
    document.getElementById("content").focus();
  } catch (error) {
    set(() => { Object.assign(state.signIn, { busy: false, refused: error.message }); });
    document.getElementById("key")?.focus();
  }
}

function signOut(refused = "") {
  key.forget();
  for (const feed of Object.values(feeds)) feed.stop();
  Object.assign(state, { model: "", rollout: null, rolloutId: null });
  state.live.frozen = null;
  state.signIn = { text: "", refused, busy: false };
  drawNow();
}

function signInForm() {
  const { text, refused, busy } = state.signIn;
  return h("section", { key: "sign-in", class: "panel sign-in", "aria-labelledby": "sign-in-title" },
    h("h1", { id: "sign-in-title" }, "Sign in"),
    h("p", {}, "A viewer's API key is enough. It stays in this tab, and is gone when the tab is closed."),
    h("form", { onsubmit: signIn, novalidate: true },
      h("label", { for: "key" }, "API key"),
      h("input", { id: "key", type: "password", autocomplete: "off", spellcheck: "false", value: text, "aria-invalid": refused ? "true" : null, "aria-describedby": "key-said", oninput: (event) => { state.signIn.text = event.target.value; } }),
      h("button", { type: "submit", disabled: busy }, busy ? "Asking…" : "Sign in"),
      h("p", { id: "key-said", class: refused ? "note" : "unseen", role: "alert" }, refused),
    ),
    h("p", { class: "hint" }, "On the platform's machine ", h("code", {}, "sluice console"), " opens this page signed in. A key for somebody else: ", h("code", {}, "sluice keys create NAME --role viewer"), "."),
  );
}

// ---- the page --------------------------------------------------------------------------------------------------

function bar() {
  const me = feeds.me.data;
  return [
    h("div", { class: "brand" }, h("img", { src: "mark.svg", alt: "", width: 22, height: 22 }), h("span", {}, "Sluice")),
    me && me.models.length
      ? h("label", { class: "pick model" }, h("span", { class: "unseen" }, "Model"),
          h("select", { id: "model", value: state.model, onchange: (event) => openModel(event.target.value) }, me.models.map((one) => h("option", { key: one.model, value: one.model, selected: one.model === state.model }, one.model))))
      : null,
    h("span", { class: "gap" }),
    me ? h("span", { class: "who", title: `role ${me.role}` }, `${me.name}, ${me.role}`) : null,
    h("button", { id: "theme", type: "button", onclick: nextTheme, title: "Colours: as the system has them, light, dark" }, `Colours: ${state.theme}`),
    h("button", { id: "help", type: "button", onclick: showKeys, "aria-haspopup": "dialog" }, "Keys ", h("kbd", {}, "?")),
    key.get() ? h("button", { id: "sign-out", type: "button", onclick: () => signOut() }, "Sign out") : null,
  ];
}

function tiles() {
  const { traffic, versions, drift, rollouts } = feeds;
  const all = traffic.data ? totals(traffic.data) : null;
  const rollout = state.rollout;
  const active = rollout && ["running", "paused"].includes(rollout.state);
  const champion = versions.data?.versions.find((one) => one.place === "champion");
  const alarms = drift.data?.days.length ? openAlarms(drift.data) : null;
  const step = rollout?.spec.steps[rollout.step];
  const weight = rollouts.data?.rollouts.find((one) => one.rollout.id === rollout?.id)?.weight;
  return h("dl", { key: "tiles", class: "tiles", "aria-label": "At a glance" },
    tile("Champion", champion ? `@${champion.version}` : "–", champion ? `${steps(champion.share)} of units` : ""),
    tile("Rollout", rollout ? (active ? step.name : words(rollout.state)) : "none", rollout ? `@${rollout.challenger} against @${rollout.champion}${active ? `, ${words(rollout.state)}${weight ? ` at ${steps(weight)}` : ""}` : ""}` : "no version is on its way", rollout && ["rolled_back", "paused"].includes(rollout.state) ? "warn" : ""),
    tile("Answers", all && all.perS !== null ? `${number(all.perS)} /s` : "–", all ? `${all.asked} in 15 min` : ""),
    tile("p99 of the champion", all ? ms(all.p99) : "–", "permit to answer"),
    tile("Failed", all ? percent(all.failed) : "–", all && all.degraded !== null ? `${percent(all.degraded)} degraded` : "", all && all.failed > 0.01 ? "bad" : ""),
    tile("Drift alarms", alarms ? `${alarms.length} open` : "–", !alarms ? "no day closed yet" : alarms.length ? alarms.map((one) => one.quantity).join(", ") : `${drift.data.days.length} days, ${drift.data.family}`, alarms?.length ? "warn" : ""),
  );
}

function tile(name, value, below, mood = "") {
  return h("div", { key: name, class: `tile ${mood}` }, h("dt", {}, name), h("dd", {}, mood ? h("span", { class: "sign", "aria-hidden": "true" }, "!") : null, value, h("span", { class: "means" }, below)));
}

function content() {
  if (!key.get()) return signInForm();
  const me = feeds.me;
  if (!me.data) {
    return me.error
      ? h("section", { key: "away", class: "panel sign-in" }, h("h1", {}, "No answer yet"), h("p", { class: "note", role: "alert" }, `${me.error.message}. Asking again.`))
      : h("p", { key: "wait", class: "blank loading" }, "Loading…");
  }
  if (!state.model) return h("section", { key: "none", class: "panel sign-in" }, h("h1", {}, "No model yet"), h("p", {}, "The first version of a model that is promoted appears here by itself."), h("p", { class: "hint" }, h("code", {}, "sluice demo"), ", or ", h("code", {}, "sluice models register MODEL FOLDER --promote")));
  const ctx = { feeds, state, set, width };
  return [
    h("h1", { key: "title", class: "unseen" }, `Model ${state.model}`),
    tiles(),
    h("div", { key: "grid", class: "panels" }, trafficPanel(ctx), latencyPanel(ctx), gatePanel(ctx), livePanel(ctx), driftPanel(ctx)),
  ];
}

function foot() {
  if (!feeds.me.data) return h("span", {}, "Times are UTC.");
  const newest = Math.max(...Object.values(feeds).map((feed) => feed.atMs));
  return h("span", {}, `Times are UTC. Newest answer ${newest ? clock(newest) : "–"}. `, h("a", { href: "../docs" }, "The API"));
}

let planned = false;

function draw() {
  if (planned) return;
  planned = true;
  requestAnimationFrame(drawNow);
}

function drawNow() {
  planned = false;
  document.title = state.model ? `${state.model} · Sluice` : "Sluice";
  patch(document.getElementById("bar"), bar());
  const main = document.getElementById("content");
  patch(main, content());
  patch(document.getElementById("foot"), foot());
  for (const host of main.querySelectorAll("[id$='-host']")) if (!watched.has(host)) { watched.add(host); sizes.observe(host); }
}

const watched = new WeakSet();
const sizes = new ResizeObserver((entries) => {
  let news = false;
  for (const { target, contentRect } of entries) {
    const id = target.id.slice(0, -"-host".length);
    const wide = Math.floor(contentRect.width);
    if (wide && state.widths[id] !== wide) {
      state.widths[id] = wide;
      news = true;
    }
  }
  if (news) draw();
});

function width(id, otherwise) {
  return state.widths[id] || otherwise;
}

// ---- colours and keys ------------------------------------------------------------------------------------------

function showTheme() {
  document.documentElement.dataset.theme = state.theme;
}

function nextTheme() {
  state.theme = THEMES[(THEMES.indexOf(state.theme) + 1) % THEMES.length];
  localStorage.setItem("sluice.theme", state.theme);
  showTheme();
  drawNow();
}

const SHORTCUTS = [
  ["1 … 5", "Go to a panel: traffic, latency, gate, live queries, drift"],
  ["m", "Choose the model"],
  ["f", "Find a feature in the drift map"],
  ["p", "Pause the live queries, or go on"],
  ["r", "Ask for everything now"],
  ["t", "Colours: as the system has them, light, dark"],
  ["?", "These keys"],
  ["← → ↑ ↓", "In the drift map, from cell to cell; in a chart, from point to point"],
  ["Home End", "First and last day or point; with Ctrl, first and last row"],
  ["Tab", "From one thing to the next; the map and each chart are one stop"],
];

function showKeys() {
  const dialog = document.getElementById("keys");
  drawKeys();
  if (!dialog.open) dialog.showModal();
}

function drawKeys() {
  patch(document.getElementById("keys"), [
    h("h2", { id: "keys-title" }, "Keys"),
    h("dl", { class: "shortcuts" }, SHORTCUTS.map(([name, does]) => h("div", { key: name }, h("dt", {}, name.split(" ").map((one) => (one === "…" ? " … " : h("kbd", {}, one)))), h("dd", {}, does)))),
    h("label", { class: "check" }, h("input", { type: "checkbox", checked: state.singleKeys, onchange: (event) => { state.singleKeys = event.target.checked; localStorage.setItem("sluice.keys", state.singleKeys ? "on" : "off"); } }), " Single keys do something (turn this off if you dictate)"),
    h("button", { type: "button", autofocus: true, onclick: () => document.getElementById("keys").close() }, "Close"),
  ]);
}

function askAll() {
  for (const feed of Object.values(feeds)) feed.now();
}

document.addEventListener("keydown", (event) => {
  const typing = event.target.closest?.("input, select, textarea, dialog");
  if (typing || event.ctrlKey || event.metaKey || event.altKey || !state.singleKeys) return;
  const place = Number(event.key) - 1;
  let done = true;
  if (PANELS[place]) {
    const title = document.getElementById(`${PANELS[place]}-title`);
    title?.scrollIntoView({ block: "start", behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth" });
    title?.focus({ preventScroll: true });
  } else if (event.key === "?") showKeys();
  else if (event.key === "m") document.getElementById("model")?.focus();
  else if (event.key === "f") document.getElementById("drift-filter")?.focus();
  else if (event.key === "p") document.getElementById("live-pause")?.click();
  else if (event.key === "r") askAll();
  else if (event.key === "t") nextTheme();
  else done = false;
  if (done) event.preventDefault();
});

document.addEventListener("visibilitychange", () => { if (!document.hidden && key.get()) askAll(); });
window.addEventListener("online", askAll);
window.addEventListener("hashchange", () => {
  const told = new URLSearchParams(location.hash.slice(1));
  if (told.has("key")) {
    keyFromAddress();
    feeds.me.now();
  } else if (told.get("model") && feeds.me.data?.models.some((one) => one.model === told.get("model"))) openModel(told.get("model"));
});
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  document.getElementById("content").focus();
});
setInterval(draw, 5000); // what has grown old says so, also when nobody answers

keyFromAddress();
showTheme();
drawNow();
feeds.me.now();
