// The status page: shows each state that the agent sends. Texts of servers, coordinators and jobs
// reach the page only as textContent.

const SILENCE_MS = 6000; // the agent sends a state each second
const MINUTES = 60;
const CHART_HEIGHT = 60;
const BAR = 4;
const SVG = "http://www.w3.org/2000/svg";

const byId = (id) => document.getElementById(id);

// --- texts ---------------------------------------------------------------------------------------

const NONE = "–";

function duration(seconds) {
  const total = Math.round(seconds);
  const [hours, minutes] = [Math.floor(total / 3600), Math.floor((total % 3600) / 60)];
  if (hours >= 48) return `${Math.floor(hours / 24)} d ${hours % 24} h`;
  if (hours) return `${hours} h ${minutes} min`;
  return minutes ? `${minutes} min ${total % 60} s` : `${total} s`;
}

const ago = (seconds) => (seconds === null ? "never" : `${duration(seconds)} ago`);
const count = (number) => (number === null ? NONE : number.toLocaleString("en-US"));
const dollars = (millionths) => {
  if (millionths === null) return NONE;
  const digits = { minimumFractionDigits: 2, maximumFractionDigits: millionths < 1e6 ? 6 : 2 };
  return `$${(millionths / 1e6).toLocaleString("en-US", digits)}`;
};
const milliseconds = (value) => {
  if (value === null) return NONE;
  return value < 10_000 ? `${Math.round(value)} ms` : `${(value / 1000).toFixed(1)} s`;
};
const percent = (share) => (share === null ? NONE : `${(share * 100).toFixed(1)} %`);

function bytes(number) {
  if (number < 1000) return `${number} B`;
  return number < 1e6 ? `${(number / 1e3).toFixed(1)} kB` : `${(number / 1e6).toFixed(1)} MB`;
}

function speed(job) {
  if (job.tokens_per_second !== null) return `≈ ${job.tokens_per_second.toFixed(1)} tokens/s`;
  return job.bytes_per_second === null ? NONE : `${bytes(Math.round(job.bytes_per_second))}/s`;
}

// --- elements ------------------------------------------------------------------------------------

// Unchanged nodes stay as they are: a selection survives, and a screen reader hears only changes.
function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

function setClass(node, name) {
  if (node.className !== name) node.className = name;
}

function setChildren(parent, number, make) {
  while (parent.children.length > number) parent.lastElementChild.remove();
  while (parent.children.length < number) parent.append(make());
  return [...parent.children];
}

function element(tag, className = "") {
  const node = document.createElement(tag);
  node.className = className;
  return node;
}

// Rows are lists of texts, or of [text, class]. The cell of column `head` names its row.
function showTable(id, rows, head = 0) {
  const body = byId(id);
  const region = body.closest(".scroll");
  region.hidden = rows.length === 0;
  region.parentElement.querySelector(".empty").hidden = rows.length > 0;
  const lines = setChildren(body, rows.length, () => element("tr"));
  rows.forEach((row, at) => {
    if (lines[at].children.length !== row.length) {
      lines[at].replaceChildren(...row.map((_, column) => element(column === head ? "th" : "td")));
      lines[at].children[head].scope = "row";
    }
    row.forEach((cell, column) => {
      const [text, className] = Array.isArray(cell) ? cell : [cell, ""];
      setText(lines[at].children[column], text);
      setClass(lines[at].children[column], className);
    });
  });
}

function showPairs(id, pairs) {
  const nodes = setChildren(byId(id), pairs.length, () => {
    const group = element("div");
    group.append(element("dt"), element("dd"));
    return group;
  });
  pairs.forEach(([name, value], at) => {
    setText(nodes[at].children[0], name);
    setText(nodes[at].children[1], value);
  });
}

const long = (text) => [text, "long"];
const number = (text) => [text, "number"];
const age = (seconds) => [ago(seconds), "age"];

// --- the parts of the page -----------------------------------------------------------------------

// The reason names the end of a pause or of a break of the schedule, but not of both together.
function notServing({ reason, opens_at: opensAt, paused_until: until, ...state }) {
  const ends = [...(state.paused ? [until] : []), ...(state.scheduled ? [] : [state.schedule_changes_at])];
  const known = ends.every((end) => end === opensAt);
  const back = opensAt && !known ? `; back at ${opensAt.replace("T", " ")}` : "";
  return `Not serving: ${reason}${back}`;
}

