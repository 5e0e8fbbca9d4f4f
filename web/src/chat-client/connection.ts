// A connection that comes back: which transport, which token, how long to wait, and one state that says how things are.

import { Backoff } from "./backoff.ts";
import type { Cancel, Clock } from "./clock.ts";
import { SignedOut, type Refusal } from "./errors.ts";
import type { End, OpenSession, Session } from "./stomp.ts";
import type { Tokens } from "./tokens.ts";
import { TransportChoice, type Transport } from "./transports.ts";
import { Value, type Readable } from "./value.ts";

export type ConnectionState =
  | { readonly name: "stopped"; readonly why: string | null }
  | { readonly name: "connecting" }
  | { readonly name: "online"; readonly transport: Transport }
  // Milliseconds since 1970.
  | { readonly name: "waiting"; readonly retryAt: number };

type Name = ConnectionState["name"];

// What may follow what; anything else is a mistake of this file.
const FOLLOWS: Readonly<Record<Name, readonly Name[]>> = {
  stopped: ["connecting"],
  connecting: ["online", "waiting", "connecting", "stopped"],
  online: ["waiting", "connecting", "stopped"],
  waiting: ["connecting", "stopped"],
};

// RFC 6455, 7.4.1, and IANA's registry.
const RESTARTING = 1012;
const TOO_SLOW_OR_TOO_MANY = 1013;
// What made the server say 1013 will not be over in a second: as after three failures.
const TRIES_OF_TOO_MANY = 3;
// A connection that lived this long was a good one: the next wait is short again.
const GOOD_MS = 10_000;
// Between looks for a WebSocket while polling: twice that long at most.
const PROBE_MS = 30_000;
const PROBE_TIMEOUT_MS = 5_000;
// A server that refuses each new token does so no oftener than that.
const RENEW_EVERY_MS = 10_000;

export interface ConnectionParts {
  readonly open: OpenSession;
  readonly tokens: Tokens;
  readonly clock: Clock;
  // Whether a WebSocket can be had now.
  readonly probe: (timeoutMs: number) => Promise<boolean>;
  readonly onOnline: (session: Session) => void;
  readonly onOffline: () => void;
  readonly onRefusal: (refusal: Refusal) => void;
}

export class Connection {
  readonly #parts: ConnectionParts;
  readonly #state = new Value<ConnectionState>({ name: "stopped", why: null });
  readonly #backoff: Backoff;
  readonly #choice = new TransportChoice();
  #session: Session | null = null;
  #onlineSince = 0;
  #renewedAt = Number.NEGATIVE_INFINITY;
  #cancelTimer: Cancel = () => {};
  #isProbing = false;

  constructor(parts: ConnectionParts) {
    this.#parts = parts;
    this.#backoff = new Backoff(parts.clock);
  }

  get state(): Readable<ConnectionState> {
    return this.#state;
  }

  start(): void {
    if (this.#state.get().name !== "stopped") return;
    this.#parts.tokens.start();
    this.#connect();
  }

  stop(why: string | null = null): void {
    if (this.#state.get().name === "stopped") return;
    const session = this.#session;
    this.#leave();
    this.#parts.tokens.stop();
    this.#become({ name: "stopped", why });
    session?.close();
  }

  // Something has changed for the better, perhaps: do not wait any longer.
  hurry(): void {
    const state = this.#state.get();
    if (state.name === "waiting") this.#connect();
    else if (state.name === "online" && state.transport === "polling") void this.#probe();
  }

  // ---- One try.

  #connect(): void {
    this.#cancelTimer();
    this.#become({ name: "connecting" });
    const token = this.#parts.tokens.current;
    const session: Session = this.#parts.open(this.#choice.next, token, {
      onConnected: () => this.#connected(session),
      onEnd: (end) => void this.#ended(session, token, end),
      onRefusal: (refusal) => this.#parts.onRefusal(refusal),
    });
    this.#session = session;
  }

  #connected(session: Session): void {
    if (session !== this.#session) {
      session.close();
      return;
    }
    this.#choice.opened(session.transport);
    this.#onlineSince = this.#parts.clock.now();
    this.#become({ name: "online", transport: session.transport });
    if (session.transport === "polling") this.#probeLater();
    this.#parts.onOnline(session);
  }

  async #ended(session: Session, token: string, end: End): Promise<void> {
    if (session !== this.#session) return;
    this.#leave();
    if (end.refusal?.code === "UNAUTHENTICATED" && !(await this.#renew(token))) return;
    const hasOther = !end.wasConnected && end.refusal === null && this.#choice.failed(session.transport);
    if (hasOther) this.#connect();
    else this.#wait(end);
  }

  // False: it is stopped, and stays so.
  async #renew(refused: string): Promise<boolean> {
    const { clock, tokens } = this.#parts;
    if (clock.now() - this.#renewedAt < RENEW_EVERY_MS) return true;
    // A state of its own is not worth it: to those who watch, this is part of connecting.
    this.#become({ name: "connecting" });
    try {
      await tokens.renew(refused);
      this.#renewedAt = clock.now();
    } catch (error) {
      if (error instanceof SignedOut) this.stop(error.message);
    }
    return this.#state.get().name === "connecting";
  }

  #wait(end: End): void {
    const { clock } = this.#parts;
    if (end.wasConnected && clock.now() - this.#onlineSince >= GOOD_MS) this.#backoff.reset();
    if (end.code === RESTARTING) this.#backoff.reset();
    if (end.code === TOO_SLOW_OR_TOO_MANY) this.#backoff.expectAtLeast(TRIES_OF_TOO_MANY);
    const ms = this.#backoff.next(end.refusal?.retryAfterMs ?? 0);
    this.#become({ name: "waiting", retryAt: clock.now() + ms });
    this.#cancelTimer = clock.after(ms, () => this.#connect());
  }

  #leave(): void {
    this.#cancelTimer();
    const wasOnline = this.#state.get().name === "online";
    this.#session = null;
    if (wasOnline) this.#parts.onOffline();
  }

  // ---- Back to WebSocket.

  #probeLater(): void {
    const ms = PROBE_MS * (1 + this.#parts.clock.random());
    this.#cancelTimer = this.#parts.clock.after(ms, () => void this.#probe());
  }

  async #probe(): Promise<void> {
    const session = this.#session;
    if (this.#isProbing || session === null) return;
    this.#isProbing = true;
    this.#cancelTimer();
    const can = await this.#parts.probe(PROBE_TIMEOUT_MS);
    this.#isProbing = false;
    if (session !== this.#session) return;
    if (!can) {
      this.#probeLater();
      return;
    }
    this.#leave();
    session.close();
    this.#connect();
  }

  #become(state: ConnectionState): void {
    const now = this.#state.get().name;
    if (!FOLLOWS[now].includes(state.name)) throw new Error(`a connection that is ${now} cannot be ${state.name}`);
    this.#state.set(state);
  }
}
