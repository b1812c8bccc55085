// A coordinator for agents of protocol `provider-agent.v1`, written from docs/protocol.md alone.
// It listens on loopback, serves every client, admits every agent and supports no optional feature.
//
//   npm ci && node coordinator.mjs --port 8900
//   curl http://127.0.0.1:8900/v1/chat/completions -d '{"model": "…", "messages": […]}'

import { createPublicKey, randomBytes, randomUUID, verify } from "node:crypto";
import { createServer } from "node:http";
import { parseArgs } from "node:util";
import { Decoder, encode } from "@msgpack/msgpack";
import { WebSocketServer } from "ws";

const SUBPROTOCOL = "provider-agent.v1";
const HANDSHAKE_MS = 10_000, HEARTBEAT_MS = 10_000, RESUME_MS = 60_000, DRAIN_MS = 30_000;
const DEADLINE_MS = 600_000, WINDOW_BYTES = 1 << 20; // per job; the window limits response bytes
const MAX_MESSAGE_BYTES = 1 << 20, MAX_REQUEST_BYTES = 16 << 20, PIECE_BYTES = 64 << 10;
const UNSENT_BYTES = 128 << 10; // how many bytes of requests can delay a control frame
const FORWARDED_HEADERS = ["retry-after", "x-request-id", "request-id", "openai-processing-ms"];
const CHALLENGE = 1, WELCOME = 2, REJECTED = 3, JOB_HEADER = 4, CANCEL = 5, ACK = 6, DRAIN = 7;
const REQUEST_CHUNK = 8, ROUTING_STATUS = 10, HELLO = 33, CAPABILITIES = 34, HEARTBEAT = 35;
const JOB_STARTED = 36, CHUNK = 37, JOB_RESULT = 38, JOB_ERROR = 39, DRAINING = 40;

// --- "Messages and frames" -----------------------------------------------------------------------
// The library replaces invalid UTF-8; the protocol calls such a message malformed.
class StrictDecoder extends Decoder {
  static utf8 = new TextDecoder("utf-8", { fatal: true });
  decodeUtf8String(length, header) {
    StrictDecoder.utf8.decode(this.bytes.subarray(this.pos + header, this.pos + header + length));
    return super.decodeUtf8String(length, header);
  }
}
const decoder = new StrictDecoder({ mapKeyConverter: String });

const check = (test) => (value) => {
  if (!test(value)) throw new Error("a field of another type or out of its range");
  return value;
};
const str = (max) => check((v) => typeof v === "string" && [...v].length <= max);
const uint = (min, max) => check((v) => Number.isSafeInteger(v) && v >= min && v <= max);
const bin = (lo, hi) => check((v) => v instanceof Uint8Array && v.length >= lo && v.length <= hi);
const list = (parse, max) => (value) =>
  check((v) => Array.isArray(v) && v.length <= max)(value).map((item) => parse(item));
const or = (fallback, parse) => Object.assign((value) => parse(value), { fallback });
const nullable = (parse) => or(null, (value) => (value === null ? null : parse(value)));

// Parses a frame or nested array. Absent optional fields get defaults; unknown fields are skipped.
const tuple = (...parsers) => (array) => parsers.map((parse, index) => {
  if (index < check(Array.isArray)(array).length) return parse(array[index]);
  return check((v) => v !== undefined)(parse.fallback);
});

const name = str(512), text = str(4096), id = bin(16, 16), count = uint(0, Number.MAX_SAFE_INTEGER);
const bool = check((v) => typeof v === "boolean"), float = check((v) => typeof v === "number");
const total = nullable(count), rate = nullable(float), flag = nullable(bool);
const names = list(name, 64), usage = or([], tuple(total, total, total, total, total));
const liveJob = tuple(id, count, count, or(0, count), or(false, bool));
const offer = tuple(name, list(name, 16), names, total, bool, name, count, total, total, total,
  nullable(list(name, 16)), flag, flag, flag);
