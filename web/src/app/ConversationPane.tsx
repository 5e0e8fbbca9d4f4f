import { useEffect, useState } from "react";

import {
  type ChatClient,
  type Conversation,
  type ConversationId,
  OutboxFull,
  type WatchedConversation,
} from "../chat-client/index.ts";
import { Avatar } from "./Avatar.tsx";
import { Composer } from "./Composer.tsx";
import { formatPresence, formatTyping, othersOf, titleOf } from "./format.ts";
import { useIsLookedAt, useMinute, useValue } from "./hooks.ts";
import { BackIcon, MoreIcon } from "./icons.tsx";
import { Menu, type MenuEntry } from "./Menu.tsx";
import { MessageList } from "./MessageList.tsx";

interface Props {
  readonly client: ChatClient;
  readonly id: ConversationId;
  readonly onProblem: (text: string) => void;
}

export function ConversationPane({ client, id, onProblem }: Props) {
  const [watched, setWatched] = useState<WatchedConversation | null>(null);
  useEffect(() => {
    setWatched(client.watch(id));
    return () => client.unwatch(id);
  }, [client, id]);
  return watched && <Open client={client} watched={watched} onProblem={onProblem} />;
}

interface OpenProps {
  readonly client: ChatClient;
  readonly watched: WatchedConversation;
  readonly onProblem: (text: string) => void;
}

function Open({ client, watched, onProblem }: OpenProps) {
  const view = useValue(watched.view);
  const listed = useValue(client.conversations).conversations.find((each) => each.conversationId === watched.id);
  const outgoing = useValue(client.outgoing).filter((message) => message.conversationId === watched.id);
  const isLookedAt = useIsLookedAt();
  const [isAtEnd, setIsAtEnd] = useState(true);
  const conversation = listed ?? view.conversation;
  const isEmpty = view.timeline.messages.length === 0 && outgoing.length === 0;

  useEffect(() => {
    if (!isLookedAt || !isAtEnd) return;
    watched.markRead();
    watched.forgetEarlier();
  }, [watched, view.timeline, view.status, isLookedAt, isAtEnd]);

  const send = (content: string): boolean => {
    try {
      client.send(watched.id, content);
      return true;
    } catch (error) {
      if (!(error instanceof OutboxFull)) throw error;
      onProblem(error.message);
      return false;
    }
  };

  if (view.status === "gone") {
    return (
      <div className="nothing-open">
        <p>{view.problem}</p>
        <a href="#">Back to the conversations</a>
      </div>
    );
  }
  return (
    <section className="conversation" aria-label="Conversation">
      {conversation && <Header client={client} conversation={conversation} onProblem={onProblem} />}
      {isEmpty ? (
        <p className="first">{view.status === "loading" ? "Loading…" : "No messages yet. Say hello."}</p>
      ) : (
        <MessageList
          me={client.userId}
          timeline={view.timeline}
          outgoing={outgoing}
          isGroup={conversation?.type === "group"}
          isReadingEarlier={view.isReadingEarlier}
          typing={view.typing.length > 0 ? formatTyping(view.typing) : ""}
          onReadEarlier={() => watched.readEarlier()}
          onAtEnd={setIsAtEnd}
          onRetry={(message) => client.retry(message)}
          onDiscard={(message) => client.discard(message)}
        />
      )}
      <Composer id={watched.id} onSend={send} onTyping={(typing) => watched.setTyping(typing)} />
    </section>
  );
}

interface HeaderProps {
  readonly client: ChatClient;
  readonly conversation: Conversation;
  readonly onProblem: (text: string) => void;
}

function Header({ client, conversation, onProblem }: HeaderProps) {
  const presence = useValue(client.presence);
  useMinute();
  const me = client.userId;
  const { conversationId, type, memberIds, muted } = conversation;
  const title = titleOf(conversation, me);
  const other = type === "direct" ? othersOf(conversation, me)[0] : undefined;
  const theirs = other === undefined ? undefined : presence.get(other);

  const attempt = async (act: () => Promise<unknown>): Promise<void> => {
    try {
      await act();
    } catch (error) {
      onProblem(error instanceof Error ? error.message : "That did not work.");
    }
  };
  const leave = async (): Promise<void> => {
    await client.leave(conversationId);
    location.hash = "";
  };
  const entries: MenuEntry[] = [
    { text: "Mute", isChecked: muted, act: () => void attempt(() => client.setMuted(conversationId, !muted)) },
  ];
  if (type === "group") entries.push({ text: "Leave the group", act: () => void attempt(leave) });

  return (
    <header className="bar">
      <a className="icon back" href="#" aria-label="Back to the conversations">
        <BackIcon />
      </a>
      <Avatar name={title} presence={theirs?.status} />
      <div className="who">
        <h1>{title}</h1>
        <span>{type === "group" ? [...memberIds].sort().join(", ") : formatPresence(theirs)}</span>
      </div>
      <Menu label="This conversation" button={<MoreIcon />} entries={entries} />
    </header>
  );
}
