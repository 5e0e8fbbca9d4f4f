import { useEffect, useRef, useState, type KeyboardEvent } from "react";

import type { ChatClient, Conversation, ConversationId, PresenceStatus } from "../chat-client/index.ts";
import { activityOf } from "../chat-client/index.ts";
import { Avatar } from "./Avatar.tsx";
import { formatRecent, othersOf, previewOf, titleOf } from "./format.ts";
import { useMinute, useValue } from "./hooks.ts";
import { MoreIcon, MutedIcon, PlusIcon } from "./icons.tsx";
import { Menu, type MenuEntry } from "./Menu.tsx";
import { readPushState, switchPushOff, switchPushOn, type PushState } from "./push.ts";

interface Props {
  readonly client: ChatClient;
  readonly open: ConversationId | "";
  readonly onNew: () => void;
  readonly onSignOut: () => void;
  readonly onProblem: (text: string) => void;
}

export function Sidebar({ client, open, onNew, onSignOut, onProblem }: Props) {
  const ownStatus = useValue(client.ownStatus);
  const connection = useValue(client.connection);
  const shown = connection.name === "online" ? ownStatus : "offline";
  const push = usePush(client, onProblem);
  return (
    <aside className="sidebar" aria-label="Conversations">
      <header className="bar">
        <Avatar name={client.userId} presence={shown} />
        <div className="who">
          <strong>{client.userId}</strong>
          <span>{shown}</span>
        </div>
        <button type="button" className="icon" aria-label="New conversation" title="New conversation" onClick={onNew}>
          <PlusIcon />
        </button>
        <Menu
          label="You"
          button={<MoreIcon />}
          entries={[...statusEntries(client, ownStatus), ...push, { text: "Sign out", act: onSignOut }]}
        />
      </header>
      <List client={client} open={open} />
    </aside>
  );
}

function statusEntries(client: ChatClient, now: PresenceStatus): MenuEntry[] {
  return (["online", "away", "busy"] as const).map((status) => ({
    text: status[0]!.toUpperCase() + status.slice(1),
    isChecked: now === status,
    act: () => client.setStatus(status),
  }));
}

function usePush(client: ChatClient, onProblem: (text: string) => void): MenuEntry[] {
  const [state, setState] = useState<PushState>("unavailable");
  useEffect(() => {
    readPushState(client).then(setState, () => setState("unavailable"));
  }, [client]);
  if (state === "unavailable") return [];
  const change = async (): Promise<void> => {
    try {
      setState(await (state === "on" ? switchPushOff(client) : switchPushOn(client)));
    } catch (error) {
      onProblem(`Push notifications could not be changed: ${error instanceof Error ? error.message : "unknown"}`);
    }
  };
  return [
    {
      text: state === "denied" ? "Notifications are blocked by the browser" : "Notify me when I am away",
      isChecked: state === "on",
      isDisabled: state === "denied",
      act: () => void change(),
    },
  ];
}

function List({ client, open }: { client: ChatClient; open: ConversationId | "" }) {
  const { conversations, status } = useValue(client.conversations);
  const list = useRef<HTMLUListElement>(null);
  useMinute();

  const onKeyDown = (event: KeyboardEvent): void => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    const links = [...(list.current?.querySelectorAll("a") ?? [])];
    const at = links.indexOf(document.activeElement as HTMLAnchorElement);
    if (step === undefined || at < 0) return;
    event.preventDefault();
    links[Math.min(links.length - 1, Math.max(0, at + step))]?.focus();
  };

  if (conversations.length === 0) {
    return <p className="empty">{status === "loading" ? "Loading…" : "No conversations yet. Begin one with the + above."}</p>;
  }
  return (
    <nav aria-label="Conversations">
      <ul ref={list} onKeyDown={onKeyDown}>
        {conversations.map((conversation) => (
          <Entry
            key={conversation.conversationId}
            client={client}
            conversation={conversation}
            isOpen={conversation.conversationId === open}
          />
        ))}
      </ul>
    </nav>
  );
}

function Entry({ client, conversation, isOpen }: { client: ChatClient; conversation: Conversation; isOpen: boolean }) {
  const presence = useValue(client.presence);
  const me = client.userId;
  const title = titleOf(conversation, me);
  const other = conversation.type === "direct" ? othersOf(conversation, me)[0] : undefined;
  const status = other === undefined ? undefined : presence.get(other)?.status;
  const { unreadCount, muted } = conversation;
  const activity = activityOf(conversation);
  return (
    <li>
      <a href={`#${conversation.conversationId}`} aria-current={isOpen ? "true" : undefined} data-unread={unreadCount > 0}>
        <Avatar name={title} presence={status} />
        <span className="who">
          <span className="line">
            <strong>{title}</strong>
            {muted && <MutedIcon />}
            <time dateTime={new Date(activity).toISOString()}>{formatRecent(activity)}</time>
          </span>
          <span className="line">
            <span className="preview">{previewOf(conversation, me)}</span>
            {unreadCount > 0 && (
              <span className="badge" data-muted={muted || undefined}>
                {unreadCount > 99 ? "99+" : unreadCount}
                <span className="hidden"> unread</span>
              </span>
            )}
          </span>
        </span>
        {(status === "online" || status === "away" || status === "busy") && <span className="hidden">, {status}</span>}
      </a>
    </li>
  );
}
