import assert from "node:assert/strict";
import test from "node:test";

import { Lost, OutboxFull, Refusal } from "../src/chat-client/errors.ts";
import { MOST_WAITING, Outbox, type Outgoing } from "../src/chat-client/outbox.ts";
import { MemoryStorage } from "../src/chat-client/storage.ts";
import type { ConversationId } from "../src/chat-client/types.ts";
import { ManualClock, settled } from "./manual-clock.ts";

const here = "c1" as ConversationId;
const there = "c2" as ConversationId;

interface Attempt {
  readonly message: Outgoing;
  readonly accept: () => void;
  readonly fail: (error: Error) => void;
}

function outbox(store = new MemoryStorage()) {
  const clock = new ManualClock();
  const attempts: Attempt[] = [];
  const box = new Outbox(
    store,
    clock,
    (message) => new Promise((accept, fail) => attempts.push({ message, accept, fail })),
  );
  const states = (): string[] => box.messages.get().map(({ content, state }) => `${content} ${state}`);
  const sent = (): string[] => attempts.map(({ message }) => message.content);
  return { box, clock, store, attempts, states, sent };
}

test("nothing is sent before the subscriptions are live, and then in the order of writing", async () => {
  const { box, attempts, states, sent } = outbox();
  box.add(here, "one");
  box.add(here, "two");
  await settled();
  assert.deepEqual(sent(), []);
  box.open();
  assert.deepEqual(states(), ["one sending", "two queued"]);
  attempts[0]!.accept();
  await settled();
  assert.deepEqual(states(), ["one sent", "two sending"]);
  box.arrived(attempts[0]!.message.clientMessageId);
  assert.deepEqual(states(), ["two sending"]);
});

test("conversations do not wait for one another", async () => {
  const { box, sent } = outbox();
  box.open();
  box.add(here, "one");
  box.add(there, "two");
  await settled();
  assert.deepEqual(sent(), ["one", "two"]);
});

test("a message is in the store before it is sent, and until the server has it", async () => {
  const { box, store, attempts } = outbox();
  box.open();
  box.add(here, "one");
  assert.equal(attempts.length, 0);
  await settled();
  assert.equal((await store.load()).length, 1);
  attempts[0]!.accept();
  await settled();
  assert.equal((await store.load()).length, 0);
});

test("what was under way when the connection broke is sent again under the same id", async () => {
  const { box, attempts, states } = outbox();
  box.open();
  box.add(here, "one");
  await settled();
  box.close();
  attempts[0]!.fail(new Lost("sending"));
  await settled();
  assert.deepEqual(states(), ["one queued"]);
  box.open();
  assert.equal(attempts.length, 2);
  assert.equal(attempts[1]!.message.clientMessageId, attempts[0]!.message.clientMessageId);
});

test("a new page sends what the one before has left, in its order, and what was refused waits for its writer", async () => {
  const first = outbox();
  first.box.open();
  first.box.add(there, "refused");
  await settled();
  first.attempts[0]!.fail(new Refusal("FORBIDDEN", "not a member"));
  await settled();
  first.box.add(here, "one");
  first.box.add(here, "two");
  await settled();
  const second = outbox(first.store);
  await second.box.load();
  assert.deepEqual(second.states(), ["refused refused", "one queued", "two queued"]);
  second.box.open();
  assert.deepEqual(second.sent(), ["one"]);
});

test("a refusal that says later keeps its place and waits that long", async () => {
  const { box, clock, attempts, states, sent } = outbox();
  box.open();
  box.add(here, "one");
  box.add(here, "two");
  await settled();
  attempts[0]!.fail(new Refusal("RATE_LIMITED", "too many", { retryAfterMs: 700 }));
  await clock.advance(699);
  assert.deepEqual(states(), ["one queued", "two queued"]);
  await clock.advance(1);
  assert.deepEqual(sent(), ["one", "one"]);
});

test("a final refusal says why, lets the next one go, and can be tried again", async () => {
  const { box, attempts, states, sent } = outbox();
  box.open();
  box.add(here, "one");
  box.add(here, "two");
  await settled();
  attempts[0]!.fail(new Refusal("TOO_LARGE", "too large"));
  await settled();
  assert.deepEqual(states(), ["one refused", "two sending"]);
  assert.equal(box.messages.get()[0]!.problem, "too large");
  attempts[1]!.accept();
  box.retry(attempts[0]!.message.clientMessageId);
  await settled();
  assert.deepEqual(sent(), ["one", "two", "one"]);
});

test("its event may come before its receipt", async () => {
  const { box, attempts, states } = outbox();
  box.open();
  box.add(here, "one");
  box.add(here, "two");
  await settled();
  box.arrived(attempts[0]!.message.clientMessageId);
  attempts[0]!.accept();
  await settled();
  assert.deepEqual(states(), ["two sending"]);
});

test("the queue is bounded, and says so", () => {
  const { box } = outbox();
  for (let count = 0; count < MOST_WAITING; count += 1) box.add(here, "more");
  assert.throws(() => box.add(here, "too many"), OutboxFull);
});
