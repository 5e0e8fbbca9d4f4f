import { useEffect } from "react";

import type { ConversationId } from "../chat-client/index.ts";
import { CloseIcon } from "./icons.tsx";

const SHOWN_MS = 6_000;

export interface Toast {
  // One with the same id takes its place.
  readonly id: string;
  // Empty: it is no message.
  readonly who: string;
  readonly text: string;
  readonly opens: ConversationId | null;
}

export function Toasts({ toasts, onDismiss }: { toasts: readonly Toast[]; onDismiss: (id: string) => void }) {
  return (
    <div className="toasts" role="status" aria-label="News">
      {toasts.map((toast) => (
        <OneToast key={toast.id} toast={toast} onDismiss={onDismiss} />
      ))}
    </div>
  );
}

function OneToast({ toast, onDismiss }: { toast: Toast; onDismiss: (id: string) => void }) {
  useEffect(() => {
    const timer = setTimeout(() => onDismiss(toast.id), SHOWN_MS);
    return () => clearTimeout(timer);
  }, [toast, onDismiss]);

  const content = (
    <>
      {toast.who !== "" && <strong>{toast.who}</strong>}
      <span>{toast.text}</span>
    </>
  );
  return (
    <div className="toast">
      {toast.opens === null ? (
        <p>{content}</p>
      ) : (
        <a href={`#${toast.opens}`} onClick={() => onDismiss(toast.id)}>
          {content}
        </a>
      )}
      <button type="button" className="icon" aria-label="Dismiss" onClick={() => onDismiss(toast.id)}>
        <CloseIcon size={16} />
      </button>
    </div>
  );
}
