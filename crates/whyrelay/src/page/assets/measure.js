// Measurements over the data channel, as whyrelay on the command line makes them: binary messages that begin with
// "WRM1" and a byte of type. See channel/measure.rs for the protocol.

const MAGIC = [0x57, 0x52, 0x4d, 0x31];
const TYPE = { hello: 0, ping: 1, pong: 2, ready: 3, start: 4, data: 5, stop: 6, report: 7 };
const PINGS = 20;
// Pings, and answers, that are events each way.
const RECORDED_PINGS = 8;
const PING_WAIT_MS = 3000;
const SILENCE_MS = 10_000;
const MAX_STREAM_MS = 60_000;
const DATA = 16 * 1024;
const AHEAD = 1024 * 1024;
// After the measurement, for the plot.
const IDLE_PING_MS = 500;

export class Measurement {
  // `on` has: roundTrip(milliseconds), event(kind, fields), done().
  constructor(channel, offerer, on) {
    this.channel = channel;
    this.offerer = offerer;
    this.on = on;
    this.pending = new Map();
    this.recorded = new Set();
    this.trips = [];
    this.sent = 0;
    this.streamMs = 0;
    this.phase = "await-hello";
    this.heard = performance.now();
    channel.binaryType = "arraybuffer";
    this.send(TYPE.hello, u32(0));
    this.timer = setInterval(() => this.tick(), 100);
  }

  stop() {
    clearInterval(this.timer);
    this.stopped = true;
  }

  // Takes a message; false where it is none of ours.
  take(data) {
    if (!(data instanceof ArrayBuffer)) return false;
    const bytes = new Uint8Array(data);
    if (bytes.length < 5 || MAGIC.some((byte, index) => bytes[index] !== byte)) return false;
    this.heard = performance.now();
    const body = new DataView(data, 5);
    const number = (at) => (body.byteLength >= at + 4 ? body.getUint32(at) : 0);
    switch (bytes[4]) {
      case TYPE.hello:
        this.streamMs = Math.min(Math.max(this.streamMs, number(0)), MAX_STREAM_MS);
        if (this.phase === "await-hello") {
          this.phase = "pinging";
          this.ping();
        }
        break;
      case TYPE.ping:
        this.record("in", false, number(0));
        this.record("out", true, number(0));
        this.send(TYPE.pong, u32(number(0)));
        break;
      case TYPE.pong:
        this.pong(number(0));
        break;
      case TYPE.ready:
        this.peerReady = true;
        this.turns();
        break;
      case TYPE.start:
        this.incoming = { since: performance.now(), last: performance.now(), bytes: 0 };
        break;
      case TYPE.data:
        if (this.incoming) {
          this.incoming.bytes += bytes.length;
          this.incoming.last = performance.now();
        }
        break;
      case TYPE.stop:
        this.takeStop();
        break;
      case TYPE.report:
        if (this.phase === "await-report" && body.byteLength >= 16) {
          const took = Number(body.getBigUint64(8));
          const bytes = Math.min(Number(body.getBigUint64(0)), this.streamed);
          this.on.event("throughput", { direction: "out", bytes, took_us: took });
          if (this.offerer) this.phase = "receiving";
          else this.finish();
        }
        break;
      default:
    }
    return true;
  }

  tick() {
    if (this.channel.readyState !== "open") return;
    const now = performance.now();
    for (const [id, at] of this.pending) if (now - at > PING_WAIT_MS) this.pending.delete(id);
    if (this.phase === "pinging") this.ping();
    const waits = ["await-hello", "await-ready", "await-report", "receiving"].includes(this.phase);
    if (waits && now - this.heard > SILENCE_MS) this.finish();
    if (this.phase === "done" && now - (this.lastPing ?? 0) >= IDLE_PING_MS && this.spoke) this.sendPing();
  }

  ping() {
    if (this.sent < PINGS && this.pending.size === 0) this.sendPing();
    if (this.sent >= PINGS && this.pending.size === 0) {
      const trips = this.trips.toSorted((a, b) => a - b);
      if (trips.length > 0) {
        this.on.event("round-trips", {
          count: trips.length,
          lost: this.sent - trips.length,
          median_us: Math.round(trips[trips.length >> 1] * 1000),
          p99_us: Math.round(trips[Math.min(trips.length - 1, Math.ceil(trips.length * 0.99) - 1)] * 1000),
        });
      }
      this.phase = "await-ready";
      this.send(TYPE.ready, new Uint8Array());
      this.turns();
    }
  }

  sendPing() {
    this.pending.set(this.sent, performance.now());
    this.lastPing = performance.now();
    this.record("out", false, this.sent);
    this.send(TYPE.ping, u32(this.sent));
    this.sent += 1;
  }

  pong(id) {
    const at = this.pending.get(id);
    if (at === undefined) return;
    this.pending.delete(id);
    this.record("in", true, id);
    this.spoke = true;
    const trip = performance.now() - at;
    this.on.roundTrip(trip);
    if (this.phase === "pinging") {
      this.trips.push(trip);
      this.ping();
    }
  }

  // A ping or an answer becomes an event, so that the recordings tell how far the two clocks are apart.
  record(direction, answer, id) {
    const key = `${direction} ${answer} ${id}`;
    if (id >= RECORDED_PINGS || this.recorded.has(key)) return;
    this.recorded.add(key);
    this.on.event("channel-ping", { direction, answer, id });
  }

  turns() {
    if (this.phase !== "await-ready" || !this.peerReady) return;
    if (this.streamMs === 0) this.finish();
    else if (this.offerer) this.stream();
    else this.phase = "receiving";
  }

  async stream() {
    this.phase = "sending";
    this.streamed = 0;
    this.send(TYPE.start, new Uint8Array());
    const filler = new Uint8Array(DATA - 5);
    const until = performance.now() + this.streamMs;
    while (performance.now() < until && this.channel.readyState === "open" && !this.stopped) {
      if (this.channel.bufferedAmount < AHEAD) {
        this.send(TYPE.data, filler);
        this.streamed += DATA;
      } else {
        await new Promise((resolve) => setTimeout(resolve, 1));
      }
    }
    this.send(TYPE.stop, new Uint8Array());
    this.heard = performance.now();
    this.phase = "await-report";
  }

  takeStop() {
    if (!this.incoming) return;
    const { since, last, bytes } = this.incoming;
    this.incoming = null;
    const took = Math.max(1, Math.round((last - since) * 1000));
    const body = new DataView(new ArrayBuffer(16));
    body.setBigUint64(0, BigInt(bytes));
    body.setBigUint64(8, BigInt(took));
    this.send(TYPE.report, new Uint8Array(body.buffer));
    this.on.event("throughput", { direction: "in", bytes, took_us: took });
    if (this.phase === "receiving") {
      if (this.offerer) this.finish();
      else this.stream();
    }
  }

  finish() {
    if (this.phase === "done") return;
    this.phase = "done";
    this.on.done();
  }

  send(type, body) {
    if (this.channel.readyState !== "open") return;
    const message = new Uint8Array(5 + body.length);
    message.set(MAGIC);
    message[4] = type;
    message.set(body, 5);
    this.channel.send(message);
  }
}

function u32(number) {
  const view = new DataView(new ArrayBuffer(4));
  view.setUint32(0, number);
  return new Uint8Array(view.buffer);
}
