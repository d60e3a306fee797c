// The pairs as the browser's statistics tell of them, and as events of the recording.

import { socketAddress } from "./trace.js";

const MAX_PAIRS = 500;

export class Pairs {
  constructor(record) {
    this.record = record;
    // By the browser's own ids.
    this.rows = new Map();
  }

  // Takes what the browser counts now.
  take(statistics) {
    const all = [...statistics.values()];
    const transport = all.find(({ type }) => type === "transport");
    if (transport?.dtlsState === "connected" && !this.dtls) {
      this.dtls = true;
      const versions = { FEFF: "DTLS 1.0", FEFD: "DTLS 1.2", FEFC: "DTLS 1.3" };
      const version = versions[transport.tlsVersion] ?? "DTLS";
      this.record("dtls", { state: { state: "connected", version } });
    }
    for (const pair of all.filter(({ type }) => type === "candidate-pair").slice(0, MAX_PAIRS)) {
      this.note(statistics, pair);
    }
    const selected = transport?.selectedCandidatePairId
      ?? all.find(({ type, selected: is }) => type === "candidate-pair" && is)?.id;
    const row = this.rows.get(selected);
    if (row && this.selected !== row) {
      const replaces = this.selected ? { replaces: this.selected.pair } : {};
      this.selected = row;
      this.record("pair-selected", { pair: row.pair, ...replaces });
    }
  }

  note(statistics, pair) {
    const local = statistics.get(pair.localCandidateId) ?? {};
    const remote = statistics.get(pair.remoteCandidateId) ?? {};
    const count = (value) => (Number.isInteger(value) && value >= 0 ? value : undefined);
    const trip = pair.currentRoundTripTime;
    const counts = {
      state: ["frozen", "waiting", "in-progress", "failed", "succeeded"].includes(pair.state) ? pair.state : null,
      nominated: pair.nominated === true,
      requests_sent: count(pair.requestsSent),
      responses_received: count(pair.responsesReceived),
      requests_received: count(pair.requestsReceived),
      responses_sent: count(pair.responsesSent),
      rtt_us: trip > 0 ? Math.round(trip * 1e6) : undefined,
    };
    const transport = local.protocol === "tcp" ? `tcp-${local.tcpType ?? "active"}` : "udp";
    const row = {
      pair: {
        transport: transport === "tcp-so" ? "tcp-simultaneous-open" : transport,
        local: socketAddress(local.address ?? local.ip, local.port),
        remote: socketAddress(remote.address ?? remote.ip, remote.port),
      },
      localType: local.candidateType ?? "",
      remoteType: remote.candidateType ?? "",
      counts,
    };
    const before = this.rows.get(pair.id);
    const { rtt_us: ignored, ...told } = counts;
    row.told = JSON.stringify([row.pair, told]);
    if (before?.told !== row.told) this.record("pair-counted", { pair: row.pair, counts });
    if (before && this.selected === before) this.selected = row;
    this.rows.set(pair.id, row);
  }
}
