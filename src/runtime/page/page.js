// The live page: one stream of snapshots in, text and two charts out. No library but uPlot, no build step.
//
// Invariants: text from the server only ever becomes textContent; a snapshot replaces the one before, so a lost one costs nothing;
// a hidden or paused page draws nothing. It computes shares and nothing else: every figure is the server's.
"use strict";

const element = (id) => document.getElementById(id);
const whole = new Intl.NumberFormat("en");
const compact = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });
const bytes = new Intl.NumberFormat("en", { style: "unit", unit: "megabyte", maximumFractionDigits: 0 });
const share = (part, sum) => (sum > 0 ? (100 * part / sum).toFixed(part > 0 && part < sum / 100 ? 2 : 1) + " %" : "–");
const figure = (count) => (count < 1e6 ? whole.format(count) : compact.format(count));

/** Categories from harmless to grave, over all guidelines; what is not listed goes before "uncategorised". */
const SEVERITY = [
  ["optimal", 0], ["non-elevated", 0], ["normal", 0], ["elevated", 1], ["high-normal", 1], ["high normal", 1],
  ["stage 1", 2], ["grade 1", 2], ["hypertension", 3], ["isolated systolic", 2], ["stage 2", 3], ["grade 2", 3],
  ["crisis", 4], ["severe", 4], ["grade 3", 4],
];
const plain = (name) => name.toLowerCase().replace(/_/g, " ");
const rank = (name) => {
  const at = SEVERITY.findIndex(([known]) => known === plain(name));
  return at >= 0 ? at : name === "uncategorised" ? 99 : 50;
};
const band = (name) => {
  const known = SEVERITY.find(([word]) => word === plain(name));
  return known ? "--band-" + known[1] : "--band-none";
};
const OUTCOME_COLOURS = {
  contributed: "--accent", superseded: "--band-0", duplicate: "--band-none", late: "--band-1", ignored: "--ignored", rejected: "--band-3",
};
const VERDICTS = {
  none: ["good", "stable"], watch: ["watch", "▲ watch"], act: ["act", "▲▲ act"], insufficient: ["", "too few"],
};

let style = getComputedStyle(document.documentElement);
const colour = (name) => style.getPropertyValue(name).trim();

/** Makes an element: its class, then children (text or elements). */
function make(tag, className, ...children) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.append(...children);
  return made;
}
const text = (id, words) => { const at = element(id); if (at.textContent !== words) at.textContent = words; };
const header = (...children) => { const made = make("th", "", ...children); made.scope = "row"; return made; };
const swatch = (name) => { const made = make("span", "swatch"); made.style.background = colour(name); return made; };
const human = (name) => name.replace(/_/g, " ");

/** Replaces the rows of a table, or says that there are none. */
function rows(id, made, none) {
  if (made.length === 0) {
    const cell = make("td", "empty", none);
    cell.colSpan = 6;
    made = [make("tr", "", cell)];
  }
  element(id).replaceChildren(...made);
}

// ------------------------------------------------------------------ charts

const axis = (extra) => ({
  stroke: () => colour("--quiet"), grid: { stroke: () => colour("--line"), width: 1 }, ticks: { show: false },
  font: `${Math.round(parseFloat(style.fontSize) * 0.72)}px system-ui, sans-serif`, ...extra,
});
const em = (count) => Math.round(parseFloat(style.fontSize) * count);
// Counts below a thousand are written out; a scale without data has no ticks to write.
const counts = axis({ size: em(3.2), values: (_, ticks) => ticks.map((tick) => (tick == null ? "" : compact.format(tick))), incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1e3, 2e3, 5e3, 1e4, 2e4, 5e4, 1e5, 2e5, 5e5, 1e6, 2e6, 5e6, 1e7, 1e8, 1e9] });
const CLOCK = { hour: "2-digit", minute: "2-digit", hour12: false };
const clock = (seconds) => new Date(seconds * 1000).toLocaleTimeString("en-GB", CLOCK);
const day = (seconds) => new Date(seconds * 1000).toLocaleDateString("en-GB", { day: "numeric", month: "short" });
const upward = { range: (_, __, max) => [0, Math.max(4, max * 1.08)] };

function sized(node) {
  return { width: Math.max(200, node.clientWidth), height: Math.max(120, node.clientHeight) };
}

let rateChart = null;
let categoryChart = null;
let categoryKey = "";

