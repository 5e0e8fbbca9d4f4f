// What outlives a reload, in IndexedDB: the outgoing queue, and what was shown last. One database for each person.
//
// A browser that grants no storage (private windows, full disks) is no reason not to work: what cannot be kept is kept in
// memory, and `isDurable` says so.

import type { Outgoing, OutboxStore } from "./outbox.ts";
import type { ClientMessageId, UserId } from "./types.ts";

const VERSION = 1;
const OUTBOX = "outbox";
const CACHE = "cache";

export interface Storage extends OutboxStore {
  readonly isDurable: boolean;
  // What was remembered under that key; undefined: nothing.
  recall(key: string): Promise<unknown>;
  remember(key: string, value: unknown): Promise<void>;
  // Everything of this person.
  clear(): Promise<void>;
}

export async function openStorage(userId: UserId): Promise<Storage> {
  try {
    return new IndexedDbStorage(await open(`parley.${userId}`));
  } catch {
    return new MemoryStorage(); // not granted here
  }
}

export class MemoryStorage implements Storage {
  readonly isDurable = false;
  readonly #outbox = new Map<ClientMessageId, Outgoing>();
  readonly #cache = new Map<string, unknown>();

  async load(): Promise<readonly Outgoing[]> {
    return [...this.#outbox.values()];
  }

  async put(message: Outgoing): Promise<void> {
    this.#outbox.set(message.clientMessageId, message);
  }

  async remove(id: ClientMessageId): Promise<void> {
    this.#outbox.delete(id);
  }

  async recall(key: string): Promise<unknown> {
    return this.#cache.get(key);
  }

  async remember(key: string, value: unknown): Promise<void> {
    this.#cache.set(key, value);
  }

  async clear(): Promise<void> {
    this.#outbox.clear();
    this.#cache.clear();
  }
}

class IndexedDbStorage implements Storage {
  readonly #database: IDBDatabase;
  // Takes over what the database refuses to keep.
  readonly #memory = new MemoryStorage();
  isDurable = true;

  constructor(database: IDBDatabase) {
    this.#database = database;
    // Another tab wants to change the database: let it, this one goes on in memory.
    database.onversionchange = () => database.close();
  }

  async load(): Promise<readonly Outgoing[]> {
    const kept = await this.#try<Outgoing[]>(OUTBOX, "readonly", (store) => store.getAll());
    return kept ?? this.#memory.load();
  }

  async put(message: Outgoing): Promise<void> {
    const isKept = await this.#try(OUTBOX, "readwrite", (store) => store.put(message));
    if (isKept === undefined) await this.#memory.put(message);
  }

  async remove(id: ClientMessageId): Promise<void> {
    await this.#memory.remove(id);
    await this.#try(OUTBOX, "readwrite", (store) => store.delete(id));
  }

  async recall(key: string): Promise<unknown> {
    return this.#try<unknown>(CACHE, "readonly", (store) => store.get(key));
  }

  async remember(key: string, value: unknown): Promise<void> {
    await this.#try(CACHE, "readwrite", (store) => store.put(value, key));
  }

  async clear(): Promise<void> {
    await this.#memory.clear();
    for (const name of [OUTBOX, CACHE]) await this.#try(name, "readwrite", (store) => store.clear());
  }

  // What `act` asked for, once the transaction is complete; undefined where the database does not do it.
  async #try<T>(name: string, mode: IDBTransactionMode, act: (store: IDBObjectStore) => IDBRequest): Promise<T | undefined> {
    try {
      return await new Promise<T>((resolve, reject) => {
        const transaction = this.#database.transaction(name, mode);
        const request = act(transaction.objectStore(name));
        transaction.oncomplete = () => resolve(request.result as T);
        transaction.onerror = transaction.onabort = () => reject(transaction.error ?? new Error("aborted"));
      });
    } catch {
      this.isDurable = false;
      return undefined;
    }
  }
}

function open(name: string): Promise<IDBDatabase> {
  return new Promise((resolve, reject) => {
    const request = indexedDB.open(name, VERSION);
    request.onupgradeneeded = () => {
      request.result.createObjectStore(OUTBOX, { keyPath: "clientMessageId" });
      request.result.createObjectStore(CACHE);
    };
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error ?? new Error("no database"));
    request.onblocked = () => reject(new Error("blocked by another tab"));
  });
}
