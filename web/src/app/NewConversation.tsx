import { useEffect, useRef, useState, type FormEvent, type KeyboardEvent } from "react";

import type { ChatClient, ConversationId } from "../chat-client/index.ts";
import { CloseIcon } from "./icons.tsx";

const IS_NAME = /^[A-Za-z0-9._@-]{1,64}$/;
const SEPARATORS = /[\s,;]+/;

interface Props {
  readonly client: ChatClient;
  readonly onCreated: (id: ConversationId) => void;
  readonly onClose: () => void;
}

// One name makes a direct conversation, several make a group.
export function NewConversation({ client, onCreated, onClose }: Props) {
  const dialog = useRef<HTMLDialogElement>(null);
  const [names, setNames] = useState<readonly string[]>([]);
  const [text, setText] = useState("");
  const [title, setTitle] = useState("");
  const [problem, setProblem] = useState("");
  const [isBusy, setIsBusy] = useState(false);

  useEffect(() => dialog.current?.showModal(), []);

  // The names so far with those in the field; null: one cannot be a name.
  const withTyped = (): readonly string[] | null => {
    const typed = text.split(SEPARATORS).filter((name) => name !== "");
    const wrong = typed.find((name) => !IS_NAME.test(name));
    if (wrong !== undefined) {
      setProblem(`“${wrong}” cannot be a name: letters, digits and . _ - @ only.`);
      return null;
    }
    return [...new Set([...names, ...typed])].filter((name) => name !== client.userId);
  };

  const take = (): void => {
    const all = withTyped();
    if (all === null) return;
    setNames(all);
    setText("");
    setProblem("");
  };

  const onKeyDown = (event: KeyboardEvent): void => {
    if (event.nativeEvent.isComposing) return;
    if ([",", ";", " "].includes(event.key)) {
      event.preventDefault();
      take();
    } else if (event.key === "Backspace" && text === "") setNames(names.slice(0, -1));
  };

  const submit = async (event: FormEvent): Promise<void> => {
    event.preventDefault();
    const all = withTyped();
    if (all === null) return;
    if (all.length === 0) {
      setProblem("Write the name of somebody else.");
      return;
    }
    setNames(all);
    setText("");
    setIsBusy(true);
    try {
      const isGroup = all.length > 1 || title.trim() !== "";
      const wanted = isGroup && title.trim() !== "" ? { title: title.trim() } : {};
      const made = await client.create({ type: isGroup ? "group" : "direct", memberIds: all, ...wanted });
      onCreated(made.conversationId);
    } catch (error) {
      setProblem(error instanceof Error ? error.message : "It could not be made.");
      setIsBusy(false);
    }
  };

  return (
    <dialog ref={dialog} aria-labelledby="new-title" onClose={onClose}>
      <form onSubmit={(event) => void submit(event)}>
        <header>
          <h2 id="new-title">New conversation</h2>
          <button type="button" className="icon" aria-label="Close" onClick={onClose}>
            <CloseIcon />
          </button>
        </header>
        <label htmlFor="new-names">With</label>
        <div className="chips">
          {names.map((name) => (
            <span key={name} className="chip">
              {name}
              <button
                type="button"
                aria-label={`Without ${name}`}
                onClick={() => setNames(names.filter((each) => each !== name))}
              >
                <CloseIcon size={12} />
              </button>
            </span>
          ))}
          <input
            id="new-names"
            autoFocus
            value={text}
            aria-describedby="new-hint"
            autoComplete="off"
            autoCapitalize="none"
            spellCheck={false}
            onChange={(event) => setText(event.target.value)}
            onKeyDown={onKeyDown}
          />
        </div>
        <p className="hint" id="new-hint">
          One name, or several for a group.
        </p>
        {names.length > 0 && (names.length > 1 || text.trim() !== "" || title !== "") && (
          <>
            <label htmlFor="new-group">Name of the group</label>
            <input
              id="new-group"
              value={title}
              maxLength={200}
              placeholder="may be left empty"
              onChange={(event) => setTitle(event.target.value)}
            />
          </>
        )}
        <p className="problem" role="alert">
          {problem}
        </p>
        <button className="primary" disabled={isBusy}>
          {names.length > 1 ? "Start the group" : "Start"}
        </button>
      </form>
    </dialog>
  );
}
