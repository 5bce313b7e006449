// Numbers and times as people read them. Times are UTC everywhere: days are closed in UTC.

const COUNT = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
export const NONE = "–";

/** Three digits at most: 0.12, 1.23, 12.3, 123, 1,234. */
export function number(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return NONE;
  const size = Math.abs(value);
  if (size !== 0 && size < 0.01) return value.toPrecision(1);
  return size >= 100 ? COUNT.format(value) : value.toFixed(size >= 10 ? 1 : 2);
}

/** As short as it can be, for an axis. */
export function plain(value) {
  return Math.abs(value) >= 1000 ? COUNT.format(value) : `${Number(value.toPrecision(3))}`;
}

export function count(value) {
  return value === null || value === undefined ? NONE : COUNT.format(value);
}

/** 0.12 ms, 3.4 ms, 1.2 s. */
export function ms(value) {
  if (value === null || value === undefined) return NONE;
  if (value >= 1000) return `${(value / 1000).toFixed(value >= 10000 ? 0 : 1)} s`;
  return `${value >= 100 ? value.toFixed(0) : value >= 1 ? value.toFixed(1) : value.toFixed(2)} ms`;
}

export function percent(share, digits = 2) {
  return share === null || share === undefined || !Number.isFinite(share) ? NONE : `${(100 * share).toFixed(digits)} %`;
}

/** With its sign, the minus as long as the plus. */
export function signed(value, digits = 2) {
  if (value === null || value === undefined || !Number.isFinite(value)) return NONE;
  return `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(digits)}`;
}

export function signedPercent(share, digits = 1) {
  return share === null || share === undefined ? NONE : `${signed(100 * share, digits)} %`;
}

/** A share in steps of 0.1 %. */
export function steps(value) {
  return `${value % 10 ? (value / 10).toFixed(1) : value / 10} %`;
}

export function clock(atMs, seconds = true) {
  return new Date(atMs).toISOString().slice(11, seconds ? 19 : 16);
}

const MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

export function date(atMs) {
  const at = new Date(atMs);
  return `${at.getUTCDate()} ${MONTHS[at.getUTCMonth()]}`;
}

/** 26 Nov 21:04. */
export function moment(atMs) {
  return atMs === null || atMs === undefined ? NONE : `${date(atMs)} ${clock(atMs, false)}`;
}

/** A day by its first moment; one that is shorter than a day (on a machine for trying things) by its clock. */
export function day(one) {
  return one.until_ms - one.since_ms >= 86_400_000 ? date(one.since_ms) : clock(one.since_ms);
}

export function span(seconds) {
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  if (seconds < 129_600) return `${Math.round(seconds / 3600)} h`;
  return `${Math.round(seconds / 86_400)} days`;
}

export function words(name) {
  return name.replaceAll("_", " ");
}

export function clip(text, letters) {
  return text.length <= letters ? text : `${text.slice(0, letters - 1)}…`;
}
