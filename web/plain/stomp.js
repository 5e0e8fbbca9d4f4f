// STOMP 1.2 over a WebSocket that comes back: frames, heart-beats, and reconnecting with full jitter.
//
// Knows nothing of chat and nothing of the page. Whoever uses it subscribes again in `onopen`, each time.

const ESCAPES = { "\\": "\\\\", "\r": "\\r", "\n": "\\n", ":": "\\c" };
const UNESCAPES = { "\\\\": "\\", "\\r": "\r", "\\n": "\n", "\\c": ":" };
const LF = 10;
const CR = 13;

// Timers of a hidden page may run only once a minute, so beats are promised that seldom.
const BEAT_MS = 50_000;
const WANTED_BEAT_MS = 10_000;
const FIRST_PAUSE_MS = 500;
const LONGEST_PAUSE_MS = 30_000;
// A connection that lived this long was a good one: the next pause is short again.
const GOOD_MS = 10_000;
const CONNECT_MS = 10_000;

const encoder = new TextEncoder();
const decoder = new TextDecoder("utf-8", { fatal: true });

const escape = (text) => text.replace(/[\\\r\n:]/g, (letter) => ESCAPES[letter]);

const unescape = (text) =>
  text.replace(/\\[^]?/g, (pair) => {
    if (!(pair in UNESCAPES)) throw new Error("undefined escape");
    return UNESCAPES[pair];
  });

// CONNECT and CONNECTED are not escaped (STOMP 1.2, "Value Encoding").
export function encodeFrame(command, headers, body = "") {
  const write = command === "CONNECT" ? (text) => text : escape;
  const lines = Object.entries(headers).map(([name, value]) => `${write(name)}:${write(String(value))}\n`);
  const length = body ? `content-length:${encoder.encode(body).length}\n` : "";
  return `${command}\n${lines.join("")}${length}\n${body}\0`;
}

// Frames out of bytes, however they are cut. A heart-beat is no frame.
export class FrameReader {
  #bytes = new Uint8Array(0);