const backendLoad = tuple(name, bool, count, count, total, total, rate, or([], (v) => v));
const metadata = or({}, check((v) => v?.constructor === Object));
const FRAMES = {
  [HELLO]: tuple(name, bin(32, 32), bin(64, 64), or("", name), or("", name), nullable(id),
    or([], list(liveJob, 4096)), or([], names), or(false, bool)),
  [CAPABILITIES]: tuple(count, list(offer, 4096), tuple(count, total), metadata),
  [HEARTBEAT]: tuple(count, count, count, rate, rate, rate, rate, or([], list(backendLoad, 1024))),
  [JOB_STARTED]: tuple(id, uint(100, 599), name, name, or([], list(tuple(name, name), 16))),
  [CHUNK]: tuple(id, count, bin(0, Infinity)), [DRAINING]: tuple(count),
  [JOB_RESULT]: tuple(id, count, usage, name, count, total),
  [JOB_ERROR]: tuple(id, count, name, text, nullable(uint(100, 599)), or(false, bool), total,
    or(Buffer.alloc(0), bin(0, 65536)), or(false, bool), or(true, bool), usage, or("", name)),
};

// The known frames of a message, as [type, fields].
function decodeMessage(data, isBinary) {
  const frame = check((v) => Array.isArray(v) && Number.isSafeInteger(v[0]));
  const frames = isBinary ? list(frame, 16384)(decoder.decode(data)) : [];
  if (!frames.length) throw new Error("a text message, or no frames");
  return frames.flatMap(([type, ...fields]) => FRAMES[type] ? [[type, FRAMES[type](fields)]] : []);
}

const hex = (bytes) => Buffer.from(bytes).toString("hex");
const send = (socket, ...frames) => socket?.send(encode(frames));
// --- "The states of a job", "Flow control" -------------------------------------------------------
class Job {
  id = Buffer.from(randomUUID().replaceAll("-", ""), "hex");
  endsAt = Date.now() + DEADLINE_MS;
  received = 0; // response bytes that have arrived
  passedOn = 0; // of these, what the client's socket has accepted
  acked = 0; // of these, what is acknowledged
  cancelled = false; started = null; // the fields of JobStarted

  constructor(session, request) {
    Object.assign(this, { session, ...request });
    session.jobs.set(hex(this.id), this);
    this.response.on("close", () => this.response.writableFinished || this.cancel());
  }

  sendHeader() {
    send(this.session.socket, [JOB_HEADER, this.id, this.model, this.format, this.body.length,
      Math.max(0, this.endsAt - Date.now()), this.operation]);
    this.sendBody(0);
  }

  sendBody(offset) {
    this.sent = offset;
    if (offset < this.body.length) this.session.uploads.add(this);
    this.session.upload();
  }

  // Discards the rest of the response: the client has disconnected, or the status is invalid.
  cancel() {
    if (this.cancelled || !this.session.jobs.has(hex(this.id))) return;
    this.cancelled = true;
    this.session.uploads.delete(this);
    send(this.session.socket, [CANCEL, this.id, "the response is not wanted"]);
    this.pass(this.received);
  }

  receive(offset, data) {
    const end = offset + data.length;
    if (!this.started) throw new Error("a chunk of a job that has not started");
    if (!data.length || offset > this.received) throw new Error("an empty chunk, or a gap");
    if (end - this.acked > WINDOW_BYTES) throw new Error("more data than the window allows");
    if (end <= this.received) return;
    const fresh = data.subarray(this.received - offset);
    this.received = end;
    this.writeHead();
    if (this.cancelled) return this.pass(end);
    this.response.write(fresh, () => this.pass(end)); // once the socket has accepted it
  }

  // Every byte before `offset` was passed on or discarded.
  pass(offset) {
    this.passedOn = Math.max(this.passedOn, offset);
    if (this.passedOn - this.acked < WINDOW_BYTES / 4 || !this.session.socket) return;
    send(this.session.socket, [ACK, this.id, (this.acked = this.passedOn)]);
  }

  writeHead() {
    if (this.response.headersSent || this.cancelled) return;
    if (!this.started) throw new Error("a result before JobStarted");
    const [, status, contentType, , headers] = this.started;
    if (status < 200 || [204, 205, 304].includes(status)) { // such a response has no body
      this.cancel();
      return sendError(this.response, this.format, "invalid_response", `The status is ${status}.`);
    }
    const known = headers.filter(([header]) => FORWARDED_HEADERS.includes(header));
    for (const [header, value] of known) this.response.setHeader(header, value);
    this.response.writeHead(status, { "content-type": contentType, "cache-control": "no-cache" });
  }

