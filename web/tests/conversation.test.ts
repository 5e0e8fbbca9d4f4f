import assert from "node:assert/strict";
import test from "node:test";

import { WatchedConversation } from "../src/chat-client/conversation.ts";
import { Lost, Refusal } from "../src/chat-client/errors.ts";
import type { HttpApi } from "../src/chat-client/http.ts";
import type { Receipt, Session } from "../src/chat-client/stomp.ts";
import { MemoryStorage } from "../src/chat-client/storage.ts";
import type { Conversation, ConversationId, Message, Page, StatedMessage, UserId } from "../src/chat-client/types.ts";
import { ManualClock, settled } from "./manual-clock.ts";

const id = "c1" as ConversationId;
const ann = "ann" as UserId;
const bob = "bob" as UserId;

function message(seq: number): StatedMessage {
  const sentAt = 1_800_000_000_000 + seq;
  const ids = { messageId: `c1-${seq}`, conversationId: id, clientMessageId: `m${seq}` };
  return { ...ids, seq, senderId: bob, content: `m${seq}`, sentAt, status: "sent" } as StatedMessage;
}

const messages = (from: number, to: number): StatedMessage[] =>
  Array.from({ length: Math.max(0, to - from + 1) }, (_, index) => message(from + index));

// A conversation of `head` messages, as the server would answer.
class Server {
  head: number;
  failures: Error[] = [];
  readonly asked: string[] = [];
  readonly #conversation = { conversationId: id, memberIds: [ann, bob], readSeq: 0 } as unknown as Conversation;

  constructor(head: number) {
    this.head = head;
  }

  async getConversation(): Promise<Conversation> {
    return this.#conversation;
  }

  async readMessages(_: ConversationId, range: { afterSeq?: number; beforeSeq?: number; limit: number }): Promise<Page> {
    const failure = this.failures.pop();
    if (failure !== undefined) throw failure;
    const to = Math.min(this.head, (range.beforeSeq ?? this.head + 1) - 1);
    const from = range.afterSeq === undefined ? Math.max(1, to - range.limit + 1) : range.afterSeq + 1;
    this.asked.push(`${from}-${to}`);
    return { messages: messages(from, Math.min(to, from + range.limit - 1)), headSeq: this.head };
  }
}

class Line {
  readonly subscribed: string[] = [];
  readonly requests: object[] = [];
  hear: (body: unknown) => void = () => {};
  live: (receipt: Receipt) => void = () => {};
  refuse: (refusal: Error) => void = () => {};
  readonly session: Session = {
    transport: "websocket",
    request: async (_, body) => {
      this.requests.push(body);
      return {};
    },
    subscribe: (_, onBody, headers) => {
      this.subscribed.push(headers?.["x-after-seq"] ?? "");
      this.hear = onBody;
      const live = new Promise<Receipt>((resolve, reject) => ([this.live, this.refuse] = [resolve, reject]));
      live.catch(() => {});
      return { live, end: () => {} };
    },
    close: () => {},
  };

  message(seq: number): void {
    const { sentAt, ...rest } = message(seq);
    this.hear({ event: "message", ...rest, sentAt: new Date(sentAt).toISOString() });
  }
}

async function open(head: number) {
  const clock = new ManualClock();
  const server = new Server(head);
  const line = new Line();
  const come: number[] = [];
  const watched = new WatchedConversation({
    id,
    me: ann,
    http: server as unknown as HttpApi,
    clock,
    storage: Promise.resolve(new MemoryStorage()),
    onMessages: (all: readonly Message[]) => come.push(...all.map(({ seq }) => seq)),
    onRead: () => {},
  });
  await settled();
  const seqs = (): number[] => watched.view.get().timeline.messages.map(({ seq }) => seq);
  return { clock, server, line, watched, seqs };
}

const numbers = (from: number, to: number): number[] => messages(from, to).map(({ seq }) => seq);

test("the subscription goes on where the page that was read ends, and after a break where that broke", async () => {
  const { clock, line, watched, seqs } = await open(3);
  const attached = watched.attach(line.session);
  line.live({ "x-head-seq": "3" });
  await attached;
  line.message(4);
  await clock.advance(100);
  assert.deepEqual(seqs(), [1, 2, 3, 4]);
  watched.detach();
  void watched.attach(line.session);
  assert.deepEqual(line.subscribed, ["3", "4"]);
});

test("a burst is shown with the next frame, and not forgotten by a break before it", async () => {
  const { clock, line, watched, seqs } = await open(1);
  void watched.attach(line.session);
  await clock.advance(1_000);
  line.message(2);
  line.message(3);
  line.message(4);
  assert.deepEqual(seqs(), [1, 2]);
  await clock.advance(16);
  assert.deepEqual(seqs(), [1, 2, 3, 4]);
  line.message(5);
  watched.detach();
  assert.deepEqual(seqs(), [1, 2, 3, 4, 5]);
});

test("a gap that is named is read, page by page", async () => {
  const { clock, server, line, watched, seqs } = await open(2);
  void watched.attach(line.session);
  server.head = 502;
  line.hear({ event: "gap", conversationId: id, fromSeq: 3, toSeq: 501 });
  line.message(502);
  await clock.advance(100);
  assert.deepEqual(seqs(), numbers(1, 502));
});

test("a gap that nobody has named shows in the seqs, and is tried again until it is read", async () => {
  const { clock, server, line, watched, seqs } = await open(2);
  void watched.attach(line.session);
  server.head = 9;
  server.failures = [new Lost("reading"), new Refusal("UNAVAILABLE", "away", { retryAfterMs: 500 })];
  line.message(6);
  await clock.advance(20);
  assert.deepEqual(watched.view.get().timeline.gaps, [{ fromSeq: 3, toSeq: 5 }]);
  await clock.advance(10_000);
  assert.deepEqual(seqs(), numbers(1, 6));
});

test("what is missing at the end shows in the receipt of the subscription", async () => {
  const { clock, server, line, watched, seqs } = await open(2);
  void watched.attach(line.session);
  server.head = 5;
  line.live({ "x-head-seq": "5" });
  await clock.advance(100);
  assert.deepEqual(seqs(), numbers(1, 5));
});

test("only what is here without a gap is marked as read, and told again after a break", async () => {
  const { clock, server, line, watched } = await open(2);
  void watched.attach(line.session);
  server.failures = [new Lost("reading")];
  line.message(5);
  watched.markRead();
  await settled();
  assert.deepEqual(line.requests, [{ conversationId: id, messageId: "c1-2" }]);
  server.head = 5;
  await clock.advance(10_000);
  watched.markRead();
  await settled();
  assert.deepEqual(line.requests.at(-1), { conversationId: id, messageId: "c1-5" });
});

test("a subscription that is refused for now is tried again, one that is refused for good ends it", async () => {
  const { clock, line, watched } = await open(2);
  const attached = watched.attach(line.session);
  line.refuse(new Refusal("UNAVAILABLE", "away", { retryAfterMs: 300 }));
  await attached;
  await clock.advance(300);
  assert.equal(line.subscribed.length, 2);
  line.refuse(new Refusal("FORBIDDEN", "not a member"));
  await settled();
  assert.deepEqual([watched.view.get().status, watched.view.get().problem], ["gone", "not a member"]);
});

test("whoever types and then says nothing does not type for ever", async () => {
  const { clock, line, watched } = await open(1);
  void watched.attach(line.session);
  line.hear({ event: "typing", conversationId: id, userId: bob, typing: true });
  assert.deepEqual(watched.view.get().typing, [bob]);
  await clock.advance(7_000);
  assert.deepEqual(watched.view.get().typing, []);
});
