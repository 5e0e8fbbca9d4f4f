// One STOMP connection on @stomp/stompjs, from CONNECT to its end; who wants another one opens another one.
//
// Every SUBSCRIBE and request asks for a receipt, and settles by it, by the refusal on /user/queue/errors, or by the end
// of the connection. Nothing here knows of chat.

import { Client, StompHeaders, Versions, type IFrame, type IMessage, type IStompSocket } from "@stomp/stompjs";

import type { Cancel, Clock } from "./clock.ts";
import { newId } from "./clock.ts";
import { Lost, type Refusal } from "./errors.ts";
import { webSocketUrl, type Transport } from "./transports.ts";
import { parseRefusal } from "./wire.ts";

const ERRORS = "/user/queue/errors";
// Timers of a hidden page may run only once a minute, so beats are promised that seldom.
const BEAT_MS = 50_000;
const WANTED_BEAT_MS = 10_000;
const OPEN_TIMEOUT_MS = 10_000;
// The server answers everything; who waits longer talks to nobody.
const ANSWER_TIMEOUT_MS = 20_000;
// RFC 6455, 7.4.1: closed without a close frame.
const CLOSED_ABNORMALLY = 1006;

export type Receipt = Readonly<Record<string, string>>;

export interface Subscription {
  // Once it is live. Rejects with Refusal or Lost.
  readonly live: Promise<Receipt>;
  end(): void;
}

export interface Session {
  readonly transport: Transport;
  // Rejects with Refusal or Lost; a RECEIPT is the promise that it is durable.
  request(destination: string, body: object): Promise<Receipt>;
  subscribe(destination: string, onBody: (body: unknown) => void, headers?: Readonly<Record<string, string>>): Subscription;
  // Politely where it is connected.
  close(): void;
}

export interface End {
  readonly wasConnected: boolean;
  readonly code: number;
  // Of the ERROR frame, where the server said why.
  readonly refusal: Refusal | null;
}

export interface SessionEvents {
  onConnected(session: Session): void;
  // Once, whatever happens; never inside the call that opened it.
  onEnd(end: End): void;
  // A refusal that answers no request: something that was granted is taken away.
  onRefusal(refusal: Refusal): void;
}

export type OpenSession = (transport: Transport, token: string, events: SessionEvents) => Session;

export function stompOver(base: string, clock: Clock): OpenSession {
  return (transport, token, events) => new StompSession(base, transport, token, clock, events);
}

interface Pending {
  readonly what: string;
  readonly resolve: (receipt: Receipt) => void;
  readonly reject: (error: Error) => void;
  readonly cancelTimer: Cancel;
}

class StompSession implements Session {
  readonly transport: Transport;
  readonly #clock: Clock;
  readonly #events: SessionEvents;
  readonly #client: Client;
  readonly #pending = new Map<string, Pending>();
  #cancelTimer: Cancel;
  #wasConnected = false;
  #isOver = false;
  #refusal: Refusal | null = null;

