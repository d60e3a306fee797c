// One session of this browser: signaling, the connection, the recording, and the account at the end.

import { Exchange } from "./exchange.js";
import { Following } from "./following.js";
import { Measurement } from "./measure.js";
import { Pairs } from "./pairs.js";
import { Signaling, parse } from "./signaling.js";
import { Recorder, baseOf, describe, onlyOf, parseCandidate, socketAddress } from "./trace.js";

const VERSION = document.documentElement.dataset.version ?? "";
const GREETING = "Hello from the whyrelay ";
const SERVERS_WITHIN_MS = 1500;
const STATISTICS_MS = 400;
const CONNECT_WITHIN_MS = 30_000;
// How long the connection stays for the plot when nobody asked for longer.
const LINGER_MS = 2000;
// How long ICE must have failed, with every candidate there, until there is no path.
const PATIENCE_MS = 5000;
const MAX_REMOTE_CANDIDATES = 200;
const MAX_MESSAGE = 64 * 1024;

export class Session extends EventTarget {
  // options: { room, side: "auto" | "a" | "b", relayOnly, stay }
  constructor(options) {
    super();
    this.options = options;
    this.local = [];
    this.remote = [];
    this.trips = [];
    this.early = [];
    this.phase = "new";
    this.generation = 0;
  }

  change(what) {
    this.dispatchEvent(new CustomEvent("change", { detail: what }));
  }

  status(text, tone = "busy") {
    this.statusText = text;
    this.statusTone = tone;
    this.change("status");
  }

  start() {
    // Whoever comes first waits as the answerer; whoever comes second finds that id taken.
    this.join(this.options.side === "auto" ? "b" : this.options.side);
  }

  join(side) {
    this.side = side;
    this.phase = "joining";
    this.status("Connecting to the signaling server…");
    this.signaling = new Signaling({
      room: this.options.room,
      side,
      version: VERSION,
      on: {
        joined: () => this.joined(),
        message: (message) => this.message(message).catch((error) => this.fail(words(error))),
        refused: (refusal) => this.refused(refusal),
        failed: (refusal) => this.signalingFailed(refusal),
        lost: (text) => {
          this.recorder?.record("signaling", { server: location.origin, state: { state: "lost", detail: text } });
          if (this.phase !== "connected") this.status(`${capital(text)}; trying again…`);
        },
        back: () => {
          this.recorder?.record("signaling", {
            server: location.origin,
            state: { state: "connected", by: "websocket, again" },
          });
          if (!this.remoteDescribed) this.repeat();
        },
      },
    });
    this.signaling.connect();
  }

  joined() {
    const recorder = new Recorder(this.side);
    this.recorder = recorder;
    this.pairs = new Pairs((kind, fields) => recorder.record(kind, fields));
    this.exchange = new Exchange(recorder);
    this.following = new Following(this.other(), () => recorder.text(), () => this.change("so-far"));
    recorder.record("recording-started", {
      version: 1,
      program: `${browserName()} (whyrelay page ${VERSION})`,
      id: this.signaling.id,
      options: { relay_only: this.options.relayOnly },
    });
    recorder.record("signaling", { server: location.origin, state: { state: "connected", by: "websocket" } });
    this.phase = "waiting";
    this.change("joined");
    this.status(
      this.side === "b" ? "Waiting for the other side. Send it the link, or run the command below there." : "Calling…",
      "wait",
    );
    this.serversTimer = setTimeout(() => this.begin([]), SERVERS_WITHIN_MS);
  }

  signalingFailed(refusal) {
    if (refusal.code === "id-taken" && this.options.side === "auto" && this.side === "b") {
      this.join("a");
      return;
    }
    const hint = refusal.code === "id-taken"
      ? "Two peers are in this room already. Open the page without the link to get a new room."
      : refusal.code === "replaced"
        ? "This room was opened again elsewhere."
        : refusal.code === "shutting-down"
          ? "The server is being stopped. Try again when it is back."
          : "Check that the server is running and that nothing between blocks WebSocket.";
    const reason = String(refusal.reason ?? "the signaling server does not answer").slice(0, 300);
    this.recorder?.record("signaling", { server: location.origin, state: { state: "failed", detail: reason } });
    if (this.phase === "connected" || this.phase === "finishing" || this.phase === "done") return;
    this.fail(`${capital(reason)}. ${hint}`);
  }

