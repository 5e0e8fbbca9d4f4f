// The token in use, and its renewal before it expires. Where tokens come from is the caller's business.

import type { Cancel, Clock } from "./clock.ts";
import { Backoff } from "./backoff.ts";
import { SignedOut } from "./errors.ts";

// Gives a newer token. Raises SignedOut where there will be none, anything else where trying again may help.
export type TokenSource = () => Promise<string>;

// Renewed when that part of its remaining life is left, within bounds: long enough for several tries, and no token
// is thrown away half used.
const LEAD_PART = 0.1;
const SHORTEST_LEAD_MS = 30_000;
const LONGEST_LEAD_MS = 600_000;
// A token that lives shorter than its lead is renewed at half its life.
const SHORT_LIFE_PART = 0.5;

export class Tokens {
  readonly #source: TokenSource;
  readonly #clock: Clock;
  readonly #onRenewed: (token: string) => void;
  #current: string;
  #renewing: Promise<string> | null = null;
  #cancelTimer: Cancel = () => {};

  constructor(first: string, source: TokenSource, clock: Clock, onRenewed: (token: string) => void) {
    this.#current = first;
    this.#source = source;
    this.#clock = clock;
    this.#onRenewed = onRenewed;
  }

  get current(): string {
    return this.#current;
  }

  // From now on tokens are renewed before they expire.
  start(): void {
    this.#cancelTimer();
    const remaining = expiryOf(this.#current) - this.#clock.now();
    if (!Number.isFinite(remaining)) return;
    const lead = Math.min(LONGEST_LEAD_MS, Math.max(SHORTEST_LEAD_MS, remaining * LEAD_PART));
    const wait = remaining > lead ? remaining - lead : remaining * SHORT_LIFE_PART;
    this.#cancelTimer = this.#clock.after(Math.max(0, wait), () => void this.#renewInTime(new Backoff(this.#clock)));
  }

  stop(): void {
    this.#cancelTimer();
  }

  // A token other than `refused`; one request at a time, whoever asks.
  //
  // Raises SignedOut where there is no other, and whatever the source raises.
  renew(refused: string): Promise<string> {
    if (this.#current !== refused) return Promise.resolve(this.#current);
    this.#renewing ??= this.#replace(refused).finally(() => (this.#renewing = null));
    return this.#renewing;
  }

  async #replace(old: string): Promise<string> {
    const token = await this.#source();
    if (token === old) throw new SignedOut("The token has expired. Please sign in again.");
    this.#current = token;
    this.start();
    this.#onRenewed(token);
    return token;
  }

  async #renewInTime(backoff: Backoff): Promise<void> {
    try {
      await this.renew(this.#current);
    } catch (error) {
      // Where there will be none, the server says so when this one has expired.
      if (error instanceof SignedOut) return;
      this.#cancelTimer = this.#clock.after(backoff.next(), () => void this.#renewInTime(backoff));
    }
  }
}

// Milliseconds since 1970; Infinity where the token does not say. Nothing is verified: that is the server's part.
export function expiryOf(token: string): number {
  const exp = claimOf(token, "exp");
  return typeof exp === "number" ? exp * 1000 : Number.POSITIVE_INFINITY;
}

// The user that the token claims to name; null where it is no token.
export function subjectOf(token: string): string | null {
  const sub = claimOf(token, "sub");
  return typeof sub === "string" && sub !== "" ? sub : null;
}

function claimOf(token: string, name: string): unknown {
  const part = token.split(".")[1] ?? "";
  try {
    const claims: unknown = JSON.parse(atob(part.replaceAll("-", "+").replaceAll("_", "/")));
    return typeof claims === "object" && claims !== null ? (claims as Record<string, unknown>)[name] : undefined;
  } catch {
    return undefined; // not base64, or no JSON: a token of some other kind
  }
}
