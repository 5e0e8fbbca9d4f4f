// The messages of one conversation that are here: in order, each once, which are missing, and how far the others are.
//
// Pure: told what came, says what to show. Whoever tells it repairs what it finds missing.

import type { Gap, Message, StatedMessage, Status, UserId } from "./types.ts";

export interface TimelineView {
  // Ascending by seq.
  readonly messages: readonly Message[];
  // Between those, what is known to exist and is not here.
  readonly gaps: readonly Gap[];
  readonly hasEarlier: boolean;
  // Every other member has received, has seen, everything up to these.
  readonly deliveredSeq: number;
  readonly seenSeq: number;
}

interface Marks {
  readonly delivered: number;
  readonly seen: number;
}

const NO_MARKS: Marks = { delivered: 0, seen: 0 };

export const EMPTY_VIEW: TimelineView = { messages: [], gaps: [], hasEarlier: false, deliveredSeq: 0, seenSeq: 0 };

export class Timeline {
  readonly #me: UserId;
  #others: readonly UserId[] = [];
  #messages: readonly Message[] = [];
  // What every other member has reached as history told, and what each has as events tell.
  #floor = NO_MARKS;
  readonly #marks = new Map<UserId, Marks>();

  constructor(me: UserId) {
    this.#me = me;
  }

  set members(ids: readonly UserId[]) {
    this.#others = ids.filter((id) => id !== this.#me);
  }

  get firstSeq(): number {
    return this.#messages[0]?.seq ?? 0;
  }

  get lastSeq(): number {
    return this.#messages.at(-1)?.seq ?? 0;
  }

  find(seq: number): Message | undefined {
    return this.#messages.findLast((message) => message.seq === seq);
  }

  // Repeats are recognised by their seq.
  add(messages: readonly StatedMessage[]): void {
    for (const { status, seq } of messages) this.#floor = raised(this.#floor, status, seq);
    const last = this.lastSeq;
    const isTail = messages.every(({ seq }, index) => seq > (messages[index - 1]?.seq ?? last));
    if (isTail) {
      this.#messages = [...this.#messages, ...messages];
      return;
    }
    const bySeq = new Map([...messages, ...this.#messages].map((message) => [message.seq, message]));
    this.#messages = [...bySeq.values()].sort((a, b) => a.seq - b.seq);
  }

  // That member has received or seen everything up to `seq`.
  mark(user: UserId, status: Status, seq: number): void {
    if (user !== this.#me) this.#marks.set(user, raised(this.#marks.get(user) ?? NO_MARKS, status, seq));
  }

  // Everything between the first and the last that is not here.
  get gaps(): readonly Gap[] {
    const found: Gap[] = [];
    for (let index = 1; index < this.#messages.length; index += 1) {
      const before = this.#messages[index - 1]!.seq;
      const seq = this.#messages[index]!.seq;
      if (seq > before + 1) found.push({ fromSeq: before + 1, toSeq: seq - 1 });
    }
    return found;
  }

  // Forgets the earliest beyond `most`; they can be read again.
  trim(most: number): void {
    if (this.#messages.length > most) this.#messages = this.#messages.slice(-most);
  }

  get view(): TimelineView {
    return {
      messages: this.#messages,
      gaps: this.gaps,
      hasEarlier: this.firstSeq > 1,
      deliveredSeq: this.#reached("delivered"),
      seenSeq: this.#reached("seen"),
    };
  }

  #reached(kind: keyof Marks): number {
    if (this.#others.length === 0) return this.#floor[kind];
    const slowest = Math.min(...this.#others.map((id) => (this.#marks.get(id) ?? NO_MARKS)[kind]));
    return Math.max(this.#floor[kind], slowest);
  }
}

function raised(marks: Marks, status: Status, seq: number): Marks {
  if (status === "sent") return marks;
  return {
    delivered: Math.max(marks.delivered, seq),
    seen: status === "seen" ? Math.max(marks.seen, seq) : marks.seen,
  };
}