function drawRate(snapshot) {
  const all = snapshot.readings.history;
  const times = all.map((_, index) => snapshot.at_seconds - all.length + index);
  // Before the run there was no rate; zero would be a claim.
  const history = all.map((count, index) => (times[index] < snapshot.started_at_seconds ? null : count));
  const node = element("rate-chart");
  if (!rateChart) {
    rateChart = new uPlot({
      ...sized(node), cursor: { show: false }, legend: { show: false }, padding: [8, 8, 0, 0],
      scales: { y: upward },
      axes: [axis({ size: em(1.9), values: (_, ticks) => ticks.map(clock), space: em(5), incrs: [60, 120, 300] }), counts],
      series: [{}, { stroke: () => colour("--accent"), fill: () => colour("--accent-soft"), width: 2, points: { show: false } }],
    }, [times, history], node);
  } else {
    rateChart.setData([times, history]);
  }
  const peak = Math.max(...all);
  text("rate-words", `Now ${whole.format(Math.round(snapshot.readings.per_second))}, peak ${whole.format(peak)} a second.`);
}

function drawCategories(snapshot) {
  const shown = snapshot.categories;
  const order = shown.names.map((name, slot) => ({ name, counts: shown.counts[slot], sum: shown.counts[slot].reduce((a, b) => a + b, 0) }))
    .sort((a, b) => rank(a.name) - rank(b.name) || a.name.localeCompare(b.name));
  const sum = order.reduce((total, category) => total + category.sum, 0);
  rows("category-rows", order.map((category) => make("tr", "",
    header(swatch(band(category.name)), human(category.name)),
    make("td", "number", figure(category.sum)), make("td", "number share", share(category.sum, sum)))), "No reading yet.");
  text("categories-note", "by time of measurement" + width(shown.width_seconds)
    + (shown.outside > 0 ? `; ${whole.format(shown.outside)} readings of other times not drawn` : ""));
  const node = element("category-chart");
  if (order.length === 0) return;
  const half = shown.width_seconds / 2;
  const times = order[0].counts.map((_, index) => shown.start_seconds + index * shown.width_seconds + half);
  // Stacked from harmless at the bottom; the highest comes first, so the series that follows each is the one it stands on.
  const stacked = [];
  order.reduce((below, category) => { const top = category.counts.map((count, index) => count + below[index]); stacked.push(top); return top; }, times.map(() => 0));
  const data = [times, ...stacked.reverse()];
  const key = order.map((category) => category.name).join("\n");
  if (categoryChart && key !== categoryKey) { categoryChart.destroy(); categoryChart = null; }
  categoryKey = key;
  if (categoryChart) { categoryChart.setData(data); return; }
  categoryChart = new uPlot({
    ...sized(node), cursor: { show: false }, legend: { show: false }, padding: [8, 8, 0, 0],
    scales: { x: { range: (chart, min, max) => { const pad = chart.data[0].length > 1 ? (chart.data[0][1] - chart.data[0][0]) / 2 : 30; return [min - pad, max + pad]; } }, y: upward },
    axes: [axis({ values: (chart, ticks) => ticks.map((tick, index) => dated(chart, ticks, tick, index)), size: em(1.9), space: em(6) }), counts],
    series: [{}, ...order.map((category) => ({
      fill: () => colour(band(category.name)), stroke: () => colour(band(category.name)), width: 0, points: { show: false },
      paths: uPlot.paths.bars({
        size: [0.86, 60],
        disp: {
          y0: { unit: 1, values: (chart, index) => chart.data[index + 1] || chart.data[index].map(() => 0) },
          y1: { unit: 1, values: (chart, index) => chart.data[index] },
        },
      }),
    })).reverse()],
  }, data, node);
}

/** A tick's words: the time, or the date where the day changes or a column is a day or more; the year where that changes. */
function dated(chart, ticks, tick, index) {
  const wide = chart.scales.x.max - chart.scales.x.min;
  const date = new Date(tick * 1000);
  const before = index > 0 ? new Date(ticks[index - 1] * 1000) : null;
  if (wide > 300 * 86400) return date.toLocaleDateString("en-GB", { month: "short", year: "numeric" });
  if (wide > 8 * 86400) return day(tick);
  const newDay = !before || before.getDate() !== date.getDate();
  return newDay ? day(tick) + " " + clock(tick) : clock(tick);
}

