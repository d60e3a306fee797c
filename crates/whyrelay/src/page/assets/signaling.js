// The connection to the signaling server: a WebSocket with the same messages as the long poll.
//
// A connection that breaks is made again with the same token, so that the id stays ours.

const RETRY_MS = [300, 1000, 2000, 4000];

export const IDS = { a: "offer-peer-1", b: "answer-peer-1" };

export function randomName() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

export class Signaling {
  // `on` has: joined(info), message(message), refused(refusal), failed(refusal or text), lost(text), back().
  constructor({ room, side, version, on }) {
    this.room = room;
    this.side = side;
    this.id = IDS[side];
    this.peer = IDS[side === "a" ? "b" : "a"];
    this.version = version;
    this.on = on;
    this.token = randomName();
    this.attempts = 0;
    this.wasJoined = false;
    this.ended = false;
  }

  connect() {
    const url = new URL("/ws", location.href);
    url.protocol = location.protocol === "https:" ? "wss:" : "ws:";
    const socket = new WebSocket(url);
    this.socket = socket;
    socket.addEventListener("open", () => {
      const join = {
        room: this.room,
        id: this.id,
        token: this.token,
        implementation: "whyrelay page",
        version: this.version,
        watch: [this.peer],
      };
      socket.send(JSON.stringify({ type: "join", content: JSON.stringify(join), to: "", from: this.id }));
    });
    socket.addEventListener("message", ({ data }) => this.handle(data));
    socket.addEventListener("close", () => this.closed(socket));
  }

  handle(text) {
    let message;
    try {
      message = JSON.parse(text);
    } catch {
      return;
    }
    if (message === null || typeof message !== "object") return;
    const type = String(message.type ?? "");
    const content = String(message.content ?? "");
    if (type === "joined") {
      this.attempts = 0;
      const again = this.wasJoined;
      this.wasJoined = true;
      if (again) this.on.back();
      else this.on.joined();
    } else if (type === "error") {
      this.ended = true;
      this.on.failed(parse(content) ?? { code: "unknown", reason: "the signaling server ended the connection" });
    } else if (type === "refused") {
      this.on.refused(parse(content) ?? {});
    } else if (type !== "heartbeat" && type !== "ack") {
      this.on.message({ type, content, from: String(message.from ?? "") });
    }
  }

  closed(socket) {
    if (this.ended || socket !== this.socket) return;
    if (this.attempts >= RETRY_MS.length) {
      this.ended = true;
      this.on.failed({ code: "unreachable", reason: "the signaling server cannot be reached" });
      return;
    }
    this.on.lost("the connection to the signaling server broke");
    setTimeout(() => !this.ended && this.connect(), RETRY_MS[this.attempts]);
    this.attempts += 1;
  }

  send(type, content) {
    if (this.socket?.readyState !== WebSocket.OPEN) return false;
    this.socket.send(JSON.stringify({ type, content, to: this.peer, from: this.id }));
    return true;
  }

  close() {
    this.ended = true;
    this.socket?.close(1000);
  }
}

export function parse(text) {
  try {
    const value = JSON.parse(text);
    return value !== null && typeof value === "object" ? value : null;
  } catch {
    return null;
  }
}
