import assert from "node:assert/strict";
import test from "node:test";

import { Timeline } from "../src/chat-client/timeline.ts";
import type { StatedMessage, Status, UserId } from "../src/chat-client/types.ts";

const ann = "ann" as UserId;
const bob = "bob" as UserId;
const cat = "cat" as UserId;

function message(seq: number, status: Status = "sent"): StatedMessage {
  return { seq, status, content: `m${seq}`, senderId: ann, sentAt: seq } as StatedMessage;
}

const messages = (...seqs: number[]): StatedMessage[] => seqs.map((seq) => message(seq));
const seqsOf = (timeline: Timeline): number[] => timeline.view.messages.map(({ seq }) => seq);

test("messages are in order and each once, however they come", () => {
  const timeline = new Timeline(ann);
  timeline.add(messages(5, 6));
  timeline.add(messages(8));
  timeline.add(messages(6, 7, 8));
  timeline.add(messages(3, 4));
  assert.deepEqual(seqsOf(timeline), [3, 4, 5, 6, 7, 8]);
  assert.deepEqual(timeline.view.gaps, []);
});

test("what is missing in between is named until it comes", () => {
  const timeline = new Timeline(ann);
  timeline.add(messages(1, 2, 5, 9));
  assert.deepEqual(timeline.view.gaps, [
    { fromSeq: 3, toSeq: 4 },
    { fromSeq: 6, toSeq: 8 },
  ]);
  timeline.add(messages(3, 4));
  assert.deepEqual(timeline.view.gaps, [{ fromSeq: 6, toSeq: 8 }]);
});

test("a message is seen when every other member has seen it", () => {
  const timeline = new Timeline(ann);
  timeline.members = [ann, bob, cat];
  timeline.add(messages(1, 2, 3));
  timeline.mark(bob, "seen", 3);
  assert.equal(timeline.view.seenSeq, 0);
  timeline.mark(cat, "delivered", 3);
  assert.deepEqual([timeline.view.deliveredSeq, timeline.view.seenSeq], [3, 0]);
  timeline.mark(cat, "seen", 2);
  assert.deepEqual([timeline.view.deliveredSeq, timeline.view.seenSeq], [3, 2]);
});

test("marks move only forwards, and one's own do not count", () => {
  const timeline = new Timeline(ann);
  timeline.members = [ann, bob];
  timeline.add(messages(1, 2, 3));
  timeline.mark(bob, "seen", 3);
  timeline.mark(bob, "seen", 1);
  timeline.mark(ann, "seen", 9);
  assert.equal(timeline.view.seenSeq, 3);
});

test("what history tells of a status holds for everything before", () => {
  const timeline = new Timeline(ann);
  timeline.members = [ann, bob];
  timeline.add([message(1), message(2, "seen"), message(3, "delivered"), message(4)]);
  assert.deepEqual([timeline.view.deliveredSeq, timeline.view.seenSeq], [3, 2]);
});

test("the earliest can be forgotten, and then there are earlier ones again", () => {
  const timeline = new Timeline(ann);
  timeline.add(messages(1, 2, 3, 4));
  assert.equal(timeline.view.hasEarlier, false);
  timeline.trim(2);
  assert.deepEqual(seqsOf(timeline), [3, 4]);
  assert.equal(timeline.view.hasEarlier, true);
});