/** A bucket's width in words. */
function width(seconds) {
  if (!seconds) return "";
  const units = [[604800, "week"], [86400, "day"], [3600, "hour"], [60, "minute"]];
  const [size, unit] = units.find(([size]) => seconds % size === 0) || [1, "second"];
  const count = seconds / size;
  return ", a column " + (count === 1 ? `a ${unit}` : `${whole.format(count)} ${unit}s`).replace("a hour", "an hour");
}

// ------------------------------------------------------------------ tables

function showFigures(snapshot) {
  const counts = snapshot.outcomes.counts;
  const inputs = counts.reduce((sum, outcome) => sum + outcome.count, 0);
  const rejected = counts.find((outcome) => outcome.outcome === "rejected").count;
  text("flow", snapshot.flow);
  text("model", snapshot.model ? "model " + snapshot.model : "no model: rules alone");
  text("version", "Windkessel " + snapshot.version);
  text("rate", figure(Math.round(snapshot.readings.per_second)));
  text("readings", figure(snapshot.readings.count));
  text("since", "in " + span(snapshot.at_seconds - snapshot.started_at_seconds));
  text("patients", figure(snapshot.patients));
  text("alarms", figure(snapshot.alarms));
  text("lag", figure(snapshot.source.lag));
  text("lag-note", `records in ${whole.format(snapshot.source.partitions)} partition${snapshot.source.partitions === 1 ? "" : "s"}`);
  text("rejected", figure(rejected));
  text("rejected-note", share(rejected, inputs) + " of inputs");
  text("inputs", whole.format(inputs) + " inputs, each counted once");
  const bar = counts.filter((outcome) => outcome.count > 0).map((outcome) => {
    const part = make("span", "");
    part.style.flexGrow = outcome.count / inputs;
    part.style.background = colour(OUTCOME_COLOURS[outcome.outcome]);
    return part;
  });
  element("outcome-bar").replaceChildren(...bar);
  rows("outcome-rows", counts.map((outcome) => make("tr", "", header(swatch(OUTCOME_COLOURS[outcome.outcome]), outcome.outcome),
    make("td", "number", whole.format(outcome.count)), make("td", "number share", share(outcome.count, inputs)))), "");
  rows("reason-rows", snapshot.outcomes.rejected.map((reason) => make("tr", "", header(human(reason.reason)), make("td", "number", whole.format(reason.count)))), "Nothing was rejected.");
}

function showPlumbing(snapshot) {
  text("plumbing-note", `${figure(snapshot.source.records)} records, ${bytes.format(snapshot.source.bytes / 1e6)} read; epochs under way: ${snapshot.inflight_epochs}`);
  rows("lag-rows", snapshot.source.lags.map((lag) => make("tr", "", header(lag.topic), make("td", "number", lag.partition), make("td", "number", whole.format(lag.records)))), "No partition reports its lag.");
  rows("sink-rows", snapshot.sinks.map((sink) => make("tr", "", header(sink.sink), make("td", "number", whole.format(sink.records)),
    make("td", "", sink.waiting ? make("span", "tag watch", "▲ waiting") : make("span", "tag good", "settling")))), "Nothing written yet.");
}

function showDrift(snapshot) {
  const order = { act: 0, watch: 1, none: 2, insufficient: 3 };
  const shifts = snapshot.shifts.slice().sort((a, b) => (a.group !== "all") - (b.group !== "all") || order[a.verdict] - order[b.verdict] || (b.psi || 0) - (a.psi || 0));
  rows("drift-rows", shifts.map((shift) => {
    const [tone, words] = VERDICTS[shift.verdict] || ["", shift.verdict];
    const name = header(human(shift.feature));
    if (shift.group !== "all") name.append(" ", make("span", "group", shift.group));
    const three = (value) => (value === null ? "–" : value.toFixed(3));
    return make("tr", "", name, make("td", "number", three(shift.psi)), make("td", "number", three(shift.jensen_shannon)), make("td", "", make("span", "tag " + tone, words)));
  }), "No window has closed yet.");
  const newest = snapshot.shifts.map((shift) => shift.current_end).filter(Boolean).sort().pop();
  text("drift-note", newest ? "window to " + when(newest) + " against its reference" : "newest window against its reference");
}

let known = new Set();
let announced = 0;
let unannounced = 0;

