// How names, times and texts are shown.

import type { Conversation, Message, Presence, UserId } from "../chat-client/index.ts";

const MINUTE_MS = 60_000;
const DAY_MS = 86_400_000;
const WEEK_DAYS = 7;
const LONGEST_PREVIEW = 160;

const clockTime = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });
const weekday = new Intl.DateTimeFormat(undefined, { weekday: "short" });
const shortDate = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short" });
const longDate = new Intl.DateTimeFormat(undefined, { weekday: "long", day: "numeric", month: "long" });
const fullDate = new Intl.DateTimeFormat(undefined, { weekday: "long", day: "numeric", month: "long", year: "numeric" });
const lastNames = new Intl.ListFormat("en", { style: "long", type: "conjunction" });

export const formatTime = (at: number): string => clockTime.format(at);

// The local day of a time: the same for two times exactly when they are on the same day.
export function dayOf(at: number): number {
  const date = new Date(at);
  return new Date(date.getFullYear(), date.getMonth(), date.getDate()).getTime();
}

// Whole days since, by the calendar; daylight saving makes some of them shorter.
const daysAgo = (at: number): number => Math.round((dayOf(Date.now()) - dayOf(at)) / DAY_MS);

export function formatDay(at: number): string {
  const days = daysAgo(at);
  if (days === 0) return "Today";
  if (days === 1) return "Yesterday";
  return new Date(at).getFullYear() === new Date().getFullYear() ? longDate.format(at) : fullDate.format(at);
}

export function formatRecent(at: number): string {
  const days = daysAgo(at);
  if (days === 0) return formatTime(at);
  if (days === 1) return "Yesterday";
  return days < WEEK_DAYS ? weekday.format(at) : shortDate.format(at);
}

export function othersOf(conversation: Conversation, me: UserId): readonly UserId[] {
  return conversation.memberIds.filter((id) => id !== me);
}

export function titleOf(conversation: Conversation, me: UserId): string {
  if (conversation.title) return conversation.title;
  return othersOf(conversation, me).join(", ") || "Only you";
}

export function previewOf(conversation: Conversation, me: UserId): string {
  const { lastMessage, type } = conversation;
  if (lastMessage === null) return "No messages yet";
  const text = lastMessage.content.slice(0, LONGEST_PREVIEW);
  if (lastMessage.senderId === me) return `You: ${text}`;
  return type === "group" ? `${lastMessage.senderId}: ${text}` : text;
}

export function formatPresence(presence: Presence | undefined): string {
  if (presence === undefined || presence.status === "unknown") return "";
  if (presence.status !== "offline") return presence.status;
  return presence.lastActiveAt === null ? "offline" : `last here ${formatAgo(presence.lastActiveAt)}`;
}

function formatAgo(at: number): string {
  const minutes = Math.floor((Date.now() - at) / MINUTE_MS);
  if (minutes < 1) return "just now";
  if (minutes < 60) return `${minutes} min ago`;
  return daysAgo(at) === 0 ? `at ${formatTime(at)}` : formatRecent(at);
}

export function formatTyping(users: readonly UserId[]): string {
  if (users.length > 3) return "Several people are typing";
  return `${lastNames.format(users)} ${users.length === 1 ? "is" : "are"} typing`;
}

// A message as one says it, for those who do not see the ticks.
export function spoken(message: Message, me: UserId): string {
  return `${message.senderId === me ? "You" : message.senderId}: ${message.content}`;
}