  push(more) {
    const all = new Uint8Array(this.#bytes.length + more.length);
    all.set(this.#bytes);
    all.set(more, this.#bytes.length);
    const frames = [];
    let start = 0;
    for (;;) {
      while (all[start] === LF || all[start] === CR) start += 1;
      const end = this.#readFrame(all, start, frames);
      if (end < 0) break;
      start = end;
    }
    this.#bytes = all.slice(start);
    return frames;
  }

  #readFrame(all, start, frames) {
    const headEnd = endOfHead(all, start);
    if (headEnd < 0) return -1;
    const [command, ...lines] = decoder.decode(all.subarray(start, headEnd)).trimEnd().split(/\r?\n/);
    const headers = Object.create(null);
    const read = command === "CONNECTED" ? (text) => text : unescape;
    for (const line of lines) {
      const colon = line.indexOf(":");
      const name = read(line.slice(0, colon));
      if (!(name in headers)) headers[name] = read(line.slice(colon + 1));
    }
    const length = headers["content-length"];
    const bodyEnd = length === undefined ? all.indexOf(0, headEnd) : headEnd + Number(length);
    if (bodyEnd < 0 || bodyEnd >= all.length) return -1;
    frames.push({ command, headers, body: decoder.decode(all.subarray(headEnd, bodyEnd)) });
    return bodyEnd + 1;
  }
}

// Just behind the empty line; -1: it has not come yet.
function endOfHead(all, start) {
  for (let at = all.indexOf(LF, start); at >= 0; at = all.indexOf(LF, at + 1)) {
    const next = all[at + 1] === CR ? at + 2 : at + 1;
    if (all[next] === LF) return next + 1;
  }
  return -1;
}

// One connection at a time, until `stop`. `token` gives the one to use each time.
//
// onopen()                  connected (again): subscribe now
// onframe(frame)            MESSAGE or RECEIPT
// onstate(state)            "connecting", "online" or "waiting"
// onrefused(frame, token)   ERROR, on a connection that began with that token; it ends, and comes back unless stopped
export class StompLink {
  #url;
  #token;
  #usedToken = "";
  #socket = null;
  #reader = null;
  #timers = [];
  #retry = 0;
  #retryTimer = 0;
  #isStopped = true;
  #onlineSince = 0;
  #heardAt = 0;
  isOnline = false;
  onopen = () => {};
  onframe = () => {};
  onstate = () => {};
  onrefused = () => {};

  constructor(url, token) {
    this.#url = url;
    this.#token = token;
  }

  start() {
    this.#isStopped = false;
    this.#connect();
  }

  stop() {
    this.#isStopped = true;
    clearTimeout(this.#retryTimer);
    if (this.isOnline) this.send("DISCONNECT", {});
    this.#drop();
  }

  // Ends the pause between two attempts, if there is one.
  hurry() {
    if (this.#isStopped || this.#socket) return;
    clearTimeout(this.#retryTimer);
    this.#connect();
  }

  send(command, headers, body) {
    this.#socket.send(encodeFrame(command, headers, body));
  }

  #connect() {
    this.onstate("connecting");
    const socket = new WebSocket(this.#url, ["v12.stomp"]);
    socket.binaryType = "arraybuffer";
    this.#socket = socket;
    this.#reader = new FrameReader();
    this.#timers = [setTimeout(() => this.#lose(socket), CONNECT_MS)];
    socket.onopen = () => {
      this.#usedToken = this.#token();
      this.send("CONNECT", {
        "accept-version": "1.2",
        host: location.hostname,
        Authorization: `Bearer ${this.#usedToken}`,
        "heart-beat": `${BEAT_MS},${WANTED_BEAT_MS}`,
      });
    };
    socket.onmessage = (event) => this.#receive(socket, event.data);
    socket.onclose = () => this.#lose(socket);
  }

  #receive(socket, data) {
    if (socket !== this.#socket) return;
    this.#heardAt = Date.now();
    try {
      const frames = this.#reader.push(typeof data === "string" ? encoder.encode(data) : new Uint8Array(data));
      for (const frame of frames) if (socket === this.#socket) this.#act(socket, frame);
    } catch (error) {
      console.error(error);
      this.#lose(socket);
    }
  }

  #act(socket, frame) {
    if (frame.command === "CONNECTED") this.#begin(socket, frame.headers["heart-beat"] ?? "0,0");
    else if (frame.command === "ERROR") this.onrefused(frame, this.#usedToken);
    else this.onframe(frame);
  }

  #begin(socket, heartBeat) {
    const [given, wanted] = heartBeat.split(",").map(Number);
    this.#clearTimers();
    if (wanted) this.#timers.push(setInterval(() => socket.send("\n"), Math.max(BEAT_MS, wanted)));
    if (given) {
      const patience = 2 * Math.max(given, WANTED_BEAT_MS);
      this.#timers.push(setInterval(() => Date.now() - this.#heardAt > patience && this.#lose(socket), given));
    }
    this.isOnline = true;
    this.#onlineSince = Date.now();
    this.onstate("online");
    this.onopen();
  }

  #lose(socket) {
    if (socket !== this.#socket) return;
    if (this.isOnline && Date.now() - this.#onlineSince > GOOD_MS) this.#retry = 0;
    this.#drop();
    if (this.#isStopped) return;
    this.onstate("waiting");
    const longest = Math.min(LONGEST_PAUSE_MS, FIRST_PAUSE_MS * 2 ** this.#retry++);
    this.#retryTimer = setTimeout(() => this.#connect(), Math.random() * longest);
  }

  #drop() {
    this.#clearTimers();
    this.isOnline = false;
    const socket = this.#socket;
    this.#socket = null;
    socket?.close();
  }

  // An interval is cleared by the same call.
  #clearTimers() {
    this.#timers.forEach(clearTimeout);
    this.#timers = [];
  }
}
