// One message, and a block of them.

import { Fragment, memo, useLayoutEffect, useRef, type ReactNode } from "react";

import type { ClientMessageId, Message, Outgoing, Status, UserId } from "../chat-client/index.ts";
import { dayOf, formatDay, formatTime } from "./format.ts";
import { AlertIcon, ClockIcon, TickIcon, TwoTicksIcon } from "./icons.tsx";

// Messages of one person within this time belong together.
const TOGETHER_MS = 300_000;

interface BlockProps {
  readonly me: UserId;
  readonly messages: readonly Message[];
  // The one just before the first.
  readonly before: Message | undefined;
  readonly isGroup: boolean;
  // Of this block: neither before its first (less one) nor behind its last.
  readonly deliveredSeq: number;
  readonly seenSeq: number;
}

export const MessageBlock = memo(function MessageBlock(props: BlockProps) {
  const { me, messages, before, isGroup, deliveredSeq, seenSeq } = props;
  const block = useRef<HTMLOListElement>(null);

  // Measured once it is drawn: a block that is skipped afterwards takes exactly the room that it would.
  useLayoutEffect(() => {
    const { style } = block.current!;
    style.contentVisibility = "visible";
    style.containIntrinsicBlockSize = `auto ${block.current!.getBoundingClientRect().height}px`;
    style.contentVisibility = "auto";
  }, [messages.length, messages[0], before]);

  return (
    <ol className="block" ref={block}>
      {messages.map((message, index) => {
        const previous = messages[index - 1] ?? before;
        const isNewDay = previous === undefined || dayOf(previous.sentAt) !== dayOf(message.sentAt);
        const missing = previous === undefined ? 0 : message.seq - previous.seq - 1;
        const goesOn = !isNewDay && missing === 0 && belongTogether(previous, message);
        const isMine = message.senderId === me;
        const reached = message.seq <= deliveredSeq ? "delivered" : "sent";
        const status = message.seq <= seenSeq ? "seen" : reached;
        return (
          <Fragment key={message.seq}>
            {missing > 0 && <li className="missing">Loading {missing.toLocaleString()} messages…</li>}
            {isNewDay && (
              <li className="day">
                <span>{formatDay(message.sentAt)}</span>
              </li>
            )}
            <li className="message" data-seq={message.seq} data-mine={isMine || undefined} data-goes-on={goesOn || undefined}>
              {isGroup && !isMine && !goesOn && <p className="sender">{message.senderId}</p>}
              {(!isGroup || isMine || goesOn) && <span className="hidden">{isMine ? "You" : message.senderId}: </span>}
              <Bubble content={message.content} at={message.sentAt}>
                {isMine && <Ticks status={status} />}
              </Bubble>
            </li>
          </Fragment>
        );
      })}
    </ol>
  );
}, isSameBlock);

// Messages never change, so a block with the same ends and the same count has the same messages.
function isSameBlock(a: BlockProps, b: BlockProps): boolean {
  return (
    a.messages.length === b.messages.length &&
    a.messages[0] === b.messages[0] &&
    a.messages.at(-1) === b.messages.at(-1) &&
    a.before === b.before &&
    a.deliveredSeq === b.deliveredSeq &&
    a.seenSeq === b.seenSeq &&
    a.isGroup === b.isGroup
  );
}

function belongTogether(a: Message, b: Message): boolean {
  return a.senderId === b.senderId && b.sentAt - a.sentAt < TOGETHER_MS;
}

// The text as text, to the letter.
function Bubble({ content, at, children }: { content: string; at: number; children?: ReactNode }) {
  return (
    <div className="bubble">
      <span className="content" dir="auto">
        {content}
      </span>
      <span className="meta">
        <time dateTime={new Date(at).toISOString()}>{formatTime(at)}</time>
        {children}
      </span>
    </div>
  );
}

function Ticks({ status }: { status: Status }) {
  return (
    <span className="ticks" data-status={status} title={status}>
      {status === "sent" ? <TickIcon /> : <TwoTicksIcon />}
      <span className="hidden">{status}</span>
    </span>
  );
}

interface OutgoingProps {
  readonly message: Outgoing;
  readonly onRetry: (id: ClientMessageId) => void;
  readonly onDiscard: (id: ClientMessageId) => void;
}

export function OutgoingMessage({ message, onRetry, onDiscard }: OutgoingProps) {
  const { clientMessageId: id, state } = message;
  return (
    <li className="message outgoing" data-mine="" data-state={state} data-goes-on="">
      <span className="hidden">You: </span>
      <Bubble content={message.content} at={message.writtenAt}>
        {state === "sent" && <Ticks status="sent" />}
        {(state === "queued" || state === "sending") && (
          <span className="ticks" data-status={state} title={state}>
            <ClockIcon />
            <span className="hidden">{state}</span>
          </span>
        )}
        {state === "refused" && (
          <span className="ticks" data-status="refused">
            <AlertIcon />
          </span>
        )}
      </Bubble>
      {state === "refused" && (
        <p className="refusal" role="alert">
          Not sent: {message.problem}{" "}
          <button type="button" className="link" onClick={() => onRetry(id)}>
            Try again
          </button>{" "}
          <button type="button" className="link" onClick={() => onDiscard(id)}>
            Discard
          </button>
        </p>
      )}
    </li>
  );
}
