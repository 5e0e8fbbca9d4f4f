// The whole of it: one person, one connection that comes back, the conversations, and what waits to be sent.
//
// After each connect: the queues of this person, then every watched conversation from where it broke, and only when those
// are live the outgoing messages. So nobody sees an answer of his own before what he missed.

import { Connection, type ConnectionState } from "./connection.ts";
import { newId, systemClock, type Cancel, type Clock } from "./clock.ts";
import { WatchedConversation } from "./conversation.ts";
import { Lost, Refusal, SignedOut } from "./errors.ts";
import { HttpApi, type NewConversation } from "./http.ts";
import { ConversationList, type ListView } from "./list.ts";
import { Outbox, type Outgoing } from "./outbox.ts";
import { stompOver, type Session } from "./stomp.ts";
import { openStorage, type Storage } from "./storage.ts";
import { Tokens, type TokenSource } from "./tokens.ts";
import { canOpenWebSocket } from "./transports.ts";
import type {
  ClientMessageId,
  Conversation,
  ConversationId,
  Message,
  Notification,
  Presence,
  PresenceStatus,
  UserEvent,
  UserId,
} from "./types.ts";
import { Value, type Readable } from "./value.ts";
import { parseUserEvent } from "./wire.ts";

// Where nobody tells of new messages, the list is read that often while somebody looks; else just in case.
const LIST_EVERY_MS = 5_000;
const LIST_IN_CASE_EVERY_MS = 60_000;
// Unread conversations of which the server is told at once that their messages have arrived here.
const MOST_DELIVERED_AT_ONCE = 50;

export interface ChatClientOptions {
  // The origin of the server, without a slash at its end.
  readonly base: string;
  readonly userId: UserId;
  readonly token: string;
  readonly newToken: TokenSource;
  // A message in a conversation that is not watched.
  readonly onNotification: (notification: Notification) => void;
  readonly clock?: Clock;
}

export class ChatClient {
  readonly userId: UserId;
  readonly http: HttpApi;
  readonly #options: ChatClientOptions;
  readonly #clock: Clock;
  readonly #tokens: Tokens;
  readonly #storage: Promise<Storage>;
  readonly #connection: Connection;
  readonly #outbox: Outbox;
  readonly #list: ConversationList;
  readonly #watched = new Map<ConversationId, WatchedConversation>();
  readonly #presence = new Value<ReadonlyMap<UserId, Presence>>(new Map());
  readonly #ownStatus = new Value<PresenceStatus>("online");
  readonly #problem = new Value<string | null>(null);
  #session: Session | null = null;
  #hasNotifications = false;
  #isLookedAt = true;
  #cancelListTimer: Cancel = () => {};

  constructor(options: ChatClientOptions) {
    const { base, userId, token, newToken } = options;
    this.userId = userId;
    this.#options = options;
    this.#clock = options.clock ?? systemClock;
    this.#storage = openStorage(userId);
    this.#tokens = new Tokens(token, newToken, this.#clock, (renewed) => this.#refreshSession(renewed));
    this.http = new HttpApi(base, this.#tokens);
    this.#list = new ConversationList(userId, this.http, this.#clock, this.#storage);
    this.#outbox = new Outbox(laterStore(this.#storage), this.#clock, (message) => this.#send(message));
    this.#connection = new Connection({
      open: stompOver(base, this.#clock),
      tokens: this.#tokens,
      clock: this.#clock,
      probe: (timeoutMs) => canOpenWebSocket(base, timeoutMs),
      onOnline: (session) => void this.#online(session),
      onOffline: () => this.#offline(),
      onRefusal: (refusal) => this.#refused(refusal),
    });
  }

  // ---- What can be watched.

  get connection(): Readable<ConnectionState> {
    return this.#connection.state;
  }

  get conversations(): Readable<ListView> {
    return this.#list.view;
  }

  get outgoing(): Readable<readonly Outgoing[]> {
    return this.#outbox.messages;
  }

  // Who is not in it is unknown.
  get presence(): Readable<ReadonlyMap<UserId, Presence>> {
    return this.#presence;
  }

  // What this person has said of himself; the server may not know of it yet.
  get ownStatus(): Readable<PresenceStatus> {
    return this.#ownStatus;
  }

  // How old an answer was that came from a cache; null: live.
  get staleMs(): Readable<number | null> {
    return this.http.staleMs;
  }

  // The latest refusal that answers nothing one has asked.
  get problem(): Readable<string | null> {
    return this.#problem;
  }

