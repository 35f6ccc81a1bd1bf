// The live page: one stream of snapshots in, text and charts out. No library but uPlot, no build step.
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
    cell.colSpan = 7;
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

// ------------------------------------------------------------------ the graph

/** A part of one core, in words: several workers may take more than one. */
const core = (part) => (part === null ? "–" : (100 * part).toFixed(part < 0.0995 ? 1 : 0) + " %");

function stage(state, most) {
  const part = state.busy_per_second;
  const bar = make("span", part > 0.8 ? "high" : "");
  bar.style.width = Math.min(100, 100 * (part || 0) / Math.max(most, 0.05)) + "%";
  const meter = make("div", "meter", bar);
  meter.setAttribute("aria-hidden", "true");
  const made = make("li", "stage", make("strong", "", state.stage));
  if (state.does) made.append(make("small", "", state.does));
  made.append(meter, make("small", "part", core(part)));
  made.title = `${state.stage}: ${state.busy_seconds.toFixed(1)} s of work since the start`;
  return made;
}

function showGraph(snapshot) {
  const of = (kind) => snapshot.stages.filter((state) => state.kind === kind);
  const most = Math.max(...snapshot.stages.map((state) => state.busy_per_second || 0));
  element("stage-list").replaceChildren(...of("stage").map((state) => stage(state, most)));
  element("sink-list").replaceChildren(...of("sink").map((state) => stage(state, most)));
  text("engine-words", "Engine: " + of("engine").map((state) => `${state.stage} ${core(state.busy_per_second)}`).join(", ") + ".");
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
  rows("lag-rows", snapshot.source.lags.map((lag) => {
    const reached = make("td", "number when", lag.watermark_seconds === null ? "–" : when(lag.watermark_seconds * 1000));
    if (lag.watermark_seconds !== null) reached.title = span(Math.round(snapshot.at_seconds - lag.watermark_seconds)) + " behind this computer's clock";
    return make("tr", "", header(lag.topic + " / " + lag.partition), make("td", "number", whole.format(lag.records)), reached);
  }), "No partition reports its lag.");
  rows("sink-rows", snapshot.sinks.map((sink) => make("tr", "", header(sink.sink), make("td", "number", whole.format(sink.records)),
    make("td", "", sink.waiting ? make("span", "tag watch", "▲ waiting") : make("span", "tag good", "settling")))), "Nothing written yet.");
}

function showFlaws(snapshot) {
  const flaws = snapshot.flaws.slice().sort((a, b) => (a.verdict !== "act") - (b.verdict !== "act") || b.current_rate - a.current_rate);
  rows("flaw-rows", flaws.map((flaw) => {
    const [tone, words] = VERDICTS[flaw.verdict] || ["", flaw.verdict];
    const name = header(human(flaw.measure));
    name.append(" ", make("span", "group", flaw.topic));
    const percent = (value) => (value === null ? "–" : share(value, 1));
    const rates = percent(flaw.reference_rate) + " → " + percent(flaw.current_rate);
    return make("tr", "", name, make("td", "number", rates), make("td", "", make("span", "tag " + tone, words)));
  }), "None, in the newest window.");
}

function showDrift(snapshot) {
  const order = { act: 0, watch: 1, none: 2, insufficient: 3 };
  const shifts = snapshot.shifts.slice().sort((a, b) => (a.group !== "all") - (b.group !== "all") || order[a.verdict] - order[b.verdict] || (b.psi || 0) - (a.psi || 0));
  rows("drift-rows", shifts.map((shift) => {
    const [tone, words] = VERDICTS[shift.verdict] || ["", shift.verdict];
    const name = header(human(shift.feature));
    if (shift.group !== "all") name.append(" ", make("span", "group", shift.group));
    const three = (value) => (value === null ? "–" : value.toFixed(3));
    return make("tr", "", name, make("td", "", bins(shift)), make("td", "number", three(shift.psi)), make("td", "number", three(shift.jensen_shannon)), make("td", "", make("span", "tag " + tone, words)));
  }), "No window has closed yet.");
  const newest = snapshot.shifts.map((shift) => shift.current_end).filter(Boolean).sort().pop();
  text("drift-note", newest ? "window to " + when(newest) + " against its reference" : "newest window against its reference");
}

const SVG = "http://www.w3.org/2000/svg";
function drawn(tag, attributes) {
  const made = document.createElementNS(SVG, tag);
  Object.entries(attributes).forEach(([name, value]) => made.setAttribute(name, value));
  return made;
}