  constructor(base: string, transport: Transport, token: string, clock: Clock, events: SessionEvents) {
    this.transport = transport;
    this.#clock = clock;
    this.#events = events;
    this.#client = new Client({
      ...(transport === "websocket" && { brokerURL: webSocketUrl(base) }),
      stompVersions: new Versions([Versions.V1_2]),
      connectHeaders: { host: new URL(base).hostname, Authorization: `Bearer ${token}` },
      heartbeatOutgoing: BEAT_MS,
      heartbeatIncoming: WANTED_BEAT_MS,
      reconnectDelay: 0,
      discardWebsocketOnCommFailure: true,
      onConnect: () => this.#connected(),
      onStompError: (frame) => (this.#refusal = refusalOf(frame)),
      onWebSocketClose: (event: CloseEvent) => this.#end(event.code),
      onUnhandledReceipt: (frame) => this.#settle(frame.headers["receipt-id"], frame),
    });
    this.#cancelTimer = clock.after(OPEN_TIMEOUT_MS, () => this.#abandon());
    if (transport === "websocket") this.#client.activate();
    else void this.#activateSockJs(base);
  }

  // ---- What one can do with it.

  request(destination: string, body: object): Promise<Receipt> {
    return this.#await(destination, (receipt) =>
      this.#client.publish({ destination, body: JSON.stringify(body), headers: { ...JSON_BODY, receipt } }),
    );
  }

  subscribe(
    destination: string,
    onBody: (body: unknown) => void,
    headers: Readonly<Record<string, string>> = {},
  ): Subscription {
    const id = newId();
    const receive = (message: IMessage): void => onBody(JSON.parse(message.body));
    const live = this.#await(destination, (receipt) => {
      this.#client.subscribe(destination, receive, { ...headers, id, receipt });
    });
    // Whoever does not look at it hears of its end by other ways.
    live.catch(() => {});
    return {
      live,
      end: () => {
        if (!this.#isOver && this.#client.connected) this.#client.unsubscribe(id, { receipt: newId() });
      },
    };
  }

  close(): void {
    if (this.#isOver) return;
    if (this.#wasConnected) void this.#client.deactivate();
    else this.#abandon();
  }

  // ---- Its life.

  // Loaded only where it is needed.
  async #activateSockJs(base: string): Promise<void> {
    try {
      const { default: SockJS } = await import("sockjs-client");
      const options = { transports: ["xhr-streaming", "xhr-polling"], sessionId: () => newId() };
      // What SockJS calls a socket lacks only what stompjs looks for and does without.
      this.#client.webSocketFactory = () => new SockJS(`${base}/sockjs`, null, options) as unknown as IStompSocket;
    } catch {
      this.#end(CLOSED_ABNORMALLY); // the part of the program could not be loaded: the server is away
      return;
    }
    if (!this.#isOver) this.#client.activate();
  }

  #connected(): void {
    if (this.#isOver) return;
    this.#cancelTimer();
    this.#wasConnected = true;
    this.subscribe(ERRORS, (body) => this.#refused(parseRefusal(body, "the server refused")));
    this.#events.onConnected(this);
  }

  #refused(refusal: Refusal): void {
    const pending = refusal.receiptId === null ? undefined : this.#take(refusal.receiptId);
    if (pending) pending.reject(refusal);
    else this.#events.onRefusal(refusal);
  }

  #abandon(): void {
    void this.#client.deactivate({ force: true });
    this.#end(CLOSED_ABNORMALLY);
  }

  #end(code: number): void {
    if (this.#isOver) return;
    this.#isOver = true;
    this.#cancelTimer();
    for (const receipt of [...this.#pending.keys()]) {
      const pending = this.#take(receipt);
      pending?.reject(new Lost(pending.what));
    }
    queueMicrotask(() => this.#events.onEnd({ wasConnected: this.#wasConnected, code, refusal: this.#refusal }));
  }

  // ---- Answers.

  #await(what: string, act: (receipt: string) => void): Promise<Receipt> {
    if (this.#isOver || !this.#client.connected) return Promise.reject(new Lost(what));
    const receipt = newId();
    return new Promise((resolve, reject) => {
      const cancelTimer = this.#clock.after(ANSWER_TIMEOUT_MS, () => this.#abandon());
      this.#pending.set(receipt, { what, resolve, reject, cancelTimer });
      act(receipt);
    });
  }

  #settle(receipt: string | undefined, frame: IFrame): void {
    if (receipt !== undefined) this.#take(receipt)?.resolve(frame.headers);
  }

  #take(receipt: string): Pending | undefined {
    const pending = this.#pending.get(receipt);
    this.#pending.delete(receipt);
    pending?.cancelTimer();
    return pending;
  }
}

const JSON_BODY: StompHeaders = { "content-type": "application/json" };

function refusalOf(frame: IFrame): Refusal {
  const said = frame.headers["message"] ?? "the server ended the connection";
  try {
    return parseRefusal(JSON.parse(frame.body), said);
  } catch {
    return parseRefusal(null, said); // the body is for people, and the header has it, too
  }
}