  refused(refusal) {
    if (refusal.code === "recipient-not-found") {
      this.absent = true;
      if (this.phase !== "connected") {
        this.status("Waiting for the other side. Send it the link, or run the command below there.", "wait");
      }
      return;
    }
    const detail = String(refusal.reason ?? refusal.code ?? "refused").slice(0, 300);
    this.recorder.record("signal-refused", { message: "message", detail });
  }

  other() {
    return this.side === "a" ? "b" : "a";
  }

  // ---- signaling ------------------------------------------------------------------------------------------------

  say(type, content) {
    if (this.signaling.send(type, content) && type !== "recording") {
      this.recorder.record("signal-message", { direction: "out", message: type, length: byteLength(content) });
    }
  }

  hello() {
    const info = { implementation: browserName(), version: "", features: ["recording", "trace"] };
    this.say("hello", JSON.stringify(info));
  }

  async message({ type, content, from }) {
    if (type === "servers") {
      const servers = parse(content)?.servers;
      this.begin(Array.isArray(servers) ? servers.slice(0, 16) : []);
      return;
    }
    if (type === "peer-joined") {
      this.peerAway = false;
      this.present();
      if (this.absent && !this.remoteDescribed) this.repeat();
      this.absent = false;
      return;
    }
    if (type === "peer-left") {
      this.peerAway = true;
      this.recorder.record("signaling", { server: location.origin, state: { state: "peer-left" } });
      if (this.phase === "connecting") this.finish("peer-left");
      else if (this.phase === "waiting") this.status("The other side left. Waiting for it…", "wait");
      return;
    }
    if (from !== this.signaling.peer || content.length > 2 * MAX_MESSAGE) return;
    if (type !== "recording" && type !== "trace") {
      this.recorder.record("signal-message", {
        direction: "in",
        message: type.slice(0, 64),
        length: byteLength(content),
      });
    }
    switch (type) {
      case "hello":
        this.greeted(content);
        break;
      case "offer":
      case "answer":
        await this.described(type, content);
        break;
      case "candidate":
        await this.remoteCandidate(content);
        break;
      case "end-of-candidates":
        this.remoteEnd();
        break;
      case "restart":
        if (this.side === "a") await this.restart();
        break;
      case "trace":
        // It may come while the description that came before it is still being set.
        await this.following.push(parse(content));
        break;
      case "recording":
        await this.recordingPiece(content);
        break;
      case "interrupted":
        // Its user ended it: its recording and "bye" follow.
        if (!this.remoteDescribed) break;
        this.recorder.record("signaling", { server: location.origin, state: { state: "peer-interrupted" } });
        if (this.phase === "connecting") this.finish("peer-left");
        break;
      case "bye":
        this.peerLeft = true;
        this.recorder.record("signaling", { server: location.origin, state: { state: "peer-left" } });
        if (this.phase !== "finishing" && this.phase !== "done") {
          this.finish(this.phase === "connected" && this.measured ? "finished" : "peer-left");
        }
        this.exchange.wake?.();
        break;
      default:
    }
  }

  present() {
    this.recorder.record("signaling", { server: location.origin, state: { state: "peer-present" } });
    if (this.phase === "waiting") this.status("The other side is here.");
  }

  greeted(content) {
    const info = parse(content);
    if (!info) return;
    const clip = (text) => String(text ?? "").slice(0, 64);
    const features = Array.isArray(info.features) ? info.features : [];
    this.peerProgram = `${clip(info.implementation)} ${clip(info.version)}`.trim();
    this.peerRecords = features.includes("recording");
    this.peerRedacts = features.includes("redacted");
    this.peerIsWhyrelay = true;
    this.recorder.record("peer-identified", { program: this.peerProgram, sends_recording: this.peerRecords });
    this.measure();
    this.change("peer");
  }

