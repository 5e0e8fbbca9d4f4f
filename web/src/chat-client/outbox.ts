// What was written here and is not yet promised by the server.
//
// In each conversation one message after the other, so that they arrive in the order in which they were written, each
// again under the same clientMessageId until there is an answer. Kept by the store until the server has it: a reload, or
// a second tab of the same person, sends it again, and the server tells that it is the same.

import type { Clock } from "./clock.ts";
import { newId } from "./clock.ts";
import { OutboxFull, Refusal } from "./errors.ts";
import type { ClientMessageId, ConversationId } from "./types.ts";
import { Value, type Readable } from "./value.ts";

// A day of writing without a network; each entry has at most 16 KiB.
export const MOST_WAITING = 500;
// Where a refusal says "later" without saying when.
const RETRY_MS = 2_000;

// sent: the server has it, and its event has not come yet.
export type OutgoingState = "queued" | "sending" | "sent" | "refused";

export interface Outgoing {
  readonly clientMessageId: ClientMessageId;
  readonly conversationId: ConversationId;
  readonly content: string;
  // Milliseconds since 1970; later ones are never earlier, so this is their order, too.
  readonly writtenAt: number;
  readonly state: OutgoingState;
  // Why it was refused.
  readonly problem: string | null;
}

export interface OutboxStore {
  // Whatever was put and not removed.
  load(): Promise<readonly Outgoing[]>;
  put(message: Outgoing): Promise<void>;
  remove(id: ClientMessageId): Promise<void>;
}

// Settles when the message is durable. Rejects with Refusal, or anything else where nothing is known.
export type Send = (message: Outgoing) => Promise<void>;

export class Outbox {
  readonly #store: OutboxStore;
  readonly #clock: Clock;
  readonly #send: Send;
  readonly #messages = new Value<readonly Outgoing[]>([]);
  // Not before they are stored may they be sent.
  readonly #unstored = new Set<ClientMessageId>();
  // Conversations that wait for a time that the server has named.
  readonly #resting = new Set<ConversationId>();
  // Counts connections; an answer that belongs to an earlier one tells nothing.
  #connection = 0;
  #isOpen = false;

  constructor(store: OutboxStore, clock: Clock, send: Send) {
    this.#store = store;
    this.#clock = clock;
    this.#send = send;
  }

  // In the order in which they were written.
  get messages(): Readable<readonly Outgoing[]> {
    return this.#messages;
  }

  // What an earlier page has left.
  async load(): Promise<void> {
    const known = new Set(this.#messages.get().map((message) => message.clientMessageId));
    const left = (await this.#store.load()).filter((message) => !known.has(message.clientMessageId));
    const loaded = left.map((message) => (message.state === "refused" ? message : { ...message, state: "queued" as const }));
    this.#messages.set([...loaded, ...this.#messages.get()].sort((a, b) => a.writtenAt - b.writtenAt));
    this.#pump();
  }

  // Raises OutboxFull.
  add(conversationId: ConversationId, content: string): Outgoing {
    const waiting = this.#messages.get();
    if (waiting.length >= MOST_WAITING) throw new OutboxFull(MOST_WAITING);
    const writtenAt = Math.max(this.#clock.now(), (waiting.at(-1)?.writtenAt ?? 0) + 1);
    const clientMessageId = newId() as ClientMessageId;
    const message: Outgoing = { clientMessageId, conversationId, content, writtenAt, state: "queued", problem: null };
    this.#messages.set([...waiting, message]);
    void this.#keepAndSend(message);
    return message;
  }

  // The subscriptions are live: what waits may go.
  open(): void {
    this.#connection += 1;
    this.#isOpen = true;
    this.#resting.clear();
    this.#pump();
  }

  // The connection is gone: nothing is known of what was under way.
  close(): void {
    this.#isOpen = false;
    this.#connection += 1;
    this.#messages.set(
      this.#messages.get().map((message) => (message.state === "sending" ? { ...message, state: "queued" } : message)),
    );
  }

  // Its message has come: nothing more is to be shown of it here.
  arrived(id: ClientMessageId): void {
    const message = this.#find(id);
    if (message === undefined) return;
    this.#forget(id);
    this.#pump();
  }

  // What was sent into a conversation whose events do not come any more is done with.
  left(conversationId: ConversationId): void {
    this.#messages.set(
      this.#messages.get().filter((each) => each.conversationId !== conversationId || each.state !== "sent"),
    );
  }

  // After a refusal: once more, under the same id.
  retry(id: ClientMessageId): void {
    const message = this.#find(id);
    if (message?.state !== "refused") return;
    const again: Outgoing = { ...message, state: "queued", problem: null };
    this.#replace(again);
    void this.#keepAndSend(again);
  }

  // After a refusal, or before it was sent.
  discard(id: ClientMessageId): void {
    const message = this.#find(id);
    if (message?.state === "refused" || message?.state === "queued") this.#forget(id);
  }

  async #keepAndSend(message: Outgoing): Promise<void> {
    this.#unstored.add(message.clientMessageId);
    await this.#store.put(message);
    this.#unstored.delete(message.clientMessageId);
    this.#pump();
  }

  // Starts the first that waits of each conversation where nothing is under way.
  #pump(): void {
    if (!this.#isOpen) return;
    const busy = new Set(this.#resting);
    for (const message of this.#messages.get()) {
      if (message.state === "refused" || message.state === "sent" || busy.has(message.conversationId)) continue;
      busy.add(message.conversationId);
      const mayGo = message.state === "queued" && !this.#unstored.has(message.clientMessageId);
      if (mayGo) void this.#sendOne(message);
    }
  }

  async #sendOne(message: Outgoing): Promise<void> {
    const connection = this.#connection;
    const { clientMessageId: id, conversationId } = message;
    this.#replace({ ...message, state: "sending" });
    try {
      await this.#send(message);
    } catch (error) {
      if (connection === this.#connection) this.#failed(message, error);
      return;
    }
    if (this.#find(id) !== undefined) this.#replace({ ...message, state: "sent" });
    void this.#store.remove(id);
    this.#resting.delete(conversationId);
    this.#pump();
  }

  #failed(message: Outgoing, error: unknown): void {
    const { clientMessageId, conversationId } = message;
    if (this.#find(clientMessageId) === undefined) return;
    if (error instanceof Refusal && error.isFinal && error.code !== "UNAUTHENTICATED") {
      const refused: Outgoing = { ...message, state: "refused", problem: error.message };
      this.#replace(refused);
      void this.#store.put(refused);
      this.#pump();
      return;
    }
    this.#replace(message);
    this.#resting.add(conversationId);
    const ms = error instanceof Refusal ? (error.retryAfterMs ?? RETRY_MS) : RETRY_MS;
    this.#clock.after(ms, () => {
      this.#resting.delete(conversationId);
      this.#pump();
    });
  }

  #find(id: ClientMessageId): Outgoing | undefined {
    return this.#messages.get().find((message) => message.clientMessageId === id);
  }

  #replace(message: Outgoing): void {
    const { clientMessageId: id } = message;
    this.#messages.set(this.#messages.get().map((each) => (each.clientMessageId === id ? message : each)));
  }

  #forget(id: ClientMessageId): void {
    this.#messages.set(this.#messages.get().filter((message) => message.clientMessageId !== id));
    void this.#store.remove(id);
  }
}
