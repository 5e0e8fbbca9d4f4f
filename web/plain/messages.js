// The messages of one conversation on the page: in order, each once, with what the others have received and seen.

import { make } from "./dom.js";

// Messages of one person within this time show their time once.
const CLOSE_MS = 300_000;

export class Messages {
  #list;
  #me;
  #shown = new Map(); // seq → {message, element}
  // What every other member has reached as history told, and what each has as events tell.
  #floor = { delivered: 0, seen: 0 };
  #marks = new Map();
  otherIds = [];

  constructor(list, me) {
    this.#list = list;
    this.#me = me;
  }

  get firstSeq() {
    return Math.min(...this.#shown.keys());
  }

  find(seq) {
    return this.#shown.get(seq)?.message;
  }

  add(messages) {
    for (const message of messages) {
      if (message.status !== "sent") raise(this.#floor, message.status, message.seq);
      if (!this.#shown.has(message.seq)) this.#insert(message);
    }
    this.#arrange();
  }

  // The event `status`: that user has received or seen everything up to `seq`.
  mark({ userId, status, seq }) {
    if (userId === this.#me) return;
    if (!this.#marks.has(userId)) this.#marks.set(userId, { delivered: 0, seen: 0 });
    raise(this.#marks.get(userId), status, seq);
    this.#arrange();
  }

  #insert(message) {
    const element = make("li", message.senderId === this.#me ? "message mine" : "message");
    element.dataset.seq = message.seq;
    element.append(make("p", "sender", message.senderId), make("div", "bubble", message.content), make("p", "meta"));
    this.#shown.set(message.seq, { message, element });
    let before = this.#list.lastElementChild;
    while (before && Number(before.dataset.seq) > message.seq) before = before.previousElementSibling;
    if (before) before.after(element);
    else this.#list.prepend(element);
  }

  // What depends on the neighbours: the day, whether the sender goes on, and whether the time is worth repeating.
  #arrange() {
    const shown = Array.from(this.#list.children, (element) => this.#shown.get(Number(element.dataset.seq)));
    let day = "";
    shown.forEach(({ message, element }, index) => {
      const sent = new Date(message.sentAt);
      const itsDay = sent.toLocaleDateString(undefined, { weekday: "long", day: "numeric", month: "long" });
      if (itsDay === day) delete element.dataset.day;
      else element.dataset.day = itsDay;
      const goesOn = itsDay === day && shown[index - 1].message.senderId === message.senderId;
      element.classList.toggle("follows", goesOn);
      const isRepeated = this.#isSaidByNext(message, shown[index + 1]?.message);
      element.querySelector(".meta").textContent = isRepeated ? "" : this.#timeAndStatus(message, sent);
      day = itsDay;
    });
  }

  #timeAndStatus(message, sent) {
    const time = sent.toLocaleTimeString(undefined, { hour: "2-digit", minute: "2-digit" });
    return message.senderId === this.#me ? `${time} · ${this.#statusOf(message.seq)}` : time;
  }

  #isSaidByNext(message, next) {
    if (next?.senderId !== message.senderId) return false;
    const isSameStatus = this.#statusOf(next.seq) === this.#statusOf(message.seq);
    return isSameStatus && new Date(next.sentAt) - new Date(message.sentAt) < CLOSE_MS;
  }

  #statusOf(seq) {
    if (this.#hasReached("seen", seq)) return "seen";
    return this.#hasReached("delivered", seq) ? "delivered" : "sent";
  }

  #hasReached(status, seq) {
    if (seq <= this.#floor[status]) return true;
    return this.otherIds.length > 0 && this.otherIds.every((id) => (this.#marks.get(id)?.[status] ?? 0) >= seq);
  }
}

function raise(marks, status, seq) {
  marks.delivered = Math.max(marks.delivered, seq);
  if (status === "seen") marks.seen = Math.max(marks.seen, seq);
}
