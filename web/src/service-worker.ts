// Beside the page, also when none is open: shows what is pushed, and opens the page where there is no network.
//
// Pages and parts of the program only; never an answer of the API, and nothing of what people write.

/// <reference lib="webworker" />

export {};
declare const self: ServiceWorkerGlobalScope;

const SHELL = "parley-shell-1";
// Each build brings new names; more than a few builds are not worth their room.
const MOST_KEPT = 60;

interface PushedMessage {
  readonly event: "message";
  readonly tag: string;
  readonly conversationId: string;
  readonly senderId: string;
  readonly preview: string;
}

interface PushedRead {
  readonly event: "read";
  readonly conversationId: string;
  readonly readSeq: number;
}

self.addEventListener("install", (event) => {
  event.waitUntil(self.skipWaiting());
});

self.addEventListener("activate", (event) => {
  event.waitUntil(self.clients.claim());
});

// ---- The page without a network.

self.addEventListener("fetch", (event) => {
  const { request } = event;
  const url = new URL(request.url);
  if (request.method !== "GET" || url.origin !== self.location.origin) return;
  if (request.mode === "navigate" && url.pathname === "/") event.respondWith(newestPage(event));
  else if (url.pathname.startsWith("/assets/") || url.pathname === "/icon.svg") event.respondWith(knownPart(event));
});

// The page of today where it can be had, else the last one.
async function newestPage(event: FetchEvent): Promise<Response> {
  try {
    const response = await fetch(event.request);
    if (response.ok) event.waitUntil(keep("/", response.clone()));
    return response;
  } catch (error) {
    const kept = await caches.match("/");
    if (kept) return kept;
    throw error;
  }
}

// A part never changes: its name tells what is in it.
async function knownPart(event: FetchEvent): Promise<Response> {
  const kept = await caches.match(event.request);
  if (kept) return kept;
  const response = await fetch(event.request);
  if (response.ok) event.waitUntil(keep(event.request, response.clone()));
  return response;
}

async function keep(request: Request | string, response: Response): Promise<void> {
  const cache = await caches.open(SHELL);
  await cache.put(request, response);
  const kept = await cache.keys();
  for (const old of kept.slice(0, Math.max(0, kept.length - MOST_KEPT))) {
    if (new URL(old.url).pathname !== "/") await cache.delete(old);
  }
}

// The page asks for this once it runs: its parts were loaded before there was anybody to keep them.
self.addEventListener("message", (event) => {
  const paths: unknown = event.data;
  if (Array.isArray(paths)) event.waitUntil(keepAll(paths.map(String)));
});

async function keepAll(paths: readonly string[]): Promise<void> {
  const cache = await caches.open(SHELL);
  for (const path of paths) {
    if (await cache.match(path)) continue;
    const response = await fetch(path);
    if (response.ok) await cache.put(path, response);
  }
}

// ---- Push.

self.addEventListener("push", (event) => {
  const note = event.data?.json() as PushedMessage | PushedRead | undefined;
  if (note?.event === "message") event.waitUntil(show(note));
  else if (note?.event === "read") event.waitUntil(takeAway(note.conversationId));
});

function show(note: PushedMessage): Promise<void> {
  return self.registration.showNotification(note.senderId, {
    body: note.preview,
    tag: note.tag,
    icon: "/icon.svg",
    data: { conversationId: note.conversationId },
  });
}

async function takeAway(conversationId: string): Promise<void> {
  for (const shown of await self.registration.getNotifications()) {
    if ((shown.data as { conversationId?: string } | null)?.conversationId === conversationId) shown.close();
  }
}

self.addEventListener("notificationclick", (event) => {
  event.notification.close();
  const { conversationId } = (event.notification.data ?? {}) as { conversationId?: string };
  event.waitUntil(openPage(`/#${conversationId ?? ""}`));
});

async function openPage(url: string): Promise<void> {
  const [page] = await self.clients.matchAll({ type: "window" });
  if (page === undefined) {
    await self.clients.openWindow(url);
    return;
  }
  await page.focus();
  page.postMessage({ open: url });
}