  end(type, [, totalBytes, code, message, , , , , isRelayed]) {
    if (totalBytes !== this.received) throw new Error("total_bytes differs from what arrived");
    if (type === JOB_ERROR && !isRelayed) return this.fail(code, message);
    this.writeHead();
    this.response.end();
    this.forget();
  }

  // The client must not mistake a part of a response for the whole.
  fail(code, message) {
    this.forget();
    if (this.cancelled) return;
    if (!this.response.headersSent) return sendError(this.response, this.format, code, message);
    const isStream = /^text\/event-stream/i.test(this.started?.[2]) && code !== "slow_consumer";
    if (!isStream) return this.response.destroy();
    this.response.end(`\n\nevent: error\ndata: ${errorBody(this.format, code, message)}\n\n`);
  }

  forget() {
    this.session.jobs.delete(hex(this.id));
    this.session.uploads.delete(this);
  }
}

// --- "Handshake", "Resumption" -------------------------------------------------------------------
const sessions = new Set();
let authorities, drainEndsAt = 0; // 0 until a drain starts

// What this coordinator remembers about one agent. A detached session's `socket` is null.
class Session {
  id = randomBytes(16);
  jobs = new Map(); // id in hex → job without an end
  ended = new Map(); // id in hex → total_bytes of the latest ended jobs
  uploads = new Set(); // jobs with unsent bytes of their request
  replaced = false; // whether a newer connection of the key receives the new jobs

  end(message, closeCode) {
    clearTimeout(this.expiry);
    sessions.delete(this);
    if (closeCode) this.socket?.close(closeCode, message);
    this.socket = null;
    for (const job of [...this.jobs.values()]) job.fail("provider_lost", message);
  }

  // Jobs take turns with one piece each, and only while little waits in the socket.
  upload() {
    const { socket, uploads } = this;
    while (uploads.size && socket?.readyState === 1 && socket.bufferedAmount < UNSENT_BYTES) {
      const [job] = uploads;
      const data = job.body.subarray(job.sent, job.sent + PIECE_BYTES);
      uploads.delete(job);
      socket.send(encode([[REQUEST_CHUNK, job.id, job.sent, data]]), () => this.upload());
      job.sent += data.length;
      if (job.sent < job.body.length) uploads.add(job);
    }
  }

  // Decides which jobs continue. Returns Welcome.resumed, and functions to call after Welcome.
  resume(liveJobs) {
    const resumed = [], steps = [];
    const live = new Map(liveJobs.map((job) => [hex(job[0]), job]));
    for (const [key, job] of [...this.jobs]) {
      const [, first, next, requestOffset] = live.get(key) ?? [];
      if (first === undefined) { // the agent does not know the job
        if (job.started || job.cancelled) job.fail("provider_lost", "The link was lost.");
        else steps.push(() => job.sendHeader());
      } else if (job.cancelled) { // skip the unreceived bytes, and cancel the job again
        if (!(job.received = job.passedOn = job.acked = next)) job.started = null;
        resumed.push([job.id, next]);
        steps.push(() => send(this.socket, [ACK, job.id, next], [CANCEL, job.id, "cancelled"]));
      } else if (first <= job.received && job.received <= next) {
        if (!job.received) job.started = null; // JobStarted is sent again
        resumed.push([job.id, job.received]);
        job.acked = job.passedOn; // earlier acknowledgements may be lost
        steps.push(() => send(this.socket, [ACK, job.id, job.acked]));
        steps.push(() => job.sendBody(requestOffset));
      } else job.fail("provider_lost", "The provider lost a part of the response.");
    }
    for (const [key, [jobId, , , , ended]] of live) {
      if (ended && this.ended.has(key)) resumed.push([jobId, this.ended.get(key), true]);
    }
    return [resumed, steps];
  }
}

function isSigned(publicKey, signature, nonce) {
  const x = Buffer.from(publicKey).toString("base64url");
  const key = createPublicKey({ key: { kty: "OKP", crv: "Ed25519", x }, format: "jwk" });
  const prefixes = authorities.map((name) => Buffer.from(`${SUBPROTOCOL} hello\0${name}\0`));
  return prefixes.some((prefix) => verify(null, Buffer.concat([prefix, nonce]), key, signature));
}

