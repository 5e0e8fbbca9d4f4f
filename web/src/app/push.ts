// The service worker, and Web Push where browser and server have it.

import type { ChatClient, Notification as Note } from "../chat-client/index.ts";
import { Refusal } from "../chat-client/index.ts";

const DEVICE = "parley.device";

// unavailable: this browser or this server has none. denied: the person has said no to the browser.
export type PushState = "unavailable" | "denied" | "off" | "on";

export function startServiceWorker(): void {
  if (!("serviceWorker" in navigator)) return;
  addEventListener("load", () => {
    navigator.serviceWorker.register(trusted("/service-worker.js")).then(
      () => void handOverParts(),
      () => {}, // the plain page's server, or a browser that does not want one: everything else works
    );
  });
  navigator.serviceWorker.addEventListener("message", (event: MessageEvent<{ open?: string }>) => {
    const hash = event.data.open?.split("#")[1];
    if (hash !== undefined) location.hash = hash;
  });
}

// The edge's policy lets this page make code out of nothing but this one address.
function trusted(address: string): string {
  const policies = (globalThis as { trustedTypes?: TrustedTypes }).trustedTypes;
  const policy = policies?.createPolicy("parley", { createScriptURL: () => address });
  return policy?.createScriptURL(address) ?? address;
}

// Not yet among TypeScript's own declarations.
interface TrustedTypes {
  createPolicy(
    name: string,
    rules: { createScriptURL: (text: string) => string },
  ): { createScriptURL: (text: string) => string };
}

// What was loaded before the worker listened is kept by it, too.
async function handOverParts(): Promise<void> {
  const { active } = await navigator.serviceWorker.ready;
  const loaded = performance.getEntriesByType("resource").map(({ name }) => new URL(name));
  const parts = loaded.filter(({ origin, pathname }) => origin === location.origin && pathname.startsWith("/assets/"));
  active?.postMessage(["/", ...new Set(parts.map(({ pathname }) => pathname))]);
}

export async function readPushState(client: ChatClient): Promise<PushState> {
  if (!("PushManager" in window) || !("Notification" in window) || !("serviceWorker" in navigator)) return "unavailable";
  const key = await readServerKey(client);
  if (key === null) return "unavailable";
  if (Notification.permission === "denied") return "denied";
  const registration = await navigator.serviceWorker.getRegistration();
  const subscription = await registration?.pushManager.getSubscription();
  return subscription && localStorage.getItem(DEVICE) !== null ? "on" : "off";
}

// Only from a click: browsers ask the person. Raises what browser or server refuse.
export async function switchPushOn(client: ChatClient): Promise<PushState> {
  const key = await readServerKey(client);
  if (key === null) return "unavailable";
  if ((await Notification.requestPermission()) !== "granted") return "denied";
  const registration = await navigator.serviceWorker.ready;
  const subscription = await registration.pushManager.subscribe({ userVisibleOnly: true, applicationServerKey: key });
  const device = await client.http.registerWebPush(subscription.toJSON());
  localStorage.setItem(DEVICE, device.deviceId);
  return "on";
}

export async function switchPushOff(client: ChatClient): Promise<PushState> {
  const device = localStorage.getItem(DEVICE);
  localStorage.removeItem(DEVICE);
  if (device !== null) await client.http.removeDevice(device);
  const registration = await navigator.serviceWorker.getRegistration();
  await (await registration?.pushManager.getSubscription())?.unsubscribe();
  return "off";
}

// For a page that is open and not looked at. False: the person has not allowed it.
export async function showNotification(note: Note): Promise<boolean> {
  if (!("Notification" in window) || Notification.permission !== "granted") return false;
  const registration = await navigator.serviceWorker?.getRegistration();
  if (registration === undefined) return false;
  await registration.showNotification(note.senderId, {
    body: note.preview,
    tag: note.messageId,
    icon: "/icon.svg",
    data: { conversationId: note.conversationId },
  });
  return true;
}

// Null: the server has no Web Push.
async function readServerKey(client: ChatClient): Promise<string | null> {
  try {
    const { platforms, webpushPublicKey } = await client.http.getPushSetup();
    return platforms.includes("webpush") && webpushPublicKey !== "" ? webpushPublicKey : null;
  } catch (error) {
    if (error instanceof Refusal) return null;
    throw error;
  }
}