function backendState({ healthy, availability }) {
  if (!healthy) return ["no jobs", "bad-text"];
  return availability.open ? ["healthy", "good-text"] : ["not serving", ""];
}

function linkText(state) {
  if (state.draining) return ["The agent is stopping: running jobs finish", ""];
  if (!state.availability.open) return [notServing(state.availability), ""];
  if (state.link !== "connected") {
    const reason = state.last_disconnect ? `: ${state.last_disconnect}` : "";
    return [`Not connected to ${state.coordinator_url} (${state.link})${reason}`, "bad"];
  }
  if (state.coordinator_draining) return ["Connected, but the coordinator is stopping", ""];
  return [`Connected to ${state.coordinator_url}`, "good"];
}

function showLink([text, quality]) {
  setText(byId("link"), text);
  setClass(byId("link"), `pill ${quality}`);
}

function showNow(state) {
  const { stats, totals, backends } = state;
  const waiting = backends.reduce((sum, backend) => sum + backend.queued, 0);
  const ended = Object.values(totals.jobs).reduce((sum, jobs) => sum + jobs, 0);
  const earned = Object.values(totals.earned).reduce((sum, amount) => sum + amount, 0);
  const rate = stats.tokens_per_second;
  showPairs("tiles", [
    ["Running jobs", `${state.in_flight} of ${state.capacity}`],
    ["Wait for first byte", count(waiting)],
    ["Tokens/s, last minute", rate === null ? NONE : rate.toFixed(1)],
    ["First byte, median", milliseconds(stats.first_byte_p50_ms)],
    ["First byte, p95", milliseconds(stats.first_byte_p95_ms)],
    ["Failed, last minute", percent(stats.error_rate)],
    ["Ended jobs", `${count(totals.jobs.ok ?? 0)} of ${count(ended)} ok`],
    ["Earned, not confirmed", dollars(earned)],
  ]);
  const facts = [
    ["Up", duration(state.uptime_s)],
    ["Last welcome", ago(state.last_welcome_age_s)],
    ["Last job", ago(state.last_job_age_s)],
  ];
  if (state.token_limit_wait_s > 0) {
    facts.push(["Token limit", `used up for ${duration(Math.ceil(state.token_limit_wait_s))}`]);
  }
  if (state.availability.open && state.availability.schedule_changes_at) {
    facts.push(["Serves until", state.availability.schedule_changes_at]);
  }
  if (state.ledger.problem) {
    facts.push(["Ledger", `${state.ledger.problem}; first ${ago(state.ledger.problem_age_s)}`]);
  }
  showPairs("facts", facts);
  byId("reasons").hidden = state.not_ready.length === 0;
  const items = setChildren(byId("reasons"), state.not_ready.length, () => element("li"));
  state.not_ready.forEach((reason, at) => setText(items[at], reason));
}

function showJobs(state) {
  showTable("running", state.running.map((job) => [
    long(job.model_id), number(speed(job)), number(duration(job.age_s)),
    number(job.first_byte_ms === null ? "waiting" : milliseconds(job.first_byte_ms)),
    number(bytes(job.bytes)), long(job.backend_id), job.format,
  ]));
  const more = state.in_flight - state.running.length;
  byId("running-more").hidden = more <= 0;
  setText(byId("running-more"), `${more} more`);
  showTable("jobs", state.last_jobs.map((job) => [
    age(job.age_s), long(job.model_id),
    [job.outcome, job.outcome === "ok" ? "good-text" : "bad-text"],
    number(count(job.input_tokens)), number(count(job.output_tokens)),
    number(milliseconds(job.first_byte_ms)), number(milliseconds(job.duration_ms)),
    number(dollars(job.earned)), long(job.backend_id), job.format,
    number(`${dollars(job.input_price_per_1m)} / ${dollars(job.output_price_per_1m)}`),
  ]), 1);
  showTable("refusals", state.last_refusals.map((job) => [
    age(job.age_s), long(job.model_id || "a model that is not offered"), job.reason,
    long(job.remedy),
  ]), 1);
}

