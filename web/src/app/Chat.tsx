// One person's page: makes the client and tears it down, and holds the two panes together.

import { useCallback, useEffect, useState } from "react";

import { ChatClient, type ConversationId, type Notification } from "../chat-client/index.ts";
import { Banner } from "./Banner.tsx";
import { ConversationPane } from "./ConversationPane.tsx";
import { useHash, useIsLookedAt, useValue } from "./hooks.ts";
import { NewConversation } from "./NewConversation.tsx";
import { showNotification } from "./push.ts";
import { BASE, renewToken, type SignedIn } from "./session.ts";
import { Sidebar } from "./Sidebar.tsx";
import { Toasts, type Toast } from "./Toasts.tsx";

// More would cover the conversation.
const MOST_TOASTS = 3;

interface Props {
  readonly session: SignedIn;
  readonly onSignedOut: (why: string) => void;
}

export function Chat({ session, onSignedOut }: Props) {
  const [client, setClient] = useState<ChatClient | null>(null);
  const [toasts, setToasts] = useState<readonly Toast[]>([]);

  const addToast = useCallback((toast: Toast): void => {
    setToasts((shown) => [...shown.filter(({ id }) => id !== toast.id), toast].slice(-MOST_TOASTS));
  }, []);

  const onNotification = useCallback(
    async (note: Notification): Promise<void> => {
      if (document.hidden && (await showNotification(note))) return;
      addToast({ id: note.conversationId, who: note.senderId, text: note.preview, opens: note.conversationId });
    },
    [addToast],
  );

  useEffect(() => {
    const made = new ChatClient({
      base: BASE,
      userId: session.userId,
      token: session.token,
      newToken: () => renewToken(session),
      onNotification: (note) => void onNotification(note),
    });
    made.start();
    setClient(made);
    return () => made.stop();
  }, [session, onNotification]);

  // What is open needs no pointing to.
  const open = useHash();
  useEffect(() => setToasts((shown) => shown.filter(({ opens }) => opens === null || opens !== open)), [open]);

  const dismiss = useCallback((id: string): void => setToasts((shown) => shown.filter((toast) => toast.id !== id)), []);

  const onProblem = useCallback(
    (text: string): void => addToast({ id: text, who: "", text, opens: null }),
    [addToast],
  );

  if (client === null) return null;
  return (
    <>
      <Panes client={client} onSignedOut={onSignedOut} onProblem={onProblem} />
      <Toasts toasts={toasts} onDismiss={dismiss} />
    </>
  );
}

interface PanesProps {
  readonly client: ChatClient;
  readonly onSignedOut: (why: string) => void;
  readonly onProblem: (text: string) => void;
}

function Panes({ client, onSignedOut, onProblem }: PanesProps) {
  const open = useHash() as ConversationId | "";
  const connection = useValue(client.connection);
  const problem = useValue(client.problem);
  const isLookedAt = useIsLookedAt();
  const [isCreating, setIsCreating] = useState(false);

  useEffect(() => {
    if (connection.name === "stopped" && connection.why !== null) onSignedOut(connection.why);
  }, [connection, onSignedOut]);
  useEffect(() => {
    if (problem !== null) onProblem(problem);
  }, [problem, onProblem]);
  useEffect(() => client.setLookedAt(isLookedAt), [client, isLookedAt]);
  useEffect(() => {
    const hurry = (): void => client.hurry();
    addEventListener("online", hurry);
    return () => removeEventListener("online", hurry);
  }, [client]);
  useTitle(client);

  const signOut = (): void => {
    void client.forget();
    onSignedOut("");
  };

  return (
    <div className="panes" data-open={open === "" ? undefined : ""}>
      <Sidebar client={client} open={open} onNew={() => setIsCreating(true)} onSignOut={signOut} onProblem={onProblem} />
      <main className="main">
        <Banner client={client} />
        {open === "" ? (
          <p className="nothing-open">Choose a conversation, or begin a new one.</p>
        ) : (
          <ConversationPane key={open} client={client} id={open} onProblem={onProblem} />
        )}
      </main>
      {isCreating && (
        <NewConversation
          client={client}
          onCreated={(id) => {
            setIsCreating(false);
            location.hash = id;
          }}
          onClose={() => setIsCreating(false)}
        />
      )}
    </div>
  );
}

function useTitle(client: ChatClient): void {
  const { conversations } = useValue(client.conversations);
  const unread = conversations.filter(({ unreadCount, muted }) => unreadCount > 0 && !muted).length;
  useEffect(() => {
    document.title = unread === 0 ? "Parley" : `(${unread}) Parley`;
  }, [unread]);
}
