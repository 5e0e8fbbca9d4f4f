import { useState, type FormEvent } from "react";

import { Refusal } from "../chat-client/index.ts";
import { signInAs, signInWith, type SignedIn } from "./session.ts";

interface Props {
  // Why one was signed out.
  readonly why: string;
  readonly onSignedIn: (session: SignedIn) => void;
}

export function SignIn({ why, onSignedIn }: Props) {
  const [wantsToken, setWantsToken] = useState(false);
  const [problem, setProblem] = useState(why);
  const [isBusy, setIsBusy] = useState(false);

  const submit = async (event: FormEvent<HTMLFormElement>): Promise<void> => {
    event.preventDefault();
    const given = String(new FormData(event.currentTarget).get("who") ?? "").trim();
    setProblem("");
    if (wantsToken) {
      const session = signInWith(given);
      if (session === null) setProblem("That is not a token.");
      else onSignedIn(session);
      return;
    }
    setIsBusy(true);
    try {
      onSignedIn(await signInAs(given));
    } catch (error) {
      setIsBusy(false);
      // A server that gives out no tokens has no such path.
      const hasNone = error instanceof Refusal && error.code !== "UNAVAILABLE";
      setWantsToken(hasNone);
      if (!hasNone) setProblem("The server cannot be reached. Try again in a moment.");
    }
  };

  return (
    <main className="sign-in">
      <form onSubmit={(event) => void submit(event)}>
        <img src="/icon.svg" alt="" width="44" height="44" />
        <h1>Parley</h1>
        {wantsToken ? (
          <label>
            Your token
            <input key="token" name="who" type="password" required autoFocus autoComplete="off" />
          </label>
        ) : (
          <label>
            Your name
            <input
              key="name"
              name="who"
              required
              autoFocus
              maxLength={64}
              pattern="[A-Za-z0-9._@\-]+"
              title="letters, digits and . _ - @"
              autoComplete="username"
              autoCapitalize="none"
              spellCheck={false}
            />
          </label>
        )}
        <p className="hint">
          {wantsToken
            ? "This server gives out no development tokens. Paste one of your own."
            : "Letters, digits and . _ - @. Anybody may be anybody here: this is a development server."}
        </p>
        <button className="primary" disabled={isBusy}>
          {isBusy ? "Signing in…" : "Sign in"}
        </button>
        <p className="problem" role="alert">
          {problem}
        </p>
      </form>
    </main>
  );
}