  // ---- the connection -------------------------------------------------------------------------------------------

  begin(servers) {
    if (this.connection || this.phase === "done") return;
    clearTimeout(this.serversTimer);
    const usable = servers
      .filter((server) => Array.isArray(server?.urls))
      .map(({ urls, username, credential }) => ({ urls: urls.map(String), username, credential }));
    for (const { urls } of usable) {
      for (const url of urls) this.recorder.record("server-known", { url, announced: true });
    }
    try {
      this.connection = new RTCPeerConnection({
        iceServers: usable,
        iceTransportPolicy: this.options.relayOnly ? "relay" : "all",
      });
    } catch (error) {
      this.fail(`This browser cannot use the announced servers: ${words(error)}`);
      return;
    }
    this.watch();
    if (this.side === "a") {
      this.use(this.connection.createDataChannel("testChannel"));
      this.offer().catch((error) => this.fail(words(error)));
    } else {
      const early = this.earlyOffer;
      if (early) this.described("offer", early).catch((error) => this.fail(words(error)));
    }
  }

  watch() {
    const connection = this.connection;
    let ice = "new";
    connection.addEventListener("iceconnectionstatechange", () => {
      const to = connection.iceConnectionState;
      if (to === ice) return;
      this.recorder.record("ice-state-changed", { from: ice, to, reason: "not-told" });
      ice = to;
      this.iceState = to;
      if (to === "checking" && this.phase === "connecting") this.status("Looking for a path…");
      if (to === "disconnected") this.status("The path is silent; waiting for it to come back…", "wait");
      this.judge();
      this.change("state");
    });
    connection.addEventListener("connectionstatechange", () => this.judge());
    connection.addEventListener("icecandidate", ({ candidate }) => this.localCandidate(candidate));
    connection.addEventListener("icegatheringstatechange", () => {
      if (connection.iceGatheringState === "complete") this.localEnd();
    });
    connection.addEventListener("icecandidateerror", (event) => this.candidateError(event));
    connection.addEventListener("datachannel", ({ channel }) => this.use(channel));
    this.poller = setInterval(() => this.poll().catch(() => {}), STATISTICS_MS);
  }

  // Whether what the browser calls failed is over. It says so of ICE whenever no pair is left, and takes it back for the
  // next candidate, or for a check of the other side that comes later than its own (RFC 8863).
  judge() {
    clearTimeout(this.late);
    const { connectionState, iceConnectionState, sctp } = this.connection ?? {};
    const failed = connectionState === "failed" || iceConnectionState === "failed";
    if (!failed || this.phase === "finishing" || this.phase === "done") return;
    if (sctp?.transport?.state === "failed") {
      this.recorder.record("dtls", { state: { state: "failed", detail: "the browser says that DTLS failed" } });
      this.finish("failed");
    } else if (this.phase === "connected") {
      this.iceFailed();
    } else {
      this.status("No path so far; the other side may still find one…", "wait");
      if (this.localEnded && this.remoteEnded) this.late = setTimeout(() => this.iceFailed(), PATIENCE_MS);
    }
  }

  iceFailed() {
    // A path that was there may come back by a restart, as long as the user stays.
    if (this.phase === "connected" && this.options.stay && !this.signaling.ended) {
      this.status("The path broke. Restarting ICE…", "wait");
      if (this.side === "a") this.restart().catch((error) => this.fail(words(error)));
      else this.say("restart", "the path is lost");
      return;
    }
    // It calls that "disconnected" while it waits for candidates.
    if (this.iceState !== "failed") {
      this.recorder.record("ice-state-changed", { from: this.iceState ?? "new", to: "failed", reason: "not-told" });
      this.iceState = "failed";
    }
    this.finish("failed");
  }

  async offer(options) {
    const offer = await this.connection.createOffer(options);
    await this.connection.setLocalDescription(offer);
    this.recordDescription("local", "offer", offer.sdp);
    this.described0 = { type: "offer", sdp: offer.sdp };
    this.local0 ??= offer.sdp;
    this.sent = [];
    this.hello();
    this.say("offer", offer.sdp);
    this.flush();
  }

