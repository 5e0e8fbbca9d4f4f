// What was written here and is not yet promised by the server: one message after the other, so that they arrive in the
// order they were written, each again under the same clientMessageId until there is an answer.

import { newId } from "./dom.js";

const ANSWER_MS = 10_000;

// send(message)   puts it on the wire; false: there is no connection, `resume` will be called when there is
// changed()       something looks different now
export class Outgoing {
  #send;
  #changed;
  #timer = 0;
  #messages = [];

  constructor(send, changed) {
    this.#send = send;
    this.#changed = changed;
  }

  // The states: waiting, sent (its event has not come yet), failed.
  of(conversationId) {
    return this.#messages.filter((message) => message.conversationId === conversationId);
  }

  add(conversationId, content) {
    this.#messages.push({ id: newId(), conversationId, content, state: "waiting", why: "" });
    this.#changed();
    this.resume();
  }

  // Sends the oldest that waits; also when no answer came, and after a break.
  resume() {
    clearTimeout(this.#timer);
    const next = this.#messages.find((message) => message.state === "waiting");
    if (next && this.#send(next)) this.#timer = setTimeout(() => this.resume(), ANSWER_MS);
  }

  // RECEIPT: durable. It stays to be seen until its event takes its place.
  accepted(id) {
    this.#settle(id, (message) => (message.state = "sent"));
  }

  // Its event is here.
  arrived(id) {
    this.#settle(id, () => this.#remove(id));
  }

  // True where that was a message of ours.
  refused({ receiptId, message: why, retryAfterMs }) {
    const message = this.#messages.find((each) => each.id === receiptId);
    if (message && retryAfterMs) {
      clearTimeout(this.#timer);
      this.#timer = setTimeout(() => this.resume(), retryAfterMs);
    } else if (message) {
      this.#settle(receiptId, () => Object.assign(message, { state: "failed", why }));
    }
    return message !== undefined;
  }

  retry(id) {
    this.#settle(id, (message) => (message.state = "waiting"));
  }

  discard(id) {
    this.#settle(id, () => this.#remove(id));
  }

  // Events of a conversation that is left do not come: what was sent there is done with.
  left(conversationId) {
    this.#messages = this.#messages.filter(
      (message) => message.conversationId !== conversationId || message.state !== "sent",
    );
  }

  clear() {
    clearTimeout(this.#timer);
    this.#messages = [];
  }

  #remove(id) {
    this.#messages = this.#messages.filter((message) => message.id !== id);
  }

  #settle(id, change) {
    const message = this.#messages.find((each) => each.id === id);
    if (!message) return;
    const wasUnderWay = message === this.#messages.find((each) => each.state === "waiting");
    change(message);
    this.#changed();
    if (wasUnderWay || message.state === "waiting") this.resume();
  }
}
