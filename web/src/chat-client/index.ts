// A client of Parley for browsers: no user interface, and nothing of React. README.md shows its use.

export { ChatClient, type ChatClientOptions } from "./client.ts";
export { type Clock, newId, systemClock } from "./clock.ts";
export type { ConnectionState } from "./connection.ts";
export type { ConversationView, WatchedConversation } from "./conversation.ts";
export { Lost, Malformed, OutboxFull, Refusal, SignedOut } from "./errors.ts";
export { fetchDevToken, type HttpApi, type NewConversation } from "./http.ts";
export { activityOf, type ListView } from "./list.ts";
export { MOST_WAITING, type Outgoing, type OutgoingState } from "./outbox.ts";
export type { TimelineView } from "./timeline.ts";
export { expiryOf, subjectOf, type TokenSource } from "./tokens.ts";
export type { Transport } from "./transports.ts";
export type {
  ClientMessageId,
  Conversation,
  ConversationId,
  Gap,
  Message,
  MessageId,
  Notification,
  Presence,
  PresenceStatus,
  Status,
  UserId,
} from "./types.ts";
export { type Readable, Value } from "./value.ts";
export type { Device, PushSetup } from "./wire.ts";