function showServers(state) {
  showTable("backends", state.backends.map((backend) => [
    long(backend.id),
    backendState(backend),
    number(count(backend.models)), number(`${backend.running} of ${backend.capacity}`),
    number(milliseconds(backend.latency_ms)),
    long([backend.availability.reason, backend.last_error].filter(Boolean).join("; ")),
  ]));
  const unroutable = new Map((state.routing?.unroutable ?? []).map((one) => [one.model_id, one]));
  const others = (state.routing?.unroutable_count ?? 0) > unroutable.size;
  const unknown = state.routing === null || others;
  showTable("models", state.offered.map((model) => {
    const problem = unroutable.get(model);
    if (problem) return [long(model), [`none: ${problem.message} (${problem.code})`, "bad-text"]];
    return [long(model), unknown ? "not known" : ["yes", "good-text"]];
  }));
  showTable("notices", state.notices.map((notice) => [
    age(notice.age_s), notice.severity, long(notice.model_id ?? "all"),
    long(`${notice.message} (${notice.code})`),
  ]), 3);
}

// --- charts --------------------------------------------------------------------------------------

const CHARTS = [
  { title: "Tokens per minute", value: (minute) => minute.output_tokens, text: count },
  { title: "First byte, median", value: (minute) => minute.first_byte_p50_ms, text: milliseconds },
  { title: "Failed and refused jobs", value: (minute) => minute.failed + minute.refused,
    text: count, className: "failures" },
  { title: "Earned per minute", value: (minute) => minute.earned, text: dollars },
];

function newChart({ title, className = "" }) {
  const figure = element("figure", className);
  const caption = element("figcaption");
  caption.append(element("b"), element("span"));
  setText(caption.children[0], title);
  const image = document.createElementNS(SVG, "svg");
  image.setAttribute("viewBox", `0 0 ${MINUTES * BAR} ${CHART_HEIGHT}`);
  image.setAttribute("preserveAspectRatio", "none");
  image.setAttribute("role", "img");
  for (let at = 0; at < MINUTES; at += 1) {
    const bar = document.createElementNS(SVG, "rect");
    bar.setAttribute("x", at * BAR);
    bar.setAttribute("width", BAR - 1);
    bar.setAttribute("height", 0);
    image.append(bar);
  }
  figure.append(caption, image);
  byId("charts").append(figure);
  return figure;
}

function showChart(figure, { title, value, text }, minutes) {
  const values = new Array(MINUTES).fill(null);
  for (const minute of minutes) values[MINUTES - 1 - minute.minutes_ago] = value(minute);
  const highest = Math.max(...values);
  const summary = highest > 0 ? `highest ${text(highest)}` : "nothing";
  setText(figure.querySelector("span"), summary);
  const image = figure.querySelector("svg");
  const latest = text(values[MINUTES - 1] ?? null);
  const label = `${title} in the last hour: ${summary}, in the current minute ${latest}`;
  if (image.getAttribute("aria-label") !== label) image.setAttribute("aria-label", label);
  values.forEach((one, at) => {
    const height = highest > 0 ? Math.max((one / highest) * CHART_HEIGHT, one > 0 ? 1 : 0) : 0;
    image.children[at].setAttribute("y", CHART_HEIGHT - height);
    image.children[at].setAttribute("height", height);
  });
}

const figures = CHARTS.map(newChart);

// --- the connection to the agent -----------------------------------------------------------------

let source = null;
let silence = null;
let version = null;

function show(state) {
  // A newer agent may have a newer page.
  if (version !== null && version !== state.version) location.reload();
  version = state.version;
  document.body.classList.remove("lost");
  setText(byId("version"), state.version);
  showLink(linkText(state));
  showNow(state);
  showJobs(state);
  showServers(state);
  figures.forEach((figure, at) => showChart(figure, CHARTS[at], state.last_hour));
}

function showLost() {
  if (document.body.classList.contains("lost")) return;
  document.body.classList.add("lost");
  const since = new Date().toLocaleTimeString();
  showLink([`The agent has not responded since ${since}; this page tries again by itself`, "bad"]);
}

function connect() {
  source?.close();
  source = new EventSource("events");
  source.onmessage = (event) => {
    awaitNext();
    show(JSON.parse(event.data));
  };
  source.onerror = showLost;
  awaitNext();
}

// The browser reconnects after a lost connection, but not after an error status or a silence.
function awaitNext() {
  clearTimeout(silence);
  silence = setTimeout(() => {
    showLost();
    connect();
  }, SILENCE_MS);
}

connect();