function showAlerts(snapshot) {
  const alerts = snapshot.alerts;
  const first = known.size === 0;
  const fresh = alerts.filter((alert) => !known.has(alert.observation));
  if (fresh.length > 0 || alerts.length !== known.size || first) {
    // Where most rows are new at every look, pointing at the new ones points at nothing.
    const few = !first && fresh.length <= 5;
    rows("alert-rows", alerts.map((alert) => alertRow(alert, few && !known.has(alert.observation))), "No rule has fired.");
  }
  known = new Set(alerts.map((alert) => alert.observation));
  if (!first) unannounced += fresh.length;
  // A screen reader is told the gist, and not more often than it can be listened to.
  if (unannounced > 0 && Date.now() - announced > 15000) {
    const newest = alerts[0];
    element("announcer").textContent = newest ? `${unannounced} new alerts; the newest: ${pressures(newest)}, ${newest.reasons.map(human).join(", ")}` : "";
    announced = Date.now();
    unannounced = 0;
  }
}

function alertRow(alert, fresh) {
  const patient = make("td", "patient", alert.patient.slice(0, 8) + "…");
  patient.title = alert.patient;
  const moment = make("td", "when", alert.effective_at ? when(alert.effective_at) : "–");
  moment.title = alert.effective_at || "";
  const category = make("td", "", alert.category ? swatch(band(alert.category)) : "", alert.category ? human(alert.category) : "–");
  const risk = alert.probability === null ? "–" : alert.probability.toFixed(2);
  return make("tr", fresh ? "fresh" : "", moment, patient, make("td", "number", pressures(alert)), category,
    make("td", "reasons", ...alert.reasons.map((reason) => make("span", "reason", human(reason)))), make("td", "number", risk));
}

function pressures(alert) {
  const part = (value) => (value === null ? "–" : String(Math.round(value * 10) / 10));
  return part(alert.systolic_mmhg) + " / " + part(alert.diastolic_mmhg);
}

function when(instant) {
  const at = new Date(instant);
  const recent = Math.abs(Date.now() - at) < 300 * 86400e3;
  return at.toLocaleDateString("en-GB", { day: "2-digit", month: "short", ...(recent ? {} : { year: "numeric" }) })
    + " " + at.toLocaleTimeString("en-GB", { ...CLOCK, second: "2-digit" });
}

function span(seconds) {
  const parts = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];
  const at = Math.max(0, parts.findIndex(([size]) => seconds >= size));
  const start = seconds < 1 ? 3 : at;
  return parts.slice(start, start + 2).map(([size, unit], index) => Math.floor((index ? seconds % parts[start][0] : seconds) / size) + " " + unit).join(" ");
}

// ------------------------------------------------------------------ the stream

let newest = null;
let paused = false;

function state(name, words) {
  element("connection").dataset.state = name;
  text("connection-text", words);
  document.body.classList.toggle("stale", name === "lost");
}

function draw() {
  if (!newest || document.hidden) return;
  showFigures(newest);
  drawRate(newest);
  drawCategories(newest);
  showAlerts(newest);
  showDrift(newest);
  showPlumbing(newest);
}

function follow() {
  const stream = new EventSource("/api/v1/live");
  let heard = Date.now();
  stream.onmessage = (message) => {
    heard = Date.now();
    const snapshot = JSON.parse(message.data);
    if (paused) return;
    newest = snapshot;
    if (snapshot.phase === "draining") state("draining", "Draining"); else state("live", "Live");
    draw();
  };
  stream.onerror = () => {
    state("lost", "Reconnecting");
    // The browser asks again by itself unless the server refused (33rd follower): then we do.
    if (stream.readyState === EventSource.CLOSED) { clearInterval(watch); setTimeout(follow, 5000); }
  };
  // A connection that is open but silent, such as behind a sleeping laptop or a dead tunnel, looks live otherwise.
  const watch = setInterval(() => { if (!paused && Date.now() - heard > 5000) state("lost", "No news"); }, 1000);
}

element("pause").addEventListener("click", () => {
  paused = !paused;
  element("pause").setAttribute("aria-pressed", String(paused));
  element("pause").textContent = paused ? "Resume" : "Pause";
  if (paused) state("paused", "Paused");
});

element("measured").title = "in this computer's time zone: " + Intl.DateTimeFormat().resolvedOptions().timeZone;

const resize = new ResizeObserver(() => {
  if (rateChart) rateChart.setSize(sized(element("rate-chart")));
  if (categoryChart) categoryChart.setSize(sized(element("category-chart")));
});
resize.observe(element("rate-chart"));
resize.observe(element("category-chart"));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  style = getComputedStyle(document.documentElement);
  if (rateChart) rateChart.redraw();
  if (categoryChart) categoryChart.redraw();
  draw();
});
document.addEventListener("visibilitychange", draw);
follow();
