// At the end each side sends its recording to the other over signaling, so that both come to the same account.

import { parse } from "./signaling.js";
import { Assembler, pack } from "./trace.js";

const WITHIN_MS = 10_000;
// How long what a side sent before it left may take.
const LAST_WORDS_MS = 1000;

export class Exchange {
  constructor(recorder) {
    this.recorder = recorder;
    this.assembler = new Assembler();
  }

  // Takes a piece of the other side's recording; answers whether no more comes.
  async take(content) {
    try {
      const text = await this.assembler.push(parse(content));
      if (text === null) return false;
      this.theirs = text;
    } catch (error) {
      this.error = words(error);
    }
    this.wake?.();
    return true;
  }

  // The other side wants pseudonyms (--redact): then this recording uses them too, and the same ones, before it goes
  // anywhere. Both sides know both ICE passwords, and no recording holds them.
  async redact(descriptions) {
    const password = (sdp) => /^a=ice-pwd:(\S+)/m.exec(sdp ?? "")?.[1] ?? "";
    const secret = descriptions.map(password).toSorted().join("");
    try {
      const response = await fetch("/redact", { method: "POST", body: `${secret}\n${this.recorder.text()}` });
      if (!response.ok) throw new Error((await response.text()).trim());
      this.redacted = await response.text();
    } catch (error) {
      // A gap is better than a leak.
      this.redacted = "";
      this.error = `this side's recording could not be redacted: ${words(error)}`;
    }
  }

  // This side's recording, as it may leave this page.
  own() {
    return this.redacted ?? this.recorder.text();
  }

  pieces() {
    return pack(this.own());
  }

  // Waits for the other side's recording; answers why it is missing, or null. `hasLeft` tells whether that side is gone.
  async theirsCame(hasLeft) {
    const until = performance.now() + WITHIN_MS;
    while (this.theirs === undefined && !this.error && performance.now() < until) {
      const left = hasLeft();
      const wait = left ? LAST_WORDS_MS : until - performance.now();
      await new Promise((resolve) => {
        this.wake = resolve;
        setTimeout(resolve, wait);
      });
      if (left) break;
    }
    if (this.theirs !== undefined) return null;
    return this.error ?? (hasLeft() ? "the other side left without sending it" : "it did not come in time");
  }
}

const words = (error) => (error instanceof Error ? error.message : String(error));
