// The platform's JSON API, with the key of this tab. Nothing else is ever asked for anything.

const KEPT = "sluice.key";
const PATIENCE_MS = 15_000;
const base = new URL("../", document.baseURI);

/** The key lives as long as the tab, and in no other. */
export const key = {
  get: () => sessionStorage.getItem(KEPT) || "",
  keep: (text) => sessionStorage.setItem(KEPT, text),
  forget: () => sessionStorage.removeItem(KEPT),
};

/** What the platform said instead of an answer; status 0: nobody answered. */
export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export async function get(path, as = key.get()) {
  let answer;
  try {
    answer = await fetch(new URL(path, base), {
      headers: { authorization: `Bearer ${as}`, accept: "application/json" },
      cache: "no-store",
      credentials: "omit",
      redirect: "error",
      signal: AbortSignal.timeout(PATIENCE_MS),
    });
  } catch (error) {
    const late = error.name === "TimeoutError";
    throw new Refused(0, late ? `no answer within ${PATIENCE_MS / 1000} s` : "the gateway does not answer: is the platform up? (sluice status)");
  }
  let found;
  try {
    found = await answer.json();
  } catch {
    throw new Refused(answer.status, `status ${answer.status}, and no JSON`);
  }
  if (!answer.ok) throw new Refused(answer.status, String(found.error || `status ${answer.status}`));
  return found;
}

export function modelPath(model, ...parts) {
  return ["v1/models", model, ...parts].map((part, place) => (place ? encodeURIComponent(part) : part)).join("/");
}

const MOST_WAIT = 8;

/** Asks the same again and again while the page is looked at; slower while it is refused. */
export class Feed {
  /** path: gives what to ask for, null for nothing now. changed: called after each answer. */
  constructor(path, everyS, changed) {
    Object.assign(this, { path, everyS, changed });
    this.reset();
    this.timer = null;
    this.turn = 0;
  }

  reset() {
    Object.assign(this, { data: null, error: null, atMs: 0, asked: "", failures: 0 });
  }

  /** From now on; at once if what it asks for has changed. */
  async now() {
    clearTimeout(this.timer);
    const turn = ++this.turn;
    const path = this.path();
    if (path === null) return this.reset();
    if (path !== this.asked) {
      this.reset();
      this.asked = path;
    }
    try {
      const data = await get(path);
      if (turn !== this.turn) return undefined;
      Object.assign(this, { data, error: null, atMs: Date.now(), failures: 0 });
    } catch (error) {
      if (turn !== this.turn) return undefined;
      this.error = error;
      this.failures += 1;
    }
    this.timer = setTimeout(() => !document.hidden && this.now(), this.everyS * 1000 * Math.min(MOST_WAIT, 2 ** Math.max(0, this.failures - 1)));
    this.changed(this);
    return undefined;
  }

  stop() {
    clearTimeout(this.timer);
    this.turn += 1;
    this.reset();
  }

  /** Whether what it shows is older than it should be. */
  get stale() {
    return this.data !== null && Date.now() - this.atMs > 3000 * this.everyS + 4000;
  }
}
