// WebSocket, or SockJS where there is none to be had: which one to try next.
//
// WebSocket comes first, always. After two failures in a row each try at it is followed at once by one at SockJS, so that
// an edge that is just starting does not send anybody to polling, and a proxy that refuses upgrades costs two tries.

export type Transport = "websocket" | "polling";

const FAILURES_BEFORE_POLLING = 2;

export class TransportChoice {
  #failures = 0;
  #isPollingNext = false;

  get next(): Transport {
    return this.#isPollingNext ? "polling" : "websocket";
  }

  // It never came to a STOMP session. True: there is another transport to try at once.
  failed(transport: Transport): boolean {
    if (transport === "polling") {
      this.#isPollingNext = false;
      return false;
    }
    this.#failures += 1;
    this.#isPollingNext = this.#failures >= FAILURES_BEFORE_POLLING;
    return this.#isPollingNext;
  }

  opened(transport: Transport): void {
    this.#isPollingNext = false;
    if (transport === "websocket") this.#failures = 0;
  }
}

// The WebSocket address of the server at `base`.
export function webSocketUrl(base: string): string {
  const url = new URL("/ws", base);
  url.protocol = url.protocol.replace("http", "ws");
  return url.href;
}

// Whether a WebSocket to there opens; closes it again at once.
export function canOpenWebSocket(base: string, timeoutMs: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = new WebSocket(webSocketUrl(base), ["v12.stomp"]);
    const timer = setTimeout(() => end(false), timeoutMs);
    const end = (can: boolean): void => {
      clearTimeout(timer);
      socket.onopen = socket.onerror = socket.onclose = null;
      socket.close();
      resolve(can);
    };
    socket.onopen = () => end(true);
    socket.onerror = socket.onclose = () => end(false);
  });
}