  async restart() {
    this.generation += 1;
    this.recorder.record("ice-restarted", { generation: this.generation, side: "local" });
    this.described0 = null;
    await this.offer({ iceRestart: true });
  }

  // Everything again, for a side that was not there.
  repeat() {
    if (!this.described0 || this.side !== "a") return;
    this.hello();
    this.say("offer", this.described0.sdp);
    for (const line of this.sent) this.say("candidate", line);
    if (this.localEnded) this.say("end-of-candidates", "");
  }

  async described(type, sdp) {
    const wanted = this.side === "a" ? "answer" : "offer";
    if (type !== wanted) {
      const detail = "both sides have the same role";
      this.recorder.record("signal-refused", { message: type, detail });
      this.status("Both sides have the same role: choose the other one on one of them.", "bad");
      return;
    }
    if (!this.connection) {
      this.earlyOffer = sdp;
      return;
    }
    const remote = describe(sdp);
    if (type === "offer" && this.remoteUfrag === remote.ufrag && this.described0) {
      this.say("answer", this.described0.sdp);
      return;
    }
    const restarts = this.remoteUfrag !== undefined && this.remoteUfrag !== remote.ufrag;
    if (restarts && type === "offer") {
      this.generation += 1;
      this.recorder.record("ice-restarted", { generation: this.generation, side: "remote" });
    }
    this.remoteUfrag = remote.ufrag;
    this.recorder.record("description", {
      side: "remote",
      description: type,
      ...remote,
      generation: this.generation,
    });
    try {
      await this.connection.setRemoteDescription({ type, sdp });
    } catch (error) {
      const detail = words(error).slice(0, 300);
      this.recorder.record("signal-refused", { message: type, detail });
      this.status(`The other side's ${type} cannot be used: ${detail}`, "bad");
      if (!this.remoteDescribed) this.finish("failed");
      return;
    }
    this.remoteDescribed = true;
    this.remote0 ??= sdp;
    if (this.phase === "waiting") {
      this.phase = "connecting";
      this.status("Looking for a path…");
      this.limit = setTimeout(() => this.phase === "connecting" && this.finish("failed"), CONNECT_WITHIN_MS);
    }
    for (const line of sdp.match(/^a=candidate:.*$/gm) ?? []) this.noteRemote(line.trim().slice(2));
    for (const line of this.early.splice(0)) await this.remoteCandidate(line);
    if (type === "offer") {
      const answer = await this.connection.createAnswer();
      this.described0 = null;
      await this.connection.setLocalDescription(answer);
      this.recordDescription("local", "answer", answer.sdp);
      this.described0 = { type: "answer", sdp: answer.sdp };
      this.local0 ??= answer.sdp;
      this.sent = [];
      this.hello();
      this.say("answer", answer.sdp);
      this.flush();
    }
    this.change("state");
  }

  recordDescription(side, description, sdp) {
    this.recorder.record("description", { side, description, ...describe(sdp), generation: this.generation });
  }

  localCandidate(candidate) {
    if (!candidate?.candidate) return;
    const line = candidate.candidate;
    const parsed = parseCandidate(line);
    if (parsed) {
      const server = candidate.url ? { server: candidate.url } : {};
      this.recorder.record("local-candidate", { candidate: parsed, base: baseOf(parsed), ...server });
      this.local.push({ ...parsed, server: candidate.url ?? "" });
      this.change("candidates");
    }
    this.outbox ??= [];
    this.outbox.push(line);
    this.flush();
  }

  // Candidates follow our description, never overtake it.
  flush() {
    if (!this.described0) return;
    for (const line of this.outbox?.splice(0) ?? []) {
      this.sent.push(line);
      this.say("candidate", line);
    }
    if (this.localEnded && !this.saidEnd) {
      this.saidEnd = true;
      this.say("end-of-candidates", "");
    }
  }

  localEnd() {
    if (this.localEnded) return;
    this.localEnded = true;
    this.recorder.record("end-of-candidates", { side: "local" });
    this.flush();
    this.judge();
  }

