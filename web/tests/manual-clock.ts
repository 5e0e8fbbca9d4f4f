// A clock that stands still until a test lets it run.

import type { Cancel, Clock } from "../src/chat-client/clock.ts";

interface Timer {
  readonly at: number;
  readonly act: () => void;
}

export class ManualClock implements Clock {
  // What `random` gives.
  chance: number;
  #now = 1_800_000_000_000;
  readonly #timers = new Set<Timer>();

  constructor(chance = 0.5) {
    this.chance = chance;
  }

  now(): number {
    return this.#now;
  }

  random(): number {
    return this.chance;
  }

  after(ms: number, act: () => void): Cancel {
    const timer = { at: this.#now + ms, act };
    this.#timers.add(timer);
    return () => this.#timers.delete(timer);
  }

  // Fires in order what is due meanwhile, and lets everything that follows from it happen.
  async advance(ms: number): Promise<void> {
    const end = this.#now + ms;
    await settled();
    for (let next = this.#next(end); next !== undefined; next = this.#next(end)) {
      this.#now = next.at;
      this.#timers.delete(next);
      next.act();
      await settled();
    }
    this.#now = end;
  }

  #next(end: number): Timer | undefined {
    return [...this.#timers].filter(({ at }) => at <= end).sort((a, b) => a.at - b.at)[0];
  }
}

// Every promise that can settle without time or I/O has done so.
export const settled = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));