const findDead = (socket) => new Promise((resolve) => { // `socket`, or false if it answers a ping
  socket.once("pong", () => resolve(false)).ping();
  setTimeout(resolve, 5000, socket);
});

// The session that a Hello continues or starts, or Rejected's fields. `dead`: from findDead.
async function findSession(key, instance, sessionId, replace, dead) {
  const ofKey = [...sessions].filter((session) => session.key === key);
  const named = ofKey.find((session) => sessionId && session.id.equals(sessionId));
  if (named) named.replaced &&= ofKey.length > 1;
  if (named || drainEndsAt) return named ?? ["draining", "The coordinator is stopping.", 5000];
  const current = ofKey.find((session) => !session.replaced && session.socket !== dead);
  const isRunning = instance && current?.socket && current.instance !== instance;
  if (isRunning && !current.draining && !replace) {
    if (dead !== undefined) return ["key_in_use", `In use by ${current.socket.agent}.`, null];
    return findSession(key, instance, sessionId, replace, await findDead(current.socket));
  }
  if (isRunning && current.jobs.size) // it finishes its jobs; sessions replaced earlier end
    for (const session of ofKey) session.replaced = session === current;
  for (const s of ofKey) if (!s.replaced || s.instance === instance) s.end("Agent replaced.", 4001);
  return new Session();
}

async function admit(socket, nonce, hello) {
  const [version, publicKey, signature, , instance, sessionId, liveJobs, , replace] = hello;
  const session = isSigned(publicKey, signature, nonce)
    ? await findSession(hex(publicKey), instance, sessionId, replace)
    : ["bad_signature", "The signature does not cover an address of this coordinator.", null];
  if (Array.isArray(session)) {
    send(socket, [REJECTED, ...session]);
    return socket.close(1008, session[0]);
  }
  socket.agent += `, version ${version}`;
  clearTimeout(session.expiry);
  session.socket?.close(4001, "resumed on another connection");
  Object.assign(session, { socket, instance, key: hex(publicKey), offers: [], draining: false });
  sessions.add((socket.session = session));
  const [resumed, steps] = session.resume(liveJobs);
  send(socket, [WELCOME, session.key.slice(0, 8), session.id, HEARTBEAT_MS, RESUME_MS, WINDOW_BYTES,
    MAX_MESSAGE_BYTES, resumed]);
  for (const step of steps) step();
  if (drainEndsAt) send(socket, [DRAIN, "stopping", 5000]);
}

function receive(session, type, fields) {
  const [jobId, totalBytes] = fields;
  const job = jobId instanceof Uint8Array ? session.jobs.get(hex(jobId)) : null;
  if (type === HELLO || (type === JOB_STARTED && job?.started)) throw new Error("sent twice");
  if (type === DRAINING) session.draining = true;
  if (type === JOB_STARTED && job) job.started = fields;
  if (type === CHUNK) job?.receive(fields[1], fields[2]);
  if (type === CAPABILITIES) {
    [, session.offers, [session.limit]] = fields;
    send(session.socket, [ROUTING_STATUS, fields[0], []]);
  }
  if (type === JOB_RESULT || type === JOB_ERROR) {
    job?.end(type, fields);
    session.ended.set(hex(jobId), totalBytes);
    if (session.ended.size > 4096) session.ended.delete(session.ended.keys().next().value);
    send(session.socket, [ACK, jobId, totalBytes, true]);
    if (session.replaced && !session.jobs.size) session.end("replaced", 4001);
  }
}

