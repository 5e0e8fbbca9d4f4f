import assert from "node:assert/strict";
import test from "node:test";

import { Backoff } from "../src/chat-client/backoff.ts";
import { ManualClock } from "./manual-clock.ts";

test("the limit doubles up to thirty seconds, and the wait is anything below it", () => {
  const clock = new ManualClock(0.5);
  const backoff = new Backoff(clock);
  clock.chance = 0.999999;
  const waits = Array.from({ length: 8 }, () => Math.round(backoff.next()));
  assert.deepEqual(waits, [1000, 2000, 4000, 8000, 16000, 30000, 30000, 30000]);
  clock.chance = 0;
  assert.equal(backoff.next(), 0);
});

test("each client begins at a limit of its own", () => {
  const limits = [0, 0.25, 0.75].map((chance) => {
    const clock = new ManualClock(chance);
    const backoff = new Backoff(clock);
    clock.chance = 0.999999;
    return Math.round(backoff.next());
  });
  assert.deepEqual(limits, [500, 750, 1250]);
});

test("what the server asks for is waited at least", () => {
  const clock = new ManualClock(0);
  assert.equal(new Backoff(clock).next(3_000), 3_000);
});

test("a failure that will last begins further on, and a success begins anew", () => {
  const clock = new ManualClock(0.5);
  const backoff = new Backoff(clock);
  clock.chance = 0.999999;
  backoff.expectAtLeast(3);
  assert.equal(Math.round(backoff.next()), 8_000);
  backoff.reset();
  assert.equal(Math.round(backoff.next()), 1_000);
});