/** Both histograms of a shift: now as columns, the reference as a line, each as a share of its own readings. */
function bins(shift) {
  if (!shift.bins) return make("span", "empty", "–");
  const { edges, reference, current } = shift.bins;
  const sum = (counts) => Math.max(1, counts.reduce((a, b) => a + b, 0));
  const shares = [reference, current].map((counts) => counts.map((count) => count / sum(counts)));
  const top = Math.max(0.01, ...shares[0], ...shares[1]);
  const y = (part) => (40 - 38 * part / top).toFixed(2);
  const picture = drawn("svg", { class: "bins", viewBox: `0 0 ${current.length} 40`, preserveAspectRatio: "none", role: "img" });
  shares[1].forEach((part, bin) => picture.append(drawn("rect", { x: bin + 0.08, width: 0.84, y: y(part), height: 40 - y(part) })));
  picture.append(drawn("path", { d: "M0 40" + shares[0].map((part, bin) => `L${bin} ${y(part)}L${bin + 1} ${y(part)}`).join("") + `L${current.length} 40` }));
  const unit = shift.unit && shift.unit !== "1" ? " " + shift.unit : "";
  const mode = (parts) => {
    const bin = parts.indexOf(Math.max(...parts));
    // The outer bins take the rest.
    if (bin === 0) return "below " + edges[1];
    return bin === parts.length - 1 ? "from " + edges[bin] : edges[bin] + " to " + edges[bin + 1];
  };
  picture.setAttribute("aria-label", `Most frequent in the reference: ${mode(shares[0])}${unit}; now: ${mode(shares[1])}${unit}`);
  const words = drawn("title", {});
  words.textContent = picture.getAttribute("aria-label");
  picture.append(words);
  return picture;
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
  const open = make("button", "patient", alert.patient.slice(0, 8) + "…");
  open.type = "button";
  open.title = "Show this patient's readings: " + alert.patient;
  open.setAttribute("aria-label", "Patient " + alert.patient.slice(0, 8) + ", show the readings");
  open.addEventListener("click", () => showPatient(alert.patient));
  const patient = make("td", "", open);
  const moment = make("td", "when", alert.effective_at ? when(alert.effective_at) : "–");
  moment.title = alert.effective_at || "";
  const category = make("td", "", alert.category ? swatch(band(alert.category)) : "", alert.category ? human(alert.category) : "–");
  const risk = alert.probability === null ? "–" : alert.probability.toFixed(2);
  return make("tr", fresh ? "fresh" : "", moment, patient, make("td", "number", pressures(alert)), category,
    make("td", "reasons", ...alert.reasons.map((reason) => make("span", "reason", human(reason)))), make("td", "number", risk),
    make("td", "", ...moved(alert.contributions)));
}

/** What moved a probability: towards risk or away from it, in log-odds. */
function moved(contributions) {
  if (contributions.length === 0) return ["–"];
  return contributions.map((one) => {
    const amount = make("span", one.log_odds > 0 ? "up" : "down", (one.log_odds > 0 ? "▲ +" : "▼ −") + Math.abs(one.log_odds).toFixed(2));
    return make("span", "moved", amount, " " + human(one.feature));
  });
}

// ------------------------------------------------------------------ one patient

const dialog = element("patient");
let shownPatient = null;
let patientChart = null;
let patientTimer = null;

function showPatient(pseudonym) {
  shownPatient = pseudonym;
  text("patient-title", "Patient " + pseudonym.slice(0, 8) + "…");
  element("patient-title").title = pseudonym;
  text("patient-note", "Asking …");
  element("patient-rows").replaceChildren();
  if (patientChart) { patientChart.destroy(); patientChart = null; }
  if (!dialog.open) dialog.showModal();
  askPatient();
}

async function askPatient() {
  clearTimeout(patientTimer);
  const asked = shownPatient;
  if (!asked || !dialog.open) return;
  try {
    const answer = await fetch("/api/v1/patient/" + encodeURIComponent(asked));
    const told = await answer.json();
    if (asked !== shownPatient) return;
    if (answer.ok) drawPatient(told); else text("patient-note", told.error);
  } catch {
    text("patient-note", "No answer; asking again.");
  }
  if (!paused) patientTimer = setTimeout(askPatient, 2000);
}

