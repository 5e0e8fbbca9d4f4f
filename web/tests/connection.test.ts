import assert from "node:assert/strict";
import test from "node:test";

import { Connection } from "../src/chat-client/connection.ts";
import { Refusal } from "../src/chat-client/errors.ts";
import type { End, Session, SessionEvents } from "../src/chat-client/stomp.ts";
import { Tokens } from "../src/chat-client/tokens.ts";
import type { Transport } from "../src/chat-client/transports.ts";
import { ManualClock, settled } from "./manual-clock.ts";

const LOST: End = { wasConnected: true, code: 1006, refusal: null };
const NEVER_OPENED: End = { wasConnected: false, code: 1006, refusal: null };
const TOKEN_REFUSED: End = { wasConnected: false, code: 1008, refusal: new Refusal("UNAUTHENTICATED", "expired") };

class Try {
  readonly session: Session;
  readonly transport: Transport;
  readonly token: string;
  readonly #events: SessionEvents;
  isClosed = false;

  constructor(transport: Transport, token: string, events: SessionEvents) {
    this.transport = transport;
    this.token = token;
    this.#events = events;
    const never = new Promise<never>(() => {});
    this.session = {
      transport,
      request: () => never,
      subscribe: () => ({ live: never, end: () => {} }),
      close: () => (this.isClosed = true),
    };
  }

  connected(): void {
    this.#events.onConnected(this.session);
  }

  async ends(end: End): Promise<void> {
    this.#events.onEnd(end);
    await settled();
  }
}

function connection({ newToken = async () => "new" }: { newToken?: () => Promise<string> } = {}) {
  const clock = new ManualClock(0.5);
  const tries: Try[] = [];
  const heard: string[] = [];
  const hands = { canWebSocket: false };
  const made = new Connection({
    open: (transport, token, events) => {
      const next = new Try(transport, token, events);
      tries.push(next);
      return next.session;
    },
    tokens: new Tokens("old", newToken, clock, () => {}),
    clock,
    probe: async () => hands.canWebSocket,
    onOnline: () => heard.push("online"),
    onOffline: () => heard.push("offline"),
    onRefusal: () => heard.push("refusal"),
  });
  const last = (): Try => tries.at(-1)!;
  const state = (): string => made.state.get().name;
  const waitMs = (): number => {
    const now = made.state.get();
    assert.equal(now.name, "waiting");
    return now.name === "waiting" ? now.retryAt - clock.now() : 0;
  };
  made.start();
  return { made, clock, tries, heard, hands, last, state, waitMs };
}

test("a connection that breaks comes back, and those who need it are told", async () => {
  const { made, clock, tries, heard, last, state, waitMs } = connection();
  assert.equal(state(), "connecting");
  last().connected();
  assert.deepEqual(made.state.get(), { name: "online", transport: "websocket" });
  await last().ends(LOST);
  assert.equal(waitMs(), 500);
  await clock.advance(500);
  assert.equal(tries.length, 2);
  last().connected();
  assert.deepEqual(heard, ["online", "offline", "online"]);
});

test("each failure waits longer, and a connection that lasted begins anew", async () => {
  const { clock, last, waitMs } = connection();
  const waits: number[] = [];
  for (let count = 0; count < 3; count += 1) {
    last().connected();
    await last().ends(LOST);
    waits.push(waitMs());
    await clock.advance(waitMs());
  }
  assert.deepEqual(waits, [500, 1000, 2000]);
  last().connected();
  await clock.advance(10_000);
  await last().ends(LOST);
  assert.equal(waitMs(), 500);
});

test("where no WebSocket opens, polling takes its place, and gives it back", async () => {
  const { made, clock, tries, hands, last } = connection();
  await last().ends(NEVER_OPENED);
  await clock.advance(1_000);
  await last().ends(NEVER_OPENED);
  assert.deepEqual(tries.map(({ transport }) => transport), ["websocket", "websocket", "polling"]);
  last().connected();
  assert.deepEqual(made.state.get(), { name: "online", transport: "polling" });
  await clock.advance(45_000);
  assert.equal(tries.length, 3, "the probe has found no WebSocket");
  hands.canWebSocket = true;
  await clock.advance(45_000);
  assert.equal(tries[2]!.isClosed, true);
  last().connected();
  assert.deepEqual(made.state.get(), { name: "online", transport: "websocket" });
});

test("with neither to be had, both are tried after each wait", async () => {
  const { clock, tries, last, waitMs } = connection();
  for (let count = 0; count < 2; count += 1) {
    await last().ends(NEVER_OPENED);
    if (last().transport === "websocket" && count === 0) await clock.advance(waitMs());
  }
  assert.equal(last().transport, "polling");
  await last().ends(NEVER_OPENED);
  await clock.advance(waitMs());
  assert.equal(last().transport, "websocket");
  await last().ends(NEVER_OPENED);
  assert.equal(last().transport, "polling");
  assert.equal(tries.length, 5);
});

test("an edge that restarts is left without a long wait, one that has too many with one", async () => {
  const { clock, last, waitMs } = connection();
  for (let count = 0; count < 4; count += 1) {
    last().connected();
    await last().ends(LOST);
    await clock.advance(waitMs());
  }
  last().connected();
  await last().ends({ ...LOST, code: 1012 });
  assert.equal(waitMs(), 500);
  await clock.advance(500);
  await last().ends({ wasConnected: false, code: 1013, refusal: new Refusal("RATE_LIMITED", "", { retryAfterMs: 900 }) });
  assert.equal(waitMs(), 900 + 4_000);
});

test("a refused token is renewed, and the next try uses the new one", async () => {
  const { clock, last, waitMs } = connection();
  await last().ends(TOKEN_REFUSED);
  await clock.advance(waitMs());
  assert.equal(last().token, "new");
});

test("without another token it stops, and says why", async () => {
  const { made, last } = connection({ newToken: async () => "old" });
  await last().ends(TOKEN_REFUSED);
  assert.deepEqual(made.state.get(), {
    name: "stopped",
    why: "The token has expired. Please sign in again.",
  });
});

test("hurrying ends a wait, and being stopped ends everything", async () => {
  const { made, clock, tries, heard, last, state } = connection();
  await last().ends(NEVER_OPENED);
  made.hurry();
  assert.equal(tries.length, 2);
  last().connected();
  made.stop();
  assert.equal(last().isClosed, true);
  await last().ends(LOST);
  await clock.advance(100_000);
  assert.equal(state(), "stopped");
  assert.equal(tries.length, 2);
  assert.deepEqual(heard, ["online", "offline"]);
});
