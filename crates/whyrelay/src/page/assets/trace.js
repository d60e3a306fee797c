// The recording: the same events as a whyrelay on the command line writes, one JSON object a line.
//
// A browser shows no packets and hides some addresses. What it does not tell is left out, never guessed: an address
// that it hides is the unspecified one, with its port.

import { parse } from "./signaling.js";

const MAX_EVENTS = 20_000;
const CHUNK = 32 * 1024;
const MAX_PACKED = 4 * 1024 * 1024;

export class Recorder {
  constructor(side) {
    this.side = side;
    this.seq = side === "a" ? 0 : 1;
    this.lines = [];
    this.dropped = 0;
  }

  record(kind, fields = {}) {
    if (this.ended) return;
    if (this.lines.length >= MAX_EVENTS && kind !== "recording-ended") {
      this.dropped += 1;
      return;
    }
    if (kind === "recording-ended" && this.dropped > 0) this.write("events-dropped", { count: this.dropped });
    this.write(kind, fields);
    if (kind === "recording-ended") {
      this.ended = true;
      this.count = this.lines.length;
    }
  }

  write(kind, fields) {
    const at = Math.round((performance.timeOrigin + performance.now()) * 1000);
    this.lines.push(JSON.stringify({ seq: this.seq, at, vantage: this.side, kind, ...fields }));
    this.seq += 2;
  }

  // After the end: whether the other side's recording came.
  appendPeer(missing) {
    this.write("peer-recording", { missing });
  }

  // Everything up to the end of the recording.
  text() {
    return this.lines.slice(0, this.ended ? this.count : undefined).map((line) => `${line}\n`).join("");
  }

  // What was added after that.
  lastWords() {
    return this.lines.slice(this.count).map((line) => `${line}\n`).join("");
  }
}

// "203.0.113.1:40000", "[2001:db8::1]:40000"; a hidden address is unspecified.
export function socketAddress(address, port) {
  const number = Number.isInteger(port) && port >= 0 && port <= 65535 ? port : 0;
  if (isIpv6(address)) return `[${address}]:${number}`;
  return isIpv4(address) ? `${address}:${number}` : `0.0.0.0:${number}`;
}

const isIpv4 = (text) => /^\d{1,3}(\.\d{1,3}){3}$/.test(text ?? "") && text.split(".").every((part) => part < 256);
const isIpv6 = (text) => typeof text === "string" && text.includes(":") && /^[0-9a-fA-F:.]+$/.test(text);

// A candidate line (RFC 8839 §5.1), or null where it is none.
export function parseCandidate(line) {
  const words = line.replace(/^a=/, "").replace(/^candidate:/, "").trim().split(/\s+/);
  if (words.length < 8 || words[6] !== "typ") return null;
  const [foundation, component, protocol, priority, address, port, , type] = words;
  const pairs = [];
  for (let at = 8; at + 1 < words.length; at += 2) pairs.push([words[at], words[at + 1]]);
  const take = (name) => pairs.find(([key]) => key === name)?.[1];
  const transport = protocol.toLowerCase() === "tcp" ? tcpTransport(take("tcptype")) : "udp";
  const number = Number(port);
  const known = ["host", "srflx", "prflx", "relay"].includes(type);
  if (!transport || !known || !(number >= 0 && number <= 65535) || !(priority >= 0 && priority < 2 ** 32)) return null;
  const candidate = {
    foundation: foundation.slice(0, 32),
    component: Number(component) || 1,
    transport,
    priority: Number(priority),
    address: isIpv4(address) || isIpv6(address)
      ? socketAddress(address, number)
      : { name: address.toLowerCase().slice(0, 255), port: number },
    type,
  };
  const related = take("raddr");
  if (isIpv4(related) || isIpv6(related)) candidate.related = socketAddress(related, Number(take("rport")));
  const extensions = pairs.filter(([key]) => !["raddr", "rport", "tcptype"].includes(key));
  if (extensions.length > 0) candidate.extensions = extensions.slice(0, 16);
  return candidate;
}

