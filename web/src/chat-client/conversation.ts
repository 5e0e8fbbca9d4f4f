// One conversation that is watched: its messages, who types, how far everybody is; and what repairs it when it breaks.
//
// The latest page is read over HTTP; from its last message on everything comes over the subscription, after each break
// from where it broke (x-after-seq). What is missing all the same shows in the seqs, and is read over HTTP.

import { Backoff } from "./backoff.ts";
import { pause, type Cancel, type Clock } from "./clock.ts";
import { Lost, Refusal, SignedOut } from "./errors.ts";
import { LARGEST_PAGE, type HttpApi } from "./http.ts";
import type { Session, Subscription } from "./stomp.ts";
import type { Storage } from "./storage.ts";
import { EMPTY_VIEW, Timeline, type TimelineView } from "./timeline.ts";
import type { Conversation, ConversationEvent, ConversationId, Message, StatedMessage, UserId } from "./types.ts";
import { Value, type Readable } from "./value.ts";
import { parseConversationEvent } from "./wire.ts";

// About three screens.
const PAGE = 50;
// Who scrolls back wants more of them.
const EARLIER_PAGE = 100;
// Kept when nobody looks at earlier ones; they can be read again.
const MOST_KEPT = 400;
// Typing is told anew that often, and believed for twice that long and a bit.
const TYPING_EVERY_MS = 3_000;
const TYPING_LASTS_MS = 7_000;
// Live messages are shown at most once a frame: a thousand in a burst are not a thousand drawings.
const FRAME_MS = 16;
// After the last change, what is here is remembered for the next start.
const REMEMBER_AFTER_MS = 1_000;

export interface ConversationView {
  // loading: nothing to show yet, or only what was remembered. gone: one is no member, or there is no such conversation.
  readonly status: "loading" | "ready" | "gone";
  readonly problem: string | null;
  readonly conversation: Conversation | null;
  readonly timeline: TimelineView;
  readonly isReadingEarlier: boolean;
  readonly typing: readonly UserId[];
}

export interface ConversationParts {
  readonly id: ConversationId;
  readonly me: UserId;
  readonly http: HttpApi;
  readonly clock: Clock;
  readonly storage: Promise<Storage>;
  // Messages of this conversation have come, live or read.
  readonly onMessages: (messages: readonly Message[]) => void;
  // One's own mark has moved.
  readonly onRead: (seq: number) => void;
}

interface Remembered {
  readonly conversation: Conversation;
  readonly messages: readonly StatedMessage[];
}

