import assert from "node:assert/strict";
import test from "node:test";

import { SignedOut } from "../src/chat-client/errors.ts";
import { expiryOf, subjectOf, Tokens } from "../src/chat-client/tokens.ts";
import { ManualClock } from "./manual-clock.ts";

function token(claims: object): string {
  return `h.${Buffer.from(JSON.stringify(claims)).toString("base64url")}.s`;
}

test("a token tells whom it names and when it expires, and anything else tells nothing", () => {
  assert.equal(subjectOf(token({ sub: "ann" })), "ann");
  assert.equal(expiryOf(token({ exp: 12 })), 12_000);
  for (const other of ["", "a.b.c", "nonsense", token({})]) {
    assert.equal(subjectOf(other), null);
    assert.equal(expiryOf(other), Number.POSITIVE_INFINITY);
  }
});

test("a token is renewed before it expires, and failures are tried again", async () => {
  const clock = new ManualClock();
  const lives = (ms: number): string => token({ exp: (clock.now() + ms) / 1000 });
  const renewed: string[] = [];
  let failures = 1;
  const source = async (): Promise<string> => {
    if (failures-- > 0) throw new Error("away");
    return lives(3_600_000);
  };
  const tokens = new Tokens(lives(3_600_000), source, clock, (each) => renewed.push(each));
  tokens.start();
  await clock.advance(3_239_000);
  assert.equal(renewed.length, 0);
  await clock.advance(3_000);
  assert.equal(renewed.length, 1);
  assert.equal(tokens.current, renewed[0]);
  await clock.advance(3_241_000);
  assert.equal(renewed.length, 2);
});

test("whoever asks at the same time gets the same new token", async () => {
  const clock = new ManualClock();
  let asked = 0;
  const tokens = new Tokens("old", async () => `new ${(asked += 1)}`, clock, () => {});
  assert.deepEqual(await Promise.all([tokens.renew("old"), tokens.renew("old")]), ["new 1", "new 1"]);
  assert.equal(await tokens.renew("old"), "new 1");
});

test("a source that has nothing but the refused token means to sign in again", async () => {
  const tokens = new Tokens("old", async () => "old", new ManualClock(), () => {});
  await assert.rejects(tokens.renew("old"), SignedOut);
});