function tcpTransport(type) {
  return { active: "tcp-active", passive: "tcp-passive", so: "tcp-simultaneous-open" }[type];
}

// The base of a local candidate (RFC 8445 §4), as far as the browser tells it.
export function baseOf(candidate) {
  if (candidate.type === "host" || candidate.type === "relay") {
    const { address } = candidate;
    return typeof address === "string" ? address : socketAddress(null, address.port);
  }
  return candidate.related ?? socketAddress(null, 0);
}

// What a session description says of ICE and DTLS; its password is not read.
export function describe(sdp) {
  const value = (name) => sdp.match(new RegExp(`^a=${name}:(.*?)\\r?$`, "m"))?.[1].trim() ?? "";
  const setup = value("setup");
  return {
    ufrag: value("ice-ufrag").slice(0, 256),
    setup: ["active", "passive", "actpass", "holdconn"].includes(setup) ? setup : "actpass",
    fingerprint: value("fingerprint").slice(0, 512),
    ice_options: value("ice-options").split(/\s+/).filter(Boolean).slice(0, 8),
  };
}

// A recording on its way: zlib.
export const deflated = (text) => through(new CompressionStream("deflate"), new TextEncoder().encode(text));

// The same in pieces that fit into a signaling message.
export async function pack(text) {
  const bytes = await deflated(text);
  const count = Math.max(1, Math.ceil(bytes.length / CHUNK));
  return Array.from({ length: count }, (_, index) => {
    const piece = bytes.subarray(index * CHUNK, (index + 1) * CHUNK);
    return JSON.stringify({ index, count, data: toBase64(piece) });
  });
}

export class Assembler {
  constructor() {
    this.pieces = [];
  }

  // Answers the text once the recording is whole, null before, and throws where it cannot become whole.
  async push(piece) {
    const { index, count, data } = piece ?? {};
    if (!Number.isInteger(index) || !Number.isInteger(count) || count < 1 || count > MAX_PACKED / CHUNK) {
      throw new Error("a piece of the other side's recording is garbled");
    }
    if (index < this.pieces.length) return null;
    if (index !== this.pieces.length || index >= count) throw new Error("a piece of the recording is missing");
    const bytes = fromBase64(String(data));
    if (bytes.length > CHUNK) throw new Error("a piece of the other side's recording is too large");
    this.pieces.push(bytes);
    if (this.pieces.length < count) return null;
    const inflated = await through(new DecompressionStream("deflate"), join(this.pieces), 32 * 1024 * 1024);
    return new TextDecoder().decode(inflated);
  }
}

// The events in one piece of a trace that goes on.
export async function parsePiece({ data }) {
  const bytes = fromBase64(String(data));
  if (bytes.length > CHUNK) throw new Error("a piece of the other side's trace is too large");
  return new TextDecoder().decode(await through(new DecompressionStream("deflate"), bytes, MAX_PACKED));
}

// The lines that this side recorded: the rest of what it sends is not its business.
export function onlyOf(side, text) {
  return text
    .split("\n")
    .filter((line) => parse(line)?.vantage === side)
    .map((line) => `${line}\n`)
    .join("");
}

async function through(transform, bytes, limit = Infinity) {
  const writer = transform.writable.getWriter();
  // What goes wrong here is told by the reader below.
  writer.write(bytes).catch(() => {});
  writer.close().catch(() => {});
  const parts = [];
  let size = 0;
  const reader = transform.readable.getReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return join(parts);
    size += value.length;
    if (size > limit) {
      await reader.cancel();
      throw new Error("the other side's recording is too large");
    }
    parts.push(value);
  }
}

function join(parts) {
  const whole = new Uint8Array(parts.reduce((size, part) => size + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

function toBase64(bytes) {
  let text = "";
  for (const byte of bytes) text += String.fromCharCode(byte);
  return btoa(text);
}

function fromBase64(text) {
  return Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
}