export class WatchedConversation {
  readonly #parts: ConversationParts;
  readonly #view = new Value<ConversationView>({
    status: "loading",
    problem: null,
    conversation: null,
    timeline: EMPTY_VIEW,
    isReadingEarlier: false,
    typing: [],
  });
  #timeline: Timeline;
  #session: Session | null = null;
  #subscription: Subscription | null = null;
  // The latest that is known to exist, here or not.
  #headSeq = 0;
  #readSeq = 0;
  // Marked as read here, and not yet promised by the server.
  #unpromisedReadSeq = 0;
  #isRepairing = false;
  readonly #typing = new Map<UserId, Cancel>();
  #toldTypingAt = Number.NEGATIVE_INFINITY;
  #cancelRemember: Cancel = () => {};
  // Come, and not shown yet.
  #unshown: StatedMessage[] = [];
  #shownAt = Number.NEGATIVE_INFINITY;
  #cancelShow: Cancel = () => {};
  #isClosed = false;

  constructor(parts: ConversationParts) {
    this.#parts = parts;
    this.#timeline = new Timeline(parts.me);
    void this.#recall();
    void this.#load();
  }

  get id(): ConversationId {
    return this.#parts.id;
  }

  get view(): Readable<ConversationView> {
    return this.#view;
  }

  // ---- The connection's side.

  // The connection is there (again). Settles when the subscription is live, or has been refused.
  async attach(session: Session): Promise<void> {
    this.#session = session;
    if (this.#view.get().status === "ready") await this.#subscribe(session);
  }

  detach(): void {
    this.#showUnshown();
    this.#session = null;
    this.#subscription = null;
    this.#stopTyping();
  }

  // One is no member any more.
  removed(why: string): void {
    this.#show({ status: "gone", problem: why });
    this.close();
  }

  close(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.#subscription?.end();
    this.detach();
    this.#cancelRemember();
  }

  // ---- What one does with it.

  // The earlier page, where there is one. Raises Refusal or Lost.
  async readEarlier(): Promise<void> {
    const { isReadingEarlier, status, timeline } = this.#view.get();
    if (isReadingEarlier || status !== "ready" || !timeline.hasEarlier) return;
    this.#show({ isReadingEarlier: true });
    try {
      const beforeSeq = this.#timeline.firstSeq;
      const page = await this.#parts.http.readMessages(this.id, { beforeSeq, limit: EARLIER_PAGE });
      this.#add(page.messages);
    } finally {
      this.#show({ isReadingEarlier: false });
    }
  }

  // The latest messages are looked at: earlier ones need not be kept.
  forgetEarlier(): void {
    if (this.#view.get().timeline.messages.length <= MOST_KEPT) return;
    this.#timeline.trim(MOST_KEPT / 2);
    this.#show({ timeline: this.#timeline.view });
  }

  // Everything that is here has been seen.
  markRead(): void {
    const { status, timeline } = this.#view.get();
    const seq = timeline.gaps[0] === undefined ? this.#timeline.lastSeq : timeline.gaps[0].fromSeq - 1;
    if (status !== "ready" || seq <= this.#readSeq) return;
    this.#readSeq = this.#unpromisedReadSeq = seq;
    this.#parts.onRead(seq);
    void this.#tellRead();
  }

  // To be called at each keystroke, and with false when the text is gone.
  setTyping(typing: boolean): void {
    const now = this.#parts.clock.now();
    if (typing ? now - this.#toldTypingAt < TYPING_EVERY_MS : this.#toldTypingAt === Number.NEGATIVE_INFINITY) return;
    this.#toldTypingAt = typing ? now : Number.NEGATIVE_INFINITY;
    if (this.#session === null || this.#subscription === null) return;
    // Of no use later, so nobody looks at what becomes of it.
    this.#session.request("/app/chat.typing", { conversationId: this.id, typing }).catch(() => {});
  }

  // ---- Reading.

  async #load(): Promise<void> {
    const { http } = this.#parts;
    const found = await this.#persist(() =>
      Promise.all([http.getConversation(this.id), http.readMessages(this.id, { limit: PAGE })]),
    );
    if (found === null) return;
    const [conversation, page] = found;
    // What was remembered has done its service; between it and this page there may be any number of others.
    this.#timeline = new Timeline(this.#parts.me);
    this.#timeline.members = conversation.memberIds;
    this.#readSeq = conversation.readSeq;
    this.#headSeq = page.headSeq;
    this.#show({ status: "ready", problem: null, conversation });
    this.#add(page.messages);
    if (this.#session !== null) await this.#subscribe(this.#session);
  }

  // Asks as often as it takes. Null: refused for good (the view says so), or closed.
  async #persist<T>(ask: () => Promise<T>): Promise<T | null> {
    const backoff = new Backoff(this.#parts.clock);
    while (!this.#isClosed) {
      try {
        const found = await ask();
        return this.#isClosed ? null : found;
      } catch (error) {
        // Who is signed out hears of it from the connection.
        if (this.#isClosed || error instanceof SignedOut) return null;
        if (!(error instanceof Refusal || error instanceof Lost)) throw error;
        const refusal = error instanceof Refusal ? error : null;
        if (refusal?.isFinal) {
          this.removed(refusal.message);
          return null;
        }
        await pause(this.#parts.clock, backoff.next(refusal?.retryAfterMs ?? 0));
      }
    }
    return null;
  }

  // Reads what is missing, one hole after the other, until there is none.
  async #repair(): Promise<void> {
    if (this.#isRepairing) return;
    this.#isRepairing = true;
    for (let gap = this.#firstGap(); gap !== null; gap = this.#firstGap()) {
      const range = { afterSeq: gap.fromSeq - 1, beforeSeq: gap.toSeq + 1, limit: LARGEST_PAGE };
      const page = await this.#persist(() => this.#parts.http.readMessages(this.id, range));
      if (page === null || page.messages.length === 0) break;
      this.#add(page.messages);
    }
    this.#isRepairing = false;
  }

  #firstGap(): { fromSeq: number; toSeq: number } | null {
    const inside = this.#timeline.gaps[0];
    if (inside !== undefined) return inside;
    const { lastSeq } = this.#timeline;
    return lastSeq < this.#headSeq ? { fromSeq: lastSeq + 1, toSeq: this.#headSeq } : null;
  }

  // ---- The subscription.

  async #subscribe(session: Session): Promise<void> {
    const destination = `/topic/conversation.${this.id}`;
    const after = { "x-after-seq": String(this.#timeline.lastSeq) };
    const subscription = session.subscribe(destination, (body) => this.#receive(body), after);
    this.#subscription = subscription;
    let head: number;
    try {
      head = Number((await subscription.live)["x-head-seq"] ?? 0);
    } catch (error) {
      if (this.#subscription === subscription) this.#notSubscribed(session, error);
      return;
    }
    if (this.#subscription !== subscription) return;
    this.#showUnshown();
    this.#headSeq = Math.max(this.#headSeq, head);
    void this.#repair();
    void this.#readMarks();
    if (this.#unpromisedReadSeq > 0) void this.#tellRead();
  }

  #notSubscribed(session: Session, error: unknown): void {
    this.#subscription = null;
    if (!(error instanceof Refusal) || session !== this.#session) return;
    if (error.isFinal) this.removed(error.message);
    else this.#parts.clock.after(error.retryAfterMs ?? TYPING_EVERY_MS, () => this.#subscribeAgain(session));
  }

  #subscribeAgain(session: Session): void {
    if (session === this.#session && this.#subscription === null) void this.#subscribe(session);
  }

  // How far the others are is told when it happens; whoever was not there yet, or any more, has to ask.
  async #readMarks(): Promise<void> {
    const page = await this.#persist(() => this.#parts.http.readMessages(this.id, { limit: PAGE }));
    if (page !== null) this.#add(page.messages);
  }

  #receive(body: unknown): void {
    if (this.#isClosed) return;
    const event = parseConversationEvent(body);
    if (event !== null) this.#apply(event);
  }

  #apply(event: ConversationEvent): void {
    switch (event.event) {
      case "message":
        this.#noteTyping(event.message.senderId, false);
        this.#addSoon(event.message);
        break;
      case "gap":
        this.#headSeq = Math.max(this.#headSeq, event.gap.toSeq);
        void this.#repair();
        break;
      case "status":
        if (event.userId === this.#parts.me && event.status === "seen") this.#readElsewhere(event.seq);
        this.#timeline.mark(event.userId, event.status, event.seq);
        this.#show({ timeline: this.#timeline.view });
        break;
      case "typing":
        if (event.userId !== this.#parts.me) this.#noteTyping(event.userId, event.typing);
        break;
    }
  }

  #addSoon(message: StatedMessage): void {
    this.#unshown.push(message);
    if (this.#unshown.length > 1) return;
    const wait = this.#shownAt + FRAME_MS - this.#parts.clock.now();
    if (wait <= 0) this.#showUnshown();
    else this.#cancelShow = this.#parts.clock.after(wait, () => this.#showUnshown());
  }

  #showUnshown(): void {
    if (this.#unshown.length > 0) this.#add([]);
  }

  // With whatever waits to be shown.
  #add(more: readonly StatedMessage[]): void {
    const messages = [...more, ...this.#unshown];
    this.#cancelShow();
    this.#unshown = [];
    this.#shownAt = this.#parts.clock.now();
    this.#timeline.add(messages);
    this.#headSeq = Math.max(this.#headSeq, this.#timeline.lastSeq);
    this.#parts.onMessages(messages);
    this.#show({ timeline: this.#timeline.view });
    this.#rememberSoon();
    if (this.#timeline.gaps.length > 0) void this.#repair();
  }

  // ---- Marks and typing.

  #readElsewhere(seq: number): void {
    if (seq <= this.#readSeq) return;
    this.#readSeq = seq;
    this.#parts.onRead(seq);
  }

  async #tellRead(): Promise<void> {
    const seq = this.#unpromisedReadSeq;
    const message = this.#timeline.find(seq);
    if (this.#session === null || message === undefined) return;
    try {
      await this.#session.request("/app/chat.read", { conversationId: this.id, messageId: message.messageId });
      if (this.#unpromisedReadSeq === seq) this.#unpromisedReadSeq = 0;
    } catch {
      // Told again with the next mark, and after the next connect.
    }
  }

  #noteTyping(user: UserId, typing: boolean): void {
    this.#typing.get(user)?.();
    this.#typing.delete(user);
    if (typing) this.#typing.set(user, this.#parts.clock.after(TYPING_LASTS_MS, () => this.#noteTyping(user, false)));
    const shown = this.#view.get().typing;
    if (shown.includes(user) !== typing) this.#show({ typing: [...this.#typing.keys()] });
  }

  #stopTyping(): void {
    for (const cancel of this.#typing.values()) cancel();
    this.#typing.clear();
    if (this.#view.get().typing.length > 0) this.#show({ typing: [] });
  }

  // ---- What is shown at the next start, until there is something newer.

  async #recall(): Promise<void> {
    const kept = (await (await this.#parts.storage).recall(this.#key)) as Remembered | undefined;
    if (kept === undefined || this.#isClosed || this.#view.get().status !== "loading") return;
    this.#timeline.members = kept.conversation.memberIds;
    this.#timeline.add(kept.messages);
    this.#parts.onMessages(kept.messages);
    this.#show({ conversation: kept.conversation, timeline: this.#timeline.view });
  }

  #rememberSoon(): void {
    this.#cancelRemember();
    this.#cancelRemember = this.#parts.clock.after(REMEMBER_AFTER_MS, () => void this.#remember());
  }

  async #remember(): Promise<void> {
    const { conversation, timeline } = this.#view.get();
    if (conversation === null) return;
    const messages = timeline.messages.slice(-PAGE).map((message): StatedMessage => {
      const reached = message.seq <= timeline.deliveredSeq ? "delivered" : "sent";
      return { ...message, status: message.seq <= timeline.seenSeq ? "seen" : reached };
    });
    await (await this.#parts.storage).remember(this.#key, { conversation, messages } satisfies Remembered);
  }

  get #key(): string {
    return `conversation.${this.id}`;
  }

  #show(change: Partial<ConversationView>): void {
    this.#view.set({ ...this.#view.get(), ...change });
  }
}