function connect(socket, request) {
  socket.agent = `an agent at ${request.socket.remoteAddress}, since ${new Date().toISOString()}`;
  const nonce = randomBytes(32);
  let receivedAt = Date.now(); // the latest message
  const fail = (code, reason) => { // a violation ends the session; silence does not
    if (code === 1002) socket.session?.end(reason);
    socket.removeAllListeners("message").close(code, reason);
  };
  const watchdog = setInterval(() => {
    const limit = socket.session ? 3 * HEARTBEAT_MS : HANDSHAKE_MS;
    if (Date.now() - receivedAt > limit) fail(1008, "silent for too long");
  }, 500);
  send(socket, [CHALLENGE, nonce, "coordinator.mjs"]);
  socket.on("message", (data, isBinary) => {
    receivedAt = Date.now();
    try {
      for (const [type, fields] of decodeMessage(data, isBinary)) {
        const { session } = socket; // undefined before Hello, null before Welcome
        if (session?.socket === socket) receive(session, type, fields);
        else if (session) return; // it was resumed on another connection
        else if (session === null || type !== HELLO) throw new Error("a frame before Welcome");
        else admit(socket, nonce, fields, (socket.session = null)).catch(() => socket.terminate());
      }
    } catch (error) {
      fail(1002, error.message.slice(0, 100));
    }
  });
  socket.on("error", () => socket.session?.end("The provider broke the protocol."));
  socket.on("close", (code) => {
    clearInterval(watchdog);
    const { session } = socket;
    if (session?.socket !== socket) return;
    if ([1000, 1001, 1002, 1009].includes(code)) return session.end("The provider disconnected.");
    session.socket = null;
    session.expiry = setTimeout(() => session.end("The provider is offline."), RESUME_MS);
  });
}

// --- the HTTP API for clients --------------------------------------------------------------------
const ROUTES = {
  "/v1/chat/completions": ["openai", "chat"], "/v1/messages": ["anthropic", "messages"],
};
const STATUS = { bad_request: 400, model_not_loaded: 404, out_of_capacity: 503 }; // others: 502

const errorBody = (format, code, message) => JSON.stringify(format === "anthropic"
  ? { type: "error", error: { type: "api_error", message } }
  : { error: { message, type: "server_error", param: null, code } });
const sendError = (response, format, code, message) => response
  .writeHead(STATUS[code] ?? 502, { "content-type": "application/json" })
  .end(errorBody(format, code, message));

async function serve(request, response) {
  const [format = "openai", operation] = ROUTES[request.url.split("?")[0]] ?? [];
  if (!operation) return sendError(response, format, "bad_request", "There is no such path.");
  let left = MAX_REQUEST_BYTES, model;
  request.on("data", ({ length }) => { if ((left -= length) < 0) request.destroy(); });
  const body = Buffer.concat(await request.toArray());
  try { ({ model } = JSON.parse(body)); } catch { /* the next line reports it */ }
  if (typeof model !== "string") return sendError(response, format, "bad_request", "No `model`.");
  const serving = [...sessions].filter((session) => session.offers.some(([offered, formats, ops]) =>
    offered === model && formats.includes(format) && ops.includes(operation)));
  const [session] = serving
    .filter((s) => s.socket && !s.draining && !s.replaced && !drainEndsAt && s.jobs.size < s.limit)
    .sort((a, b) => a.jobs.size - b.jobs.size);
  if (session) return new Job(session, { model, format, operation, body, response }).sendHeader();
  const code = serving.length ? "out_of_capacity" : "model_not_loaded";
  sendError(response, format, code, "No provider offers the model, or none is free.");
}

const { values } = parseArgs({ options: { // authority: host:port that agents dial
  port: { type: "string", default: "8900" }, authority: { type: "string", multiple: true },
} });
const server = createServer((req, res) => serve(req, res).catch(() => res.destroy()));
const agents = new WebSocketServer({
  server, path: "/provider/connect", perMessageDeflate: false, maxPayload: MAX_MESSAGE_BYTES,
  handleProtocols: (offered) => (offered.has(SUBPROTOCOL) ? SUBPROTOCOL : false),
}).on("connection", connect);
server.listen(Number(values.port), "127.0.0.1", () => {
  const { port } = server.address();
  authorities = values.authority ?? [`127.0.0.1:${port}`, `localhost:${port}`];
  console.log(`clients: http://127.0.0.1:${port}  agents: ws://127.0.0.1:${port}/provider/connect`);
});

process.once("SIGTERM", () => { // "Draining"
  drainEndsAt = Date.now() + DRAIN_MS;
  for (const { socket } of sessions) send(socket, [DRAIN, "stopping", 5000]);
  setInterval(() => {
    if (Date.now() < drainEndsAt && [...sessions].some((session) => session.jobs.size)) return;
    for (const socket of agents.clients) socket.close(1001, "stopping");
    server.close(() => process.exit(0)).closeAllConnections();
  }, 100);
});
