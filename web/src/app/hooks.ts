import { useEffect, useState, useSyncExternalStore } from "react";

import type { Readable } from "../chat-client/index.ts";

export function useValue<T>(value: Readable<T>): T {
  return useSyncExternalStore(value.subscribe, value.get);
}

// What stands behind # in the address: the conversation that is open.
export function useHash(): string {
  return useSyncExternalStore(onHashChange, () => decodeURIComponent(location.hash.slice(1)));
}

function onHashChange(listener: () => void): () => void {
  addEventListener("hashchange", listener);
  return () => removeEventListener("hashchange", listener);
}

export function useIsLookedAt(): boolean {
  return useSyncExternalStore(onLook, () => !document.hidden);
}

function onLook(listener: () => void): () => void {
  document.addEventListener("visibilitychange", listener);
  return () => document.removeEventListener("visibilitychange", listener);
}

export function useIsNetworkUp(): boolean {
  return useSyncExternalStore(onNetwork, () => navigator.onLine);
}

function onNetwork(listener: () => void): () => void {
  addEventListener("online", listener);
  addEventListener("offline", listener);
  return () => {
    removeEventListener("online", listener);
    removeEventListener("offline", listener);
  };
}

// `value` once it has stayed the same for that long; `now` values are taken at once. Null: none has yet.
export function useSettled<T>(value: T, ms: number, now: (value: T) => boolean): T | null {
  const [settled, setSettled] = useState<T | null>(null);
  useEffect(() => {
    const timer = setTimeout(() => setSettled(value), now(value) ? 0 : ms);
    return () => clearTimeout(timer);
  }, [value, ms, now]);
  return settled;
}

// Counts minutes, for whatever is said in relation to now.
export function useMinute(): void {
  const [, setMinute] = useState(0);
  useEffect(() => {
    const timer = setInterval(() => setMinute((count) => count + 1), 60_000);
    return () => clearInterval(timer);
  }, []);
}
