// What the other side sees while it sees it: its events come in pieces, and the server makes the account of both
// sides' events so far.

import { deflated, onlyOf, parsePiece } from "./trace.js";

const INTERVAL_MS = 2000;
// Once there is a path: what is measured on it matters more.
const CALM_INTERVAL_MS = 5000;
// Making the account takes at most this part of the time, as one of so many.
const SHARE = 4;
const AFTER_A_REFUSAL_MS = 10_000;
// Of both sides. Beyond it the account waits for the end.
const MAX_LENGTH = 4 * 1024 * 1024;
// Of everything that ever came, with what was begun anew.
const MAX_TOTAL = 4 * MAX_LENGTH;

export class Following {
  // own(): this side's recording so far; changed(): there is a new account.
  constructor(other, own, changed) {
    this.other = other;
    this.own = own;
    this.changed = changed;
    this.text = "";
    this.next = 0;
    this.total = 0;
    this.seen = 0;
    this.due = 0;
    // The account and its pictures.
    this.shown = null;
    this.queue = Promise.resolve();
  }

  // Takes a piece; each waits for the one before it.
  push(piece) {
    this.queue = this.queue.then(() => this.take(piece)).catch(() => {
      // A gap cannot be closed: what came before it stays, and the recording comes at the end.
      this.next = null;
    });
    return this.queue;
  }

  async take(piece) {
    if (piece?.index === 0) {
      this.text = "";
      this.next = 0;
    }
    if (this.stopped || this.next === null || piece?.index !== this.next || this.total > MAX_TOTAL) return;
    const whole = await parsePiece(piece);
    this.total += whole.length;
    const text = onlyOf(this.other, whole);
    if (this.text.length + text.length > MAX_LENGTH) throw new Error("too much");
    this.text += text;
    this.next += 1;
    this.isBehind = piece.more === true;
  }

  // Has the account made anew where there is something new, and it is time.
  async look(isCalm) {
    if (this.stopped || this.busy || this.isBehind || this.text === "" || performance.now() < this.due) return;
    const both = this.own() + this.text;
    if (both.length === this.seen || both.length > MAX_LENGTH) return;
    this.busy = true;
    const began = performance.now();
    try {
      const response = await fetch("/account?live", { method: "POST", body: await deflated(both) });
      const took = performance.now() - began;
      this.due = performance.now() + Math.max(isCalm ? CALM_INTERVAL_MS : INTERVAL_MS, (SHARE - 1) * took);
      if (!response.ok) throw new Error(`status ${response.status}`);
      const shown = await response.json();
      if (this.stopped) return;
      this.seen = both.length;
      this.shown = shown;
      this.changed();
    } catch {
      this.due = performance.now() + AFTER_A_REFUSAL_MS;
    } finally {
      this.busy = false;
    }
  }

  stop() {
    this.stopped = true;
  }
}
