// Who is signed in, in this tab only: so two tabs can be two people, and closing it leaves nothing behind.

import { fetchDevToken, SignedOut, subjectOf, type UserId } from "../chat-client/index.ts";

const KEY = "parley.session";
export const BASE = location.origin;

export interface SignedIn {
  readonly userId: UserId;
  readonly token: string;
  // The development server gives out tokens for the asking; others do not, and theirs cannot be renewed here.
  readonly isDev: boolean;
}

export function recallSession(): SignedIn | null {
  const kept = sessionStorage.getItem(KEY);
  return kept === null ? null : (JSON.parse(kept) as SignedIn);
}

export function rememberSession(session: SignedIn | null): void {
  if (session === null) sessionStorage.removeItem(KEY);
  else sessionStorage.setItem(KEY, JSON.stringify(session));
}

// Raises Refusal (FORBIDDEN or the like where there are no development tokens) or Lost.
export async function signInAs(name: string): Promise<SignedIn> {
  const { token } = await fetchDevToken(BASE, name);
  return { userId: name as UserId, token, isDev: true };
}

// Null: that is no token.
export function signInWith(token: string): SignedIn | null {
  const subject = subjectOf(token);
  return subject === null ? null : { userId: subject as UserId, token, isDev: false };
}

// For ChatClient.
export async function renewToken(session: SignedIn): Promise<string> {
  if (!session.isDev) throw new SignedOut("Your token has expired. Please sign in again.");
  const { token } = await fetchDevToken(BASE, session.userId);
  rememberSession({ ...session, token });
  return token;
}
