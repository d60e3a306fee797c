// One side of a session, in a browser: signals over /send and /receive of the
// page's own origin and resolves with what the test asserts.
//
// options: { role, id, peer, iceServers, relayOnly, blind, echo, holdMs, timeoutMs }

// A page that nothing drives is told by its fragment what to do, and tells its server.
const undriven = location.hash ? JSON.parse(decodeURIComponent(location.hash.slice(1))) : null;

const tell = (what, text) => fetch(`/${what}`, { method: "POST", body: text, keepalive: true });

function log(...words) {
  const line = words.join(" ");
  console.log(line);
  if (undriven) tell("log", line);
}

class Peer {
  constructor(options) {
    this.options = options;
    this.abort = new AbortController();
    this.early = [];
    // Our candidates wait here until our description is sent: none may overtake it.
    this.outbox = [];
    this.described = false;
    this.connection = new RTCPeerConnection({
      iceServers: options.iceServers,
      iceTransportPolicy: options.relayOnly ? "relay" : "all",
    });
    this.received = new Promise((resolve, reject) => {
      this.resolve = resolve;
      this.reject = reject;
    });
    this.connection.addEventListener("connectionstatechange", () => {
      log("connection:", this.connection.connectionState);
      if (this.connection.connectionState === "failed") this.reject(new Error("the connection failed"));
    });
    this.connection.addEventListener("icecandidate", ({ candidate }) => {
      // An empty candidate line would be the end of candidates: not part of the format.
      if (!candidate?.candidate) return;
      if (this.described) this.send("candidate", candidate.candidate).catch(this.reject);
      else this.outbox.push(candidate.candidate);
    });
    this.connection.addEventListener("icecandidateerror", (event) => {
      log("candidate error:", event.url, event.errorCode, event.errorText);
    });
    this.connection.addEventListener("datachannel", ({ channel }) => this.useChannel(channel));
  }

  useChannel(channel) {
    channel.binaryType = "arraybuffer";
    const opened = () => {
      log("channel", channel.label, "is open");
      channel.send(`greeting from ${this.options.id}`);
    };
    channel.addEventListener("message", ({ data }) => {
      if (typeof data === "string" && data.length < 200) log("received", data);
      if (this.options.echo) channel.send(data);
      this.resolve(typeof data === "string" ? data : `${data.byteLength} bytes`);
    });
    this.closed = new Promise((resolve) => channel.addEventListener("close", resolve));
    this.closed.then(() => log("channel", channel.label, "is closed"));
    if (channel.readyState === "open") opened();
    else channel.addEventListener("open", opened);
  }

  async send(type, content) {
    const body = JSON.stringify({ type, content, to: this.options.peer, from: this.options.id });
    for (;;) {
      const response = await fetch("/send", { method: "POST", body, signal: this.abort.signal });
      if (response.ok) return;
      const text = await response.text();
      if (response.status !== 404) throw new Error(`send ${type}: ${response.status} ${text.trim()}`);
      // The other is not there yet; the timeout of the whole run ends this.
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  }

  async receive() {
    for (;;) {
      const response = await fetch(`/receive?id=${encodeURIComponent(this.options.id)}`, { signal: this.abort.signal });
      if (!response.ok) throw new Error(`receive: ${response.status} ${await response.text()}`);
      if (response.body) {
        const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
        let text = "";
        for (;;) {
          const { done, value } = await reader.read();
          if (done) break;
          const lines = (text + value).split("\n");
          text = lines.pop();
          for (const line of lines) if (line.trim()) await this.handle(JSON.parse(line));
        }
      }
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
  }

  async handle({ type, content, from }) {
    if (type === "candidate") {
      log("candidate:", content);
      if (this.connection.remoteDescription) await this.addCandidate(content);
      else this.early.push(content);
    } else if (type === (this.options.role === "offerer" ? "answer" : "offer")) {
      log(type, "from", from);
      // A blind peer is told no address: the other must find it, by its `.local` name.
      const sdp = this.options.blind ? content.replace(/^a=candidate:.*\r?\n/gm, "") : content;
      await this.connection.setRemoteDescription({ type, sdp });
      for (const candidate of this.early.splice(0)) await this.addCandidate(candidate);
      if (type === "offer") await this.describe(await this.connection.createAnswer());
    }
  }

  async addCandidate(candidate) {
    if (this.options.blind) return;
    await this.connection.addIceCandidate({ candidate, sdpMLineIndex: 0 });
  }

  async describe(description) {
    await this.connection.setLocalDescription(description);
    await this.send(description.type, description.sdp);
    this.described = true;
    for (const candidate of this.outbox.splice(0)) await this.send("candidate", candidate);
  }

  async selected() {
    const stats = await this.connection.getStats();
    const transport = [...stats.values()].find(({ type }) => type === "transport");
    const pair = transport && stats.get(transport.selectedCandidatePairId);
    if (!pair) return null;
    const side = (id) => {
      const { candidateType, address, ip, port } = stats.get(id) ?? {};
      return { type: candidateType, address: `${address ?? ip ?? ""}:${port}` };
    };
    return { local: side(pair.localCandidateId), remote: side(pair.remoteCandidateId) };
  }
}

async function run(options) {
  const peer = new Peer(options);
  const result = { ok: false, state: "new", selected: null, received: "" };
  const timeout = setTimeout(
    () => peer.reject(new Error(`no message within ${options.timeoutMs} ms`)),
    options.timeoutMs,
  );
  try {
    peer.receive().catch(peer.reject);
    if (options.role === "offerer") {
      peer.useChannel(peer.connection.createDataChannel("testChannel"));
      peer.describe(await peer.connection.createOffer()).catch(peer.reject);
    }
    result.received = await peer.received;
    await new Promise((resolve) => setTimeout(resolve, options.holdMs));
    result.ok = true;
  } catch (error) {
    result.error = String(error);
  }
  clearTimeout(timeout);
  result.state = peer.connection.connectionState;
  result.selected = await peer.selected();
  // A browser may drop a message that is followed at once by a close: stay until the other
  // has closed, or long enough for it to have read our greeting.
  if (result.ok) await Promise.race([peer.closed, new Promise((resolve) => setTimeout(resolve, 2000))]);
  peer.abort.abort();
  peer.connection.close();
  return result;
}

globalThis.runPeer = run;
if (undriven) run(undriven).then((result) => tell("result", JSON.stringify(result)));
