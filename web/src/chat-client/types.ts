// The values of the chat as docs/wire.md has them, and nothing that does anything.

declare const brand: unique symbol;
type Brand<Name extends string> = string & { readonly [brand]: Name };

export type UserId = Brand<"UserId">;
export type ConversationId = Brand<"ConversationId">;
export type MessageId = Brand<"MessageId">;
// Chosen here, once for each message; a repeat under the same one is harmless.
export type ClientMessageId = Brand<"ClientMessageId">;

export type Status = "sent" | "delivered" | "seen";
export type PresenceStatus = "online" | "away" | "busy" | "offline" | "unknown";

export interface Message {
  readonly messageId: MessageId;
  readonly conversationId: ConversationId;
  // 1, 2, 3, … in its conversation, without a hole.
  readonly seq: number;
  readonly senderId: UserId;
  readonly content: string;
  readonly clientMessageId: ClientMessageId;
  // Milliseconds since 1970.
  readonly sentAt: number;
}

// What every other member has reached, where it is known.
export interface StatedMessage extends Message {
  readonly status: Status;
}

export interface Conversation {
  readonly conversationId: ConversationId;
  readonly type: "direct" | "group";
  readonly title: string | null;
  readonly memberIds: readonly UserId[];
  readonly createdAt: number;
  readonly lastMessage: Message | null;
  readonly headSeq: number;
  readonly readSeq: number;
  readonly unreadCount: number;
  readonly muted: boolean;
}

export interface Page {
  // Ascending by seq.
  readonly messages: readonly StatedMessage[];
  readonly headSeq: number;
}

export interface Presence {
  readonly userId: UserId;
  readonly status: PresenceStatus;
  readonly lastActiveAt: number | null;
}

export interface Gap {
  readonly fromSeq: number;
  readonly toSeq: number;
}

export interface Notification {
  readonly conversationId: ConversationId;
  readonly messageId: MessageId;
  readonly seq: number;
  readonly senderId: UserId;
  readonly preview: string;
  readonly unreadCount: number;
}

export type ConversationEvent =
  | { readonly event: "message"; readonly message: StatedMessage }
  | { readonly event: "status"; readonly userId: UserId; readonly status: Status; readonly seq: number }
  | { readonly event: "typing"; readonly userId: UserId; readonly typing: boolean }
  | { readonly event: "gap"; readonly gap: Gap };

export type UserEvent =
  | { readonly event: "presence"; readonly presence: Presence }
  | { readonly event: "notification"; readonly notification: Notification }
  | {
      readonly event: "unread";
      readonly conversationId: ConversationId;
      readonly unreadCount: number;
      readonly readSeq: number;
    };

export type RefusalCode =
  | "INVALID_ARGUMENT"
  | "UNAUTHENTICATED"
  | "FORBIDDEN"
  | "CONFLICT"
  | "RATE_LIMITED"
  | "TOO_LARGE"
  | "UNAVAILABLE"
  | "INTERNAL";
