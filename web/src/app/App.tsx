import { useCallback, useState } from "react";

import { Chat } from "./Chat.tsx";
import { recallSession, rememberSession, type SignedIn } from "./session.ts";
import { SignIn } from "./SignIn.tsx";

export function App() {
  const [session, setSession] = useState(recallSession);
  const [why, setWhy] = useState("");

  const signedIn = (chosen: SignedIn): void => {
    rememberSession(chosen);
    setSession(chosen);
  };

  const signedOut = useCallback((reason: string): void => {
    rememberSession(null);
    history.replaceState(null, "", location.pathname);
    setWhy(reason);
    setSession(null);
  }, []);

  if (session === null) return <SignIn why={why} onSignedIn={signedIn} />;
  return <Chat key={session.userId} session={session} onSignedOut={signedOut} />;
}