  // ---- Beginning and end.

  start(): void {
    void this.#outbox.load();
    this.#connection.start();
    this.#refreshList();
  }

  // What waits to be sent stays in the store.
  stop(): void {
    this.#cancelListTimer();
    for (const conversation of this.#watched.values()) conversation.close();
    this.#watched.clear();
    this.#connection.stop();
  }

  // Stops, and forgets everything of this person that is kept here.
  async forget(): Promise<void> {
    this.stop();
    await (await this.#storage).clear();
  }

  // The network is back, or somebody looks again: do not wait any longer.
  hurry(): void {
    this.#connection.hurry();
    this.#refreshList();
  }

  // Whether somebody looks; who does not is not read to every few seconds.
  setLookedAt(isLookedAt: boolean): void {
    if (isLookedAt && !this.#isLookedAt) this.hurry();
    this.#isLookedAt = isLookedAt;
  }

  // ---- Conversations.

  // The same object until `unwatch`.
  watch(id: ConversationId): WatchedConversation {
    const known = this.#watched.get(id);
    if (known !== undefined) return known;
    const conversation = new WatchedConversation({
      id,
      me: this.userId,
      http: this.http,
      clock: this.#clock,
      storage: this.#storage,
      onMessages: (messages) => this.#arrived(messages),
      onRead: (seq) => this.#list.noteRead(id, seq),
    });
    this.#watched.set(id, conversation);
    if (this.#session !== null) void conversation.attach(this.#session);
    return conversation;
  }

  unwatch(id: ConversationId): void {
    this.#watched.get(id)?.close();
    this.#watched.delete(id);
    this.#outbox.left(id);
  }

  // Raises Refusal, Lost or SignedOut.
  async create(wanted: NewConversation): Promise<Conversation> {
    const made = await this.http.createConversation(wanted, newId());
    this.#list.add(made);
    this.#refreshList();
    return made;
  }

  // Raises Refusal, Lost or SignedOut.
  async setMuted(id: ConversationId, muted: boolean): Promise<void> {
    await this.http.setMuted(id, muted);
    this.#list.noteMuted(id, muted);
  }

  // Raises Refusal, Lost or SignedOut.
  async leave(id: ConversationId): Promise<void> {
    await this.http.leave(id, this.userId);
    this.unwatch(id);
    this.#list.remove(id);
  }

  // ---- Messages.

  // Queued at once, sent when it can be. Raises OutboxFull.
  send(id: ConversationId, content: string): void {
    this.#outbox.add(id, content);
  }

  retry(id: ClientMessageId): void {
    this.#outbox.retry(id);
  }

  discard(id: ClientMessageId): void {
    this.#outbox.discard(id);
  }

  // ---- Presence.

  setStatus(status: "online" | "away" | "busy"): void {
    this.#ownStatus.set(status);
    void this.#tellStatus();
  }

  // ---- The connection.

  async #online(session: Session): Promise<void> {
    this.#session = session;
    const receive = (body: unknown): void => this.#receive(session, body);
    const notifications = session.subscribe("/user/queue/notifications", receive);
    session.subscribe("/topic/presence", receive);
    void notifications.live.then(
      () => this.#notificationsAre(session, true),
      () => this.#notificationsAre(session, false),
    );
    await Promise.all([...this.#watched.values()].map((conversation) => conversation.attach(session)));
    if (session !== this.#session) return;
    this.#outbox.open();
    if (this.#ownStatus.get() !== "online") void this.#tellStatus();
    this.#refreshList();
  }

  #offline(): void {
    this.#session = null;
    this.#hasNotifications = false;
    this.#outbox.close();
    for (const conversation of this.#watched.values()) conversation.detach();
    this.#presence.set(new Map());
  }

  #refused(refusal: Refusal): void {
    const watched = refusal.conversationId === null ? undefined : this.#watched.get(refusal.conversationId);
    if (watched !== undefined && refusal.code === "FORBIDDEN") {
      watched.removed(refusal.message);
      this.#list.remove(watched.id);
    } else this.#problem.set(refusal.message);
  }

  #refreshSession(token: string): void {
    // Where it fails, the connection ends when the old token does, and begins again with this one.
    this.#session?.request("/app/session.refresh", { token }).catch(() => {});
  }

  async #send({ conversationId, content, clientMessageId }: Outgoing): Promise<void> {
    if (this.#session === null) throw new Lost("sending");
    await this.#session.request("/app/chat.send", { conversationId, content, type: "text", clientMessageId });
    if (!this.#watched.has(conversationId)) this.#outbox.left(conversationId);
  }

  async #tellStatus(): Promise<void> {
    try {
      await this.#session?.request("/app/presence.set", { status: this.#ownStatus.get() });
    } catch (error) {
      // After a break it is told again.
      if (error instanceof Refusal) this.#ownStatus.set("online");
    }
  }

  // ---- What comes.

  #receive(session: Session, body: unknown): void {
    const event = parseUserEvent(body);
    if (event !== null && session === this.#session) this.#apply(event);
  }

  #apply(event: UserEvent): void {
    switch (event.event) {
      case "presence":
        this.#presence.set(new Map(this.#presence.get()).set(event.presence.userId, event.presence));
        break;
      case "unread":
        this.#list.noteRead(event.conversationId, event.readSeq);
        break;
      case "notification":
        this.#notified(event.notification);
        break;
    }
  }

  #notified(notification: Notification): void {
    this.#tellDelivered(notification);
    const known = this.#list.find(notification.conversationId);
    const isNews = known === undefined || notification.seq > known.headSeq;
    if (!this.#list.noteNotification(notification)) this.#refreshList();
    if (isNews && !known?.muted && notification.senderId !== this.userId) this.#options.onNotification(notification);
  }

  #arrived(messages: readonly Message[]): void {
    for (const message of messages) {
      if (message.senderId === this.userId) this.#outbox.arrived(message.clientMessageId);
    }
    const last = messages.at(-1);
    if (last === undefined) return;
    this.#list.noteMessage(last);
    if (this.#list.find(last.conversationId) === undefined) this.#refreshList();
  }

  // It is here, whether or not anybody looks at it.
  #tellDelivered({ conversationId, messageId }: { conversationId: ConversationId; messageId: string }): void {
    // Where it fails, the next message or the next connect tells more.
    this.#session?.request("/app/chat.delivered", { conversationId, messageId }).catch(() => {});
  }

  // ---- The list.

  #notificationsAre(session: Session, live: boolean): void {
    if (session !== this.#session) return;
    this.#hasNotifications = live;
    this.#refreshListLater();
  }

  #refreshList(): void {
    void this.#readList();
  }

  async #readList(): Promise<void> {
    const before = new Map(this.#list.view.get().conversations.map((each) => [each.conversationId, each]));
    const wasReady = this.#list.view.get().status === "ready";
    try {
      await this.#list.refresh();
    } catch (error) {
      if (error instanceof SignedOut) {
        this.#connection.stop(error.message);
        return;
      }
      // The connection shows how things are; the next time will do.
      if (!(error instanceof Refusal || error instanceof Lost)) throw error;
    }
    this.#refreshListLater();
    this.#noticeNews(before, wasReady);
  }

  #refreshListLater(): void {
    this.#cancelListTimer();
    if (this.#connection.state.get().name === "stopped") return;
    const often = !this.#hasNotifications && this.#isLookedAt;
    this.#cancelListTimer = this.#clock.after(often ? LIST_EVERY_MS : LIST_IN_CASE_EVERY_MS, () => this.#refreshList());
  }

  // What the list tells, and nobody else has told.
  #noticeNews(before: ReadonlyMap<ConversationId, Conversation>, wasReady: boolean): void {
    const { conversations } = this.#list.view.get();
    const fresh = conversations.filter(({ conversationId, headSeq, unreadCount }) => {
      const isNew = headSeq > (before.get(conversationId)?.headSeq ?? 0);
      return unreadCount > 0 && (isNew || !wasReady) && !this.#watched.has(conversationId);
    });
    for (const { conversationId, lastMessage, unreadCount, muted } of fresh.slice(0, MOST_DELIVERED_AT_ONCE)) {
      if (lastMessage === null) continue;
      this.#tellDelivered(lastMessage);
      if (!wasReady || this.#hasNotifications || muted || lastMessage.senderId === this.userId) continue;
      const { messageId, seq, senderId, content } = lastMessage;
      this.#options.onNotification({ conversationId, messageId, seq, senderId, preview: content, unreadCount });
    }
  }
}

// A store that is used from the first moment, and opens in the next.
function laterStore(storage: Promise<Storage>): ConstructorParameters<typeof Outbox>[0] {
  return {
    load: async () => (await storage).load(),
    put: async (message) => (await storage).put(message),
    remove: async (id) => (await storage).remove(id),
  };
}
