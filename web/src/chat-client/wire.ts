// From what comes over the wire to typed values. Unknown fields are ignored; an unknown event is null.

import { Malformed, Refusal } from "./errors.ts";
import type {
  ClientMessageId,
  Conversation,
  ConversationEvent,
  ConversationId,
  Message,
  MessageId,
  Page,
  Presence,
  PresenceStatus,
  RefusalCode,
  StatedMessage,
  Status,
  UserEvent,
  UserId,
} from "./types.ts";

type Json = Readonly<Record<string, unknown>>;

const STATUSES: readonly Status[] = ["sent", "delivered", "seen"];
const PRESENCES: readonly PresenceStatus[] = ["online", "away", "busy", "offline"];
const CODES: readonly RefusalCode[] = [
  "INVALID_ARGUMENT",
  "UNAUTHENTICATED",
  "FORBIDDEN",
  "CONFLICT",
  "RATE_LIMITED",
  "TOO_LARGE",
  "UNAVAILABLE",
  "INTERNAL",
];

export interface PushSetup {
  readonly platforms: readonly string[];
  readonly webpushPublicKey: string;
}

export interface Device {
  readonly deviceId: string;
  readonly platform: string;
}

export interface Token {
  readonly token: string;
  readonly expiresAt: number;
}

// ---- Events.

export function parseConversationEvent(body: unknown): ConversationEvent | null {
  const json = object(body, "an event");
  switch (json["event"]) {
    case "message":
      return { event: "message", message: parseStatedMessage(json) };
    case "status":
      return { event: "status", userId: id<UserId>(json, "userId"), status: parseStatus(json), seq: number(json, "seq") };
    case "typing":
      return { event: "typing", userId: id<UserId>(json, "userId"), typing: json["typing"] === true };
    case "gap":
      return { event: "gap", gap: { fromSeq: number(json, "fromSeq"), toSeq: number(json, "toSeq") } };
    default:
      return null;
  }
}

export function parseUserEvent(body: unknown): UserEvent | null {
  const json = object(body, "an event");
  switch (json["event"]) {
    case "presence":
      return { event: "presence", presence: parsePresence(json) };
    case "notification":
      return {
        event: "notification",
        notification: {
          conversationId: id<ConversationId>(json, "conversationId"),
          messageId: id<MessageId>(json, "messageId"),
          seq: number(json, "seq"),
          senderId: id<UserId>(json, "senderId"),
          preview: text(json, "preview"),
          unreadCount: number(json, "unreadCount"),
        },
      };
    case "unread":
      return {
        event: "unread",
        conversationId: id<ConversationId>(json, "conversationId"),
        unreadCount: number(json, "unreadCount"),
        readSeq: number(json, "readSeq"),
      };
    default:
      return null;
  }
}

// Every refusal has that shape; what has not is INTERNAL, with the text that there is.
export function parseRefusal(body: unknown, otherwise: string): Refusal {
  if (typeof body !== "object" || body === null) return new Refusal("INTERNAL", otherwise);
  const json = body as Json;
  const code = CODES.find((each) => each === json["code"]) ?? "INTERNAL";
  const retryAfterMs = json["retryAfterMs"];
  const receiptId = json["receiptId"];
  const conversationId = json["conversationId"];
  return new Refusal(code, typeof json["message"] === "string" ? json["message"] : otherwise, {
    retryAfterMs: typeof retryAfterMs === "number" && retryAfterMs >= 0 ? retryAfterMs : null,
    receiptId: typeof receiptId === "string" ? receiptId : null,
    conversationId: typeof conversationId === "string" ? (conversationId as ConversationId) : null,
  });
}

// ---- Answers.

export function parseMessage(body: unknown): Message {
  const json = object(body, "a message");
  return {
    messageId: id<MessageId>(json, "messageId"),
    conversationId: id<ConversationId>(json, "conversationId"),
    seq: number(json, "seq"),
    senderId: id<UserId>(json, "senderId"),
    content: text(json, "content"),
    clientMessageId: id<ClientMessageId>(json, "clientMessageId"),
    sentAt: time(json, "sentAt"),
  };
}

export function parseStatedMessage(body: unknown): StatedMessage {
  return { ...parseMessage(body), status: parseStatus(object(body, "a message")) };
}

export function parsePage(body: unknown): Page {
  const json = object(body, "a page of messages");
  return { messages: array(json, "messages").map(parseStatedMessage), headSeq: number(json, "headSeq") };
}

export function parseConversation(body: unknown): Conversation {
  const json = object(body, "a conversation");
  const last = json["lastMessage"] ?? null;
  return {
    conversationId: id<ConversationId>(json, "conversationId"),
    type: json["type"] === "direct" ? "direct" : "group",
    title: json["title"] == null ? null : text(json, "title"),
    memberIds: array(json, "memberIds").map((each) => String(each) as UserId),
    createdAt: time(json, "createdAt"),
    lastMessage: last === null ? null : parseMessage(last),
    // One that was just made has none of these.
    headSeq: json["headSeq"] === undefined ? 0 : number(json, "headSeq"),
    readSeq: json["readSeq"] === undefined ? 0 : number(json, "readSeq"),
    unreadCount: json["unreadCount"] === undefined ? 0 : number(json, "unreadCount"),
    muted: json["muted"] === true,
  };
}

export function parseConversations(body: unknown): { conversations: Conversation[]; nextCursor: string | null } {
  const json = object(body, "conversations");
  return {
    conversations: array(json, "conversations").map(parseConversation),
    nextCursor: json["nextCursor"] == null ? null : text(json, "nextCursor"),
  };
}

export function parsePresence(body: unknown): Presence {
  const json = object(body, "a presence");
  return {
    userId: id<UserId>(json, "userId"),
    status: PRESENCES.find((each) => each === json["status"]) ?? "unknown",
    lastActiveAt: json["lastActiveAt"] == null ? null : time(json, "lastActiveAt"),
  };
}

export function parsePushSetup(body: unknown): PushSetup {
  const json = object(body, "the set-up of push");
  return {
    platforms: array(json, "platforms").map(String),
    webpushPublicKey: typeof json["webpushPublicKey"] === "string" ? json["webpushPublicKey"] : "",
  };
}

export function parseDevice(body: unknown): Device {
  const json = object(body, "a device");
  return { deviceId: text(json, "deviceId"), platform: text(json, "platform") };
}

export function parseToken(body: unknown): Token {
  const json = object(body, "a token");
  return { token: text(json, "token"), expiresAt: time(json, "expiresAt") };
}

// ---- Fields.

function parseStatus(json: Json): Status {
  const status = STATUSES.find((each) => each === json["status"]);
  if (status === undefined) throw new Malformed("status: sent, delivered or seen");
  return status;
}

function object(value: unknown, what: string): Json {
  if (typeof value !== "object" || value === null || Array.isArray(value)) throw new Malformed(what);
  return value as Json;
}

function array(json: Json, name: string): readonly unknown[] {
  const value = json[name];
  if (!Array.isArray(value)) throw new Malformed(`${name}: a list`);
  return value;
}

function text(json: Json, name: string): string {
  const value = json[name];
  if (typeof value !== "string") throw new Malformed(`${name}: a text`);
  return value;
}

function id<Id extends string>(json: Json, name: string): Id {
  return text(json, name) as Id;
}

function number(json: Json, name: string): number {
  const value = json[name];
  if (typeof value !== "number") throw new Malformed(`${name}: a number`);
  return value;
}

function time(json: Json, name: string): number {
  const value = Date.parse(text(json, name));
  if (Number.isNaN(value)) throw new Malformed(`${name}: a time`);
  return value;
}
