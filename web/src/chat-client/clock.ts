// Time and chance, handed in so that tests can hold both still.

export type Cancel = () => void;

export interface Clock {
  // Milliseconds since 1970.
  now(): number;
  // Calls `act` once, after that many milliseconds.
  after(ms: number, act: () => void): Cancel;
  // From 0 up to, and without, 1.
  random(): number;
}

// Browsers fire a timer at once that is further away than 31 bits of milliseconds.
const LONGEST_TIMER_MS = 2 ** 31 - 1;

export const systemClock: Clock = {
  now: () => Date.now(),
  after: (ms, act) => {
    const timer = setTimeout(act, Math.min(ms, LONGEST_TIMER_MS));
    return () => clearTimeout(timer);
  },
  random: () => Math.random(),
};

export const pause = (clock: Clock, ms: number): Promise<void> => new Promise((resolve) => clock.after(ms, resolve));

// 128 random bits, hex.
export const newId = (): string =>
  Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
