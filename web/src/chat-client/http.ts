// The HTTP API: each call typed, refusals as Refusal, a broken connection as Lost. A refused token is renewed once.

import { Lost, Refusal } from "./errors.ts";
import type { Tokens } from "./tokens.ts";
import type { Conversation, ConversationId, Page, UserId } from "./types.ts";
import { Value, type Readable } from "./value.ts";
import {
  parseConversation,
  parseConversations,
  parseDevice,
  parsePage,
  parsePushSetup,
  parseRefusal,
  parseToken,
  type Device,
  type PushSetup,
  type Token,
} from "./wire.ts";

// The server bounds its own calls at less.
const TIMEOUT_MS = 20_000;
const PREFIX = "/api/v1";
// As many as the server gives at once.
export const LARGEST_PAGE = 200;
const LARGEST_LIST = 100;
// More than anybody scrolls through; what comes later is found by its messages.
const MOST_CONVERSATIONS = 500;

export interface NewConversation {
  readonly type: "direct" | "group";
  readonly memberIds: readonly string[];
  readonly title?: string;
}

interface Options {
  readonly body?: unknown;
  readonly headers?: Readonly<Record<string, string>>;
}

export class HttpApi {
  readonly #base: string;
  readonly #tokens: Tokens;
  readonly #staleMs = new Value<number | null>(null);

  // `base` is the origin of the server, without a slash at its end.
  constructor(base: string, tokens: Tokens) {
    this.#base = base;
    this.#tokens = tokens;
  }

  // How old the latest answer was that came from a cache; null: the latest was live.
  get staleMs(): Readable<number | null> {
    return this.#staleMs;
  }

  // Newest activity first.
  async listConversations(): Promise<Conversation[]> {
    const found: Conversation[] = [];
    let cursor: string | null = null;
    do {
      const query = new URLSearchParams({ limit: String(LARGEST_LIST), ...(cursor === null ? {} : { cursor }) });
      const page: { conversations: Conversation[]; nextCursor: string | null } = await this.#call(
        "GET",
        `/conversations?${query}`,
        parseConversations,
      );
      found.push(...page.conversations);
      cursor = page.nextCursor;
    } while (cursor !== null && found.length < MOST_CONVERSATIONS);
    return found;
  }

  getConversation(id: ConversationId): Promise<Conversation> {
    return this.#call("GET", pathOf(id), parseConversation);
  }

  // `key`: the same one makes one conversation.
  createConversation(wanted: NewConversation, key: string): Promise<Conversation> {
    return this.#call("POST", "/conversations", parseConversation, {
      body: wanted,
      headers: { "Idempotency-Key": key },
    });
  }

  readMessages(id: ConversationId, range: { afterSeq?: number; beforeSeq?: number; limit: number }): Promise<Page> {
    const query = new URLSearchParams(Object.entries(range).map(([name, value]) => [name, String(value)]));
    return this.#call("GET", `${pathOf(id)}/messages?${query}`, parsePage);
  }

  setMuted(id: ConversationId, muted: boolean): Promise<void> {
    return this.#call(muted ? "PUT" : "DELETE", `${pathOf(id)}/mute`, nothing);
  }

  leave(id: ConversationId, user: UserId): Promise<void> {
    return this.#call("DELETE", `${pathOf(id)}/members/${encodeURIComponent(user)}`, nothing);
  }

  // Raises Refusal where the server has no push.
  getPushSetup(): Promise<PushSetup> {
    return this.#call("GET", "/push", parsePushSetup);
  }

  registerWebPush(subscription: PushSubscriptionJSON): Promise<Device> {
    const { endpoint, keys } = subscription;
    return this.#call("POST", "/devices", parseDevice, { body: { platform: "webpush", endpoint, keys } });
  }

  removeDevice(deviceId: string): Promise<void> {
    return this.#call("DELETE", `/devices/${encodeURIComponent(deviceId)}`, nothing);
  }

  async #call<T>(method: string, path: string, parse: (body: unknown) => T, options: Options = {}): Promise<T> {
    const token = this.#tokens.current;
    try {
      return await this.#callWith(token, method, path, parse, options);
    } catch (error) {
      if (!(error instanceof Refusal) || error.code !== "UNAUTHENTICATED") throw error;
      return this.#callWith(await this.#tokens.renew(token), method, path, parse, options);
    }
  }

  async #callWith<T>(
    token: string,
    method: string,
    path: string,
    parse: (body: unknown) => T,
    options: Options,
  ): Promise<T> {
    const headers = { ...options.headers, Authorization: `Bearer ${token}` };
    const { response, body } = await request(this.#base, method, path, { ...options, headers });
    const stale = response.headers.get("x-stale-ms");
    this.#staleMs.set(stale === null ? null : Number(stale));
    return parse(body);
  }
}

// Development servers only; Refusal elsewhere.
export async function fetchDevToken(base: string, userId: string): Promise<Token> {
  return parseToken((await request(base, "POST", "/dev/token", { body: { userId } })).body);
}

async function request(
  base: string,
  method: string,
  path: string,
  { body, headers }: Options,
): Promise<{ response: Response; body: unknown }> {
  const withBody =
    body === undefined ? {} : { body: JSON.stringify(body), headers: { ...headers, "Content-Type": "application/json" } };
  const signal = AbortSignal.timeout(TIMEOUT_MS);
  let response: Response;
  let text: string;
  try {
    response = await fetch(`${base}${PREFIX}${path}`, { method, signal, ...(headers && { headers }), ...withBody });
    text = await response.text();
  } catch (error) {
    throw Object.assign(new Lost(`${method} ${path.split("?")[0]}`), { cause: error });
  }
  const read = parseJson(text);
  if (!response.ok) throw parseRefusal(read, `the server answered ${response.status}`);
  return { response, body: read };
}

function parseJson(text: string): unknown {
  try {
    return text === "" ? null : JSON.parse(text);
  } catch {
    return null; // a proxy's own page; whoever parses the answer says what was expected
  }
}

const pathOf = (id: ConversationId): string => `/conversations/${encodeURIComponent(id)}`;

const nothing = (): void => {};