function drawPatient(told) {
  const points = told.readings;
  text("patient-note", `${whole.format(points.length)} reading${points.length === 1 ? "" : "s"} among the last that came by`);
  const usual = (base) => (point) => (point[base + "_baseline_mmhg"] === null ? "–" : String(Math.round(point[base + "_baseline_mmhg"])));
  rows("patient-rows", points.slice().reverse().map((point) => make("tr", "",
    make("td", "when", when(point.at_seconds * 1000)), make("td", "number", pressures(point)),
    make("td", "number", usual("systolic")(point) + " / " + usual("diastolic")(point)),
    make("td", "", point.category ? swatch(band(point.category)) : "", point.category ? human(point.category) : "–"),
    make("td", "reasons", ...point.reasons.map((reason) => make("span", "reason", human(reason))), ...(point.alarm ? [make("span", "tag act", "alarm")] : []), ...(point.late ? [make("span", "tag", "late")] : [])),
    make("td", "number", point.probability === null ? "–" : point.probability.toFixed(2)), make("td", "", ...moved(point.contributions)))), "Every reading of this patient was withdrawn.");
  if (points.length === 0) return;
  // One deviation is not told where a reading lies exactly on its baseline: the one before stands.
  const edge = (base, sign) => {
    let deviation = null;
    return points.map((point) => {
      deviation = point[base + "_deviation_mmhg"] ?? deviation;
      const middle = point[base + "_baseline_mmhg"];
      return middle === null || deviation === null ? null : middle + sign * 2 * deviation;
    });
  };
  const data = [points.map((point) => point.at_seconds),
    edge("systolic", 1), edge("systolic", -1), edge("diastolic", 1), edge("diastolic", -1),
    points.map((point) => point.systolic_mmhg), points.map((point) => point.diastolic_mmhg)];
  if (patientChart) { patientChart.setData(data); return; }
  const line = (name) => ({ stroke: () => colour(name), width: 2, points: { show: true, size: 5, fill: () => colour(name) } });
  const hidden = { stroke: "transparent", width: 0, points: { show: false } };
  patientChart = new uPlot({
    ...sized(element("patient-chart")), cursor: { show: false }, legend: { show: false }, padding: [8, 8, 0, 0],
    scales: { x: { range: (_, min, max) => (min === max ? [min - 1800, max + 1800] : [min, max]) }, y: { range: (_, min, max) => [Math.max(0, min - 10), max + 10] } },
    axes: [axis({ values: (chart, ticks) => ticks.map((tick, index) => dated(chart, ticks, tick, index)), size: em(1.9), space: em(6) }), axis({ size: em(3.2) })],
    series: [{}, hidden, hidden, hidden, hidden, line("--band-3"), line("--accent")],
    bands: [{ series: [1, 2], fill: () => colour("--band-3") + "2e" }, { series: [3, 4], fill: () => colour("--accent") + "2e" }],
  }, data, element("patient-chart"));
}

element("patient-close").addEventListener("click", () => dialog.close());
dialog.addEventListener("close", () => { shownPatient = null; clearTimeout(patientTimer); });
element("find").addEventListener("submit", (event) => {
  event.preventDefault();
  const wanted = element("pseudonym").value.trim().toLowerCase();
  const valid = /^[0-9a-f]{32}$/.test(wanted);
  element("pseudonym").setCustomValidity(valid ? "" : "A pseudonym is 32 hexadecimal digits.");
  element("pseudonym").reportValidity();
  if (valid) showPatient(wanted);
});
element("pseudonym").addEventListener("input", () => element("pseudonym").setCustomValidity(""));

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
  showGraph(newest);
  showFlaws(newest);
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
  if (paused) state("paused", "Paused"); else askPatient();
});

element("measured").title = "in this computer's time zone: " + Intl.DateTimeFormat().resolvedOptions().timeZone;

const resize = new ResizeObserver(() => {
  if (rateChart) rateChart.setSize(sized(element("rate-chart")));
  if (categoryChart) categoryChart.setSize(sized(element("category-chart")));
  if (patientChart && dialog.open) patientChart.setSize(sized(element("patient-chart")));
});
resize.observe(element("rate-chart"));
resize.observe(element("category-chart"));
resize.observe(element("patient-chart"));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  style = getComputedStyle(document.documentElement);
  if (rateChart) rateChart.redraw();
  if (categoryChart) categoryChart.redraw();
  if (patientChart) patientChart.redraw();
  draw();
});
document.addEventListener("visibilitychange", draw);
follow();
