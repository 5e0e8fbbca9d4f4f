// How long to wait before the next try: full jitter over a limit that doubles.
//
// The limit begins somewhere of its own in each client, so that those who lost their edge together do not even share
// the first one.

import type { Clock } from "./clock.ts";

const SHORTEST_BASE_MS = 500;
const LONGEST_BASE_MS = 1_500;
// Longer, and people believe that it has given up.
const LONGEST_MS = 30_000;

export class Backoff {
  readonly #clock: Clock;
  readonly #baseMs: number;
  #tries = 0;

  constructor(clock: Clock) {
    this.#clock = clock;
    this.#baseMs = SHORTEST_BASE_MS + clock.random() * (LONGEST_BASE_MS - SHORTEST_BASE_MS);
  }

  // Milliseconds; never less than `atLeastMs`, which the server may have asked for.
  next(atLeastMs = 0): number {
    const limit = Math.min(LONGEST_MS, this.#baseMs * 2 ** this.#tries);
    this.#tries += 1;
    return atLeastMs + this.#clock.random() * limit;
  }

  // What is wrong will not be over at once: begins where `tries` failures would have led.
  expectAtLeast(tries: number): void {
    this.#tries = Math.max(this.#tries, tries);
  }

  reset(): void {
    this.#tries = 0;
  }
}
