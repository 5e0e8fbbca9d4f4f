import { useEffect, useRef, useState, type FormEvent, type KeyboardEvent } from "react";

import type { ConversationId } from "../chat-client/index.ts";
import { SendIcon } from "./icons.tsx";

// wire.md, "Limits".
const MAX_CONTENT_BYTES = 16 * 1024;
// Who pauses that long does not type any more.
const PAUSE_MS = 5_000;

// What was begun and not sent, by conversation, for as long as the page is open.
const drafts = new Map<ConversationId, string>();
const encoder = new TextEncoder();

interface Props {
  readonly id: ConversationId;
  // False: it was not taken, the text stays.
  readonly onSend: (content: string) => boolean;
  readonly onTyping: (typing: boolean) => void;
}

export function Composer({ id, onSend, onTyping }: Props) {
  const [text, setText] = useState(drafts.get(id) ?? "");
  const field = useRef<HTMLTextAreaElement>(null);
  const pauseTimer = useRef<ReturnType<typeof setTimeout>>(undefined);
  const excess = encoder.encode(text).length - MAX_CONTENT_BYTES;

  useEffect(() => {
    // A keyboard that would slide in is left to the person.
    if (matchMedia("(pointer: fine)").matches) field.current?.focus();
    return () => clearTimeout(pauseTimer.current);
  }, []);

  const change = (value: string): void => {
    setText(value);
    drafts.set(id, value);
    clearTimeout(pauseTimer.current);
    onTyping(value.trim() !== "");
    pauseTimer.current = setTimeout(() => onTyping(false), PAUSE_MS);
  };

  const submit = (event: FormEvent): void => {
    event.preventDefault();
    if (text.trim() === "" || excess > 0 || !onSend(text.trim())) return;
    change("");
    field.current?.focus();
  };

  const onKeyDown = (event: KeyboardEvent<HTMLTextAreaElement>): void => {
    if (event.key === "Escape") field.current?.blur();
    if (event.key !== "Enter" || event.shiftKey || event.nativeEvent.isComposing) return;
    event.preventDefault();
    event.currentTarget.form?.requestSubmit();
  };

  return (
    <form className="composer" onSubmit={submit}>
      <textarea
        ref={field}
        rows={1}
        value={text}
        placeholder="Message"
        aria-label="Message"
        aria-describedby={excess > 0 ? "too-long" : undefined}
        enterKeyHint="send"
        onChange={(event) => change(event.target.value)}
        onKeyDown={onKeyDown}
      />
      {excess > 0 && (
        <p className="problem" id="too-long" role="alert">
          {excess.toLocaleString()} bytes too long
        </p>
      )}
      <button className="send" aria-label="Send" disabled={text.trim() === "" || excess > 0}>
        <SendIcon />
      </button>
    </form>
  );
}
