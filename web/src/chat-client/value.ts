// A value that can be watched. `subscribe` and `get` fit React's useSyncExternalStore, and need no React.

export interface Readable<T> {
  readonly get: () => T;
  // Calls `listener` after each change; gives what ends that.
  readonly subscribe: (listener: () => void) => () => void;
}

export class Value<T> implements Readable<T> {
  #value: T;
  readonly #listeners = new Set<() => void>();

  constructor(value: T) {
    this.#value = value;
  }

  readonly get = (): T => this.#value;

  readonly subscribe = (listener: () => void): (() => void) => {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  };

  set(value: T): void {
    if (Object.is(value, this.#value)) return;
    this.#value = value;
    for (const listener of [...this.#listeners]) listener();
  }
}