  remoteEnd() {
    this.remoteEnded = true;
    this.recorder.record("end-of-candidates", { side: "remote" });
    this.judge();
  }

  candidateError(event) {
    const server = String(event.url ?? "").slice(0, 300);
    const method = server.startsWith("turn") ? "Allocate" : "Binding";
    const text = String(event.errorText ?? "").slice(0, 300);
    const code = event.errorCode;
    // 300 to 699 is what the server answered; 701 is the browser's own: no answer.
    const failure = code >= 300 && code <= 699
      ? { why: "error-response", code, reason: text, expected: false }
      : { why: "connection-failed", detail: text || "the browser got no answer" };
    const local = event.address ? { local: socketAddress(event.address, event.port ?? 0) } : {};
    this.recorder.record("server-failed", { server, ...local, method, failure });
    this.serverErrors ??= [];
    if (this.serverErrors.length < 50) this.serverErrors.push({ server, text: `${code} ${text}`.trim() });
    this.change("candidates");
  }

  async remoteCandidate(line) {
    if (line.trim() === "") {
      this.remoteEnd();
      return;
    }
    if (!this.connection?.remoteDescription) {
      if (this.early.length < MAX_REMOTE_CANDIDATES) this.early.push(line);
      return;
    }
    if (this.remote.length >= MAX_REMOTE_CANDIDATES) return;
    if (!this.noteRemote(line)) return;
    try {
      await this.connection.addIceCandidate({ candidate: line, sdpMLineIndex: 0 });
    } catch (error) {
      const reason = { why: "malformed", detail: words(error).slice(0, 300) };
      this.recorder.record("remote-candidate-refused", { line: "", reason });
    }
  }

  noteRemote(line) {
    const parsed = parseCandidate(line);
    if (!parsed) {
      const shown = line.startsWith("candidate:") ? line.split(/[\r\n]/)[0].slice(0, 256) : "(no candidate line)";
      const reason = { why: "malformed", detail: "this is no candidate line" };
      this.recorder.record("remote-candidate-refused", { line: shown, reason });
      return false;
    }
    this.recorder.record("remote-candidate", { candidate: parsed });
    this.remote.push(parsed);
    this.change("candidates");
    return true;
  }

  // ---- the data channel -----------------------------------------------------------------------------------------

  use(channel) {
    if (this.channel) return;
    this.channel = channel;
    channel.binaryType = "arraybuffer";
    const opened = () => {
      clearTimeout(this.limit);
      this.phase = "connected";
      this.recorder.record("channel-opened", { label: channel.label.slice(0, 128) });
      channel.send(`${GREETING}page!`);
      this.measure();
      this.poll().catch(() => {});
      this.status("Connected. Measuring the round trip…", "good");
      if (!this.peerIsWhyrelay) setTimeout(() => this.peerIsWhyrelay || this.measuredAll(), LINGER_MS);
    };
    channel.addEventListener("message", ({ data }) => {
      if (typeof data === "string" && data.startsWith(GREETING)) {
        this.peerIsWhyrelay = true;
        this.measure();
      }
      this.measurement?.take(data);
    });
    channel.addEventListener("close", () => {
      this.recorder.record("channel-closed", { detail: "closed by one of the two sides" });
      if (this.phase === "connected") this.finish(this.measured ? "finished" : "peer-left");
    });
    if (channel.readyState === "open") opened();
    else channel.addEventListener("open", opened);
  }

  measure() {
    if (this.measurement || !this.peerIsWhyrelay || this.channel?.readyState !== "open") return;
    this.measurement = new Measurement(this.channel, this.side === "a", {
      roundTrip: (milliseconds) => {
        this.trips.push(milliseconds);
        if (this.trips.length > 600) this.trips.shift();
        this.change("trips");
      },
      event: (kind, fields) => this.recorder.record(kind, fields),
      done: () => this.measuredAll(),
    });
  }

