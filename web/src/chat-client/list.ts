// The conversations of this person, newest activity first: read over HTTP, kept up with what is heard in between.

import type { Clock } from "./clock.ts";
import type { HttpApi } from "./http.ts";
import type { Storage } from "./storage.ts";
import type { ClientMessageId, Conversation, ConversationId, Message, Notification, UserId } from "./types.ts";
import { Value, type Readable } from "./value.ts";

const KEY = "conversations";

export interface ListView {
  // loading: nothing is known yet, or only what was remembered.
  readonly status: "loading" | "ready";
  readonly conversations: readonly Conversation[];
}

export class ConversationList {
  readonly #me: UserId;
  readonly #http: HttpApi;
  readonly #clock: Clock;
  readonly #storage: Promise<Storage>;
  readonly #view = new Value<ListView>({ status: "loading", conversations: [] });
  #reading: Promise<void> | null = null;
  #isAskedAgain = false;

  constructor(me: UserId, http: HttpApi, clock: Clock, storage: Promise<Storage>) {
    this.#me = me;
    this.#http = http;
    this.#clock = clock;
    this.#storage = storage;
    void this.#recall();
  }

  get view(): Readable<ListView> {
    return this.#view;
  }

  find(id: ConversationId): Conversation | undefined {
    return this.#view.get().conversations.find((each) => each.conversationId === id);
  }

  // Reads the list; asked while it does, it reads once more. Raises Refusal, Lost or SignedOut.
  refresh(): Promise<void> {
    this.#isAskedAgain = this.#reading !== null;
    this.#reading ??= this.#read().finally(() => (this.#reading = null));
    return this.#reading;
  }

  // A message that came with a conversation that is watched.
  noteMessage(message: Message): void {
    this.#change(message.conversationId, (known) => {
      if (message.seq <= known.headSeq && known.lastMessage !== null) return known;
      const readSeq = message.senderId === this.#me ? message.seq : known.readSeq;
      return withCounts({ ...known, lastMessage: message, headSeq: message.seq, readSeq });
    });
  }

  // False: that conversation is not listed, read the list.
  noteNotification(told: Notification): boolean {
    const known = this.find(told.conversationId);
    if (known === undefined) return false;
    if (told.seq <= known.headSeq) return true;
    // When it was sent is not told; it was just now.
    const lastMessage: Message = {
      messageId: told.messageId,
      conversationId: told.conversationId,
      seq: told.seq,
      senderId: told.senderId,
      content: told.preview,
      clientMessageId: "" as ClientMessageId,
      sentAt: this.#clock.now(),
    };
    this.#change(told.conversationId, () => ({
      ...known,
      lastMessage,
      headSeq: told.seq,
      unreadCount: told.unreadCount,
    }));
    return true;
  }

  noteRead(id: ConversationId, readSeq: number): void {
    this.#change(id, (known) => withCounts({ ...known, readSeq: Math.max(known.readSeq, readSeq) }));
  }

  noteMuted(id: ConversationId, muted: boolean): void {
    this.#change(id, (known) => ({ ...known, muted }));
  }

  // One that was just made, or found again.
  add(conversation: Conversation): void {
    if (this.find(conversation.conversationId) !== undefined) return;
    this.#set([...this.#view.get().conversations, conversation]);
  }

  remove(id: ConversationId): void {
    this.#set(this.#view.get().conversations.filter((each) => each.conversationId !== id));
  }

  async #read(): Promise<void> {
    do {
      this.#isAskedAgain = false;
      const read = await this.#http.listConversations();
      // What has been heard of while it was read is not forgotten again.
      this.#set(read.map((each) => newer(each, this.find(each.conversationId))), "ready");
    } while (this.#isAskedAgain);
    await (await this.#storage).remember(KEY, this.#view.get().conversations);
  }

  async #recall(): Promise<void> {
    const kept = (await (await this.#storage).recall(KEY)) as readonly Conversation[] | undefined;
    if (kept !== undefined && this.#view.get().status === "loading") this.#set(kept);
  }

  #change(id: ConversationId, change: (known: Conversation) => Conversation): void {
    const known = this.find(id);
    if (known === undefined) return;
    const changed = change(known);
    if (changed === known) return;
    this.#set(this.#view.get().conversations.map((each) => (each === known ? changed : each)));
  }

  #set(conversations: readonly Conversation[], status = this.#view.get().status): void {
    this.#view.set({ status, conversations: [...conversations].sort((a, b) => activityOf(b) - activityOf(a)) });
  }
}

export const activityOf = (conversation: Conversation): number =>
  conversation.lastMessage?.sentAt ?? conversation.createdAt;

function withCounts(conversation: Conversation): Conversation {
  return { ...conversation, unreadCount: Math.max(0, conversation.headSeq - conversation.readSeq) };
}

function newer(read: Conversation, known: Conversation | undefined): Conversation {
  if (known === undefined) return read;
  const readSeq = Math.max(read.readSeq, known.readSeq);
  const latest = known.headSeq > read.headSeq ? known : read;
  return withCounts({ ...read, headSeq: latest.headSeq, lastMessage: latest.lastMessage, readSeq });
}
