// What can go wrong, told apart by what a caller can do about it.

import type { ConversationId, RefusalCode } from "./types.ts";

// The server has understood and says no. `message` is for people.
export class Refusal extends Error {
  readonly code: RefusalCode;
  // Try again after that long; null: the same would be refused again.
  readonly retryAfterMs: number | null;
  readonly receiptId: string | null;
  readonly conversationId: ConversationId | null;

  constructor(
    code: RefusalCode,
    message: string,
    about: { retryAfterMs?: number | null; receiptId?: string | null; conversationId?: ConversationId | null } = {},
  ) {
    super(message);
    this.name = "Refusal";
    this.code = code;
    this.retryAfterMs = about.retryAfterMs ?? null;
    this.receiptId = about.receiptId ?? null;
    this.conversationId = about.conversationId ?? null;
  }

  get isFinal(): boolean {
    return this.retryAfterMs === null && this.code !== "INTERNAL";
  }
}

// The connection or the request broke off: nothing is known of what came of it.
export class Lost extends Error {
  constructor(what: string) {
    super(`${what}: the connection broke off`);
    this.name = "Lost";
  }
}

// What came is not what docs/wire.md promises.
export class Malformed extends Error {
  constructor(what: string) {
    super(`expected ${what}`);
    this.name = "Malformed";
  }
}

// No token can be had any more: somebody has to sign in.
export class SignedOut extends Error {
  constructor(why: string) {
    super(why);
    this.name = "SignedOut";
  }
}

// So much waits to be sent already that nothing more is taken.
export class OutboxFull extends Error {
  constructor(limit: number) {
    super(`${limit} messages wait to be sent already. Wait until some are gone.`);
    this.name = "OutboxFull";
  }
}