  measuredAll() {
    if (this.measured) return;
    this.measured = true;
    if (this.phase !== "connected") return;
    this.status(this.options.stay ? "Connected. Press Finish for the account." : "Connected.", "good");
    if (!this.options.stay) setTimeout(() => this.phase === "connected" && this.finish("finished"), LINGER_MS);
  }

  // ---- statistics -----------------------------------------------------------------------------------------------

  async poll() {
    if (!this.connection || this.polling) return;
    this.polling = true;
    try {
      const statistics = await this.connection.getStats();
      this.pairs.take(statistics);
      this.change("pairs");
      if (this.remoteDescribed) this.following.look(this.phase === "connected");
    } finally {
      this.polling = false;
    }
  }

  // ---- the end --------------------------------------------------------------------------------------------------

  async recordingPiece(content) {
    if (!this.remoteDescribed) return;
    if (!(await this.exchange.take(content))) return;
    // The other side has ended its recording: nothing more comes on the path either.
    this.finish(this.phase === "connected" ? "finished" : "failed");
  }

  async finish(reason) {
    if (this.phase === "finishing" || this.phase === "done") return;
    this.phase = "finishing";
    clearTimeout(this.limit);
    clearTimeout(this.late);
    this.status("Exchanging the recordings…");
    await this.poll().catch(() => {});
    clearInterval(this.poller);
    this.measurement?.stop();
    this.following.stop();
    this.recorder.record("recording-ended", { reason });
    this.channel?.close();
    const { exchange } = this;
    let missing = null;
    if (!this.remoteDescribed) missing = "the two sides never met over signaling";
    else if (!this.peerRecords) missing = "the other side keeps no recording";
    else {
      if (this.peerRedacts) await exchange.redact([this.local0, this.remote0]);
      for (const piece of await exchange.pieces()) this.say("recording", piece);
      missing = await exchange.theirsCame(() => this.peerLeft || this.peerAway);
    }
    this.recorder.appendPeer(missing);
    this.say("bye", reason);
    this.signaling.close();
    this.connection?.close();
    // Of a side that is gone there is what it had sent until then.
    const theirs = exchange.theirs === undefined ? this.following.text : onlyOf(this.other(), exchange.theirs);
    this.recording = exchange.own() + this.recorder.lastWords() + theirs;
    this.phase = "done";
    await this.explain();
  }

  // The account is computed where the rules are: by the server's whyrelay, from both recordings.
  async explain() {
    this.status("Working out what happened…");
    try {
      const response = await fetch("/account", { method: "POST", body: this.recording });
      if (!response.ok) throw new Error((await response.text()).trim() || `status ${response.status}`);
      this.shown = await response.json();
      this.account = this.shown.account;
      this.status("", "done");
    } catch (error) {
      this.status(`The account could not be made: ${words(error)}. The recording can still be saved.`, "bad");
    }
    this.change("account");
  }

  // Ends without an account: there is nothing to explain yet.
  fail(text) {
    if (this.phase === "finishing" || this.phase === "done") return;
    if (this.remoteDescribed) {
      this.recorder.record("signal-refused", { message: "session", detail: text.slice(0, 300) });
      this.finish("error");
      return;
    }
    this.stop();
    this.status(text, "bad");
    this.change("ended");
  }

  // Ends at the user's wish.
  stop() {
    clearTimeout(this.limit);
    clearTimeout(this.late);
    clearTimeout(this.serversTimer);
    clearInterval(this.poller);
    this.phase = "done";
    this.following?.stop();
    this.signaling?.close();
    this.connection?.close();
  }
}

function browserName() {
  const agent = navigator.userAgent;
  const [, name, version] = agent.match(/(Firefox|Edg|OPR|SamsungBrowser|Chrome)\/(\d+)/)
    ?? agent.match(/(Version)\/(\d+).*Safari/)
    ?? [null, "browser", ""];
  const names = { Edg: "Edge", OPR: "Opera", Version: "Safari" };
  return `browser ${names[name] ?? name} ${version}`.trim();
}

const words = (error) => (error instanceof Error ? error.message : String(error));
const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1);
const byteLength = (text) => new TextEncoder().encode(text).length;
