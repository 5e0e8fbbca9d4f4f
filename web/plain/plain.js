// A plain page on which people talk: sign in with a name, choose a conversation, read and write.
//
// A conversation is read once over HTTP; from its last message on, everything comes over STOMP, after each break from
// where it broke (x-after-seq). A message is shown as sent only when the server has promised it.

import { call } from "./api.js";
import { $, make, makeButton, newId, notify, onSubmit, paintAvatar, pause } from "./dom.js";
import { Messages } from "./messages.js";
import { Outgoing } from "./outgoing.js";
import { StompLink } from "./stomp.js";

const PAGE = 50;
const LIST_EVERY_MS = 5_000;
const RENEW_EVERY_MS = 10_000;
const MAX_CONTENT_BYTES = 16 * 1024;
const SESSION = "parley.session";
const ERRORS = "errors";
const JSON_BODY = { "content-type": "application/json" };

let session = null; // {name, token, isDev, isRenewing, renewedAt}
let link = null;
let conversations = []; // as GET /conversations has them
let open = null; // the conversation on the page

const outgoing = new Outgoing(send, drawOutgoing);

// ---- Signing in and out.

async function signIn(name) {
  try {
    const { token } = await call("POST", "/dev/token", { body: { userId: name } });
    begin({ name, token, isDev: true });
  } catch (error) {
    if (error.status !== 404) {
      $("sign-in-problem").textContent = error.message;
      return;
    }
    $("sign-in-form").hidden = true;
    $("token-form").hidden = false;
    $("token").focus();
  }
}

function signInWithToken(token) {
  try {
    const claims = token.split(".")[1].replace(/-/g, "+").replace(/_/g, "/");
    begin({ name: String(JSON.parse(atob(claims)).sub), token, isDev: false });
  } catch {
    $("sign-in-problem").textContent = "That is not a token.";
  }
}

function begin(chosen) {
  session = chosen;
  remember();
  $("sign-in").hidden = true;
  $("app").hidden = false;
  $("my-name").textContent = session.name;
  paintAvatar($("my-avatar"), session.name);
  const url = new URL("/ws", location.href);
  url.protocol = url.protocol.replace("http", "ws");
  link = new StompLink(url.href, () => session.token);
  link.onopen = onConnected;
  link.onframe = onFrame;
  link.onstate = showLink;
  link.onrefused = onRefused;
  link.start();
  refreshList();
  openFromAddress();
}

// This tab only, so that two tabs can be two people.
function remember() {
  sessionStorage.setItem(SESSION, JSON.stringify({ name: session.name, token: session.token, isDev: session.isDev }));
}

// `token` was refused: it has expired, or the server was started again with another key.
async function renew(token, why) {
  const mine = session;
  if (mine?.token !== token || mine.isRenewing) return;
  if (!mine.isDev || Date.now() - (mine.renewedAt ?? 0) < RENEW_EVERY_MS) {
    signOut(why);
    return;
  }
  mine.isRenewing = true;
  try {
    const answer = await call("POST", "/dev/token", { body: { userId: mine.name } });
    Object.assign(mine, { token: answer.token, renewedAt: Date.now() });
    if (session !== mine) return;
    remember();
    link.hurry();
  } catch (error) {
    if (session === mine && error.isFinal) signOut(why);
  } finally {
    mine.isRenewing = false;
  }
}

function signOut(why = "") {
  sessionStorage.removeItem(SESSION);
  outgoing.clear();
  close();
  link.stop();
  session = link = null;
  conversations = [];
  history.replaceState(null, "", location.pathname);
  $("app").hidden = true;
  showSignIn(why);
}

function showSignIn(why) {
  $("sign-in").hidden = false;
  $("sign-in-problem").textContent = why;
  $("name").focus();
}

async function api(method, path, options) {
  const { token } = session;
  try {
    return await call(method, path, { token, ...options });
  } catch (error) {
    if (error.status === 401) renew(token, error.message);
    throw error;
  }
}

function readMessages(id, query) {
  return api("GET", `${pathOf(id)}/messages?${new URLSearchParams(query)}`);
}

const pathOf = (id) => `/conversations/${encodeURIComponent(id)}`;

// ---- The connection.

function onConnected() {
  link.send("SUBSCRIBE", { id: ERRORS, destination: "/user/queue/errors" });
  if (open?.isLoaded) subscribe();
  outgoing.resume();
  refreshList();
}

function onFrame({ command, headers, body }) {
  if (command === "RECEIPT") {
    outgoing.accepted(headers["receipt-id"]);
    return;
  }
  const event = JSON.parse(body);
  if (headers.subscription === ERRORS) onError(event);
  else if (headers.subscription !== open?.subscription) return; // of a conversation that was left
  else if (event.event === "message") onMessage(event);
  else if (event.event === "status") open.messages.mark(event);
  else if (event.event === "gap") fillGap(open, event);
}

function onError(error) {
  if (outgoing.refused(error)) return;
  if (open && error.receiptId === open.subscription) onSubscribeRefused(open, error);
  else notify(error.message);
}

function onRefused(frame, token) {
  let refusal = { message: frame.headers.message };
  try {
    refusal = JSON.parse(frame.body);
  } catch {
    // the body is for people, and the header has it, too
  }
  if (refusal.code === "UNAUTHENTICATED") renew(token, refusal.message);
  else notify(refusal.message);
}

function showLink(state) {
  const texts = { connecting: "Connecting…", online: "Connected", waiting: "Offline, trying again…" };
  $("link").textContent = texts[state];
  $("link").dataset.state = state;
}

// ---- The list.

async function refreshList() {
  const asked = session;
  if (!asked) return;
  try {
    const answer = await api("GET", "/conversations?limit=100");
    if (session !== asked) return;
    conversations = answer.conversations;
    drawList();
  } catch {
    // the connection shows how things are, and the next time will do
  }
}

function titleOf(conversation) {
  const others = conversation.memberIds.filter((id) => id !== session.name);
  return conversation.title ?? (others.join(", ") || "Nobody else");
}

function drawList() {
  $("no-conversations").hidden = conversations.length > 0;
  const focused = document.activeElement?.closest?.("#conversations a")?.hash;
  $("conversations").replaceChildren(...conversations.map(drawListed));
  if (focused) $("conversations").querySelector(`a[href="${CSS.escape(focused)}"]`)?.focus();
}

function drawListed(conversation) {
  const title = titleOf(conversation);
  const isOpen = conversation.conversationId === open?.id;
  const entry = make("a", "");
  entry.href = `#${conversation.conversationId}`;
  if (isOpen) entry.setAttribute("aria-current", "true");
  const avatar = make("span", "avatar");
  avatar.setAttribute("aria-hidden", "true");
  paintAvatar(avatar, title);
  const who = make("span", "who");
  who.append(make("strong", "", title), make("span", "", previewOf(conversation.lastMessage)));
  entry.append(avatar, who);
  if (conversation.unreadCount && (!isOpen || document.hidden)) {
    const unread = make("span", "unread", conversation.unreadCount > 99 ? "99+" : String(conversation.unreadCount));
    unread.setAttribute("aria-label", `${conversation.unreadCount} unread`);
    entry.append(unread);
  }
  const item = make("li", "");
  item.append(entry);
  return item;
}

function previewOf(last) {
  if (!last) return "No messages yet";
  return `${last.senderId === session.name ? "You" : last.senderId}: ${last.content.slice(0, 120)}`;
}

async function create(text) {
  const names = text.split(/[\s,;]+/).filter((name) => name && name !== session.name);
  if (!names.length) {
    notify("Write the name of somebody else.");
    return;
  }
  const body = { type: names.length > 1 ? "group" : "direct", memberIds: names };
  try {
    const made = await api("POST", "/conversations", { body, headers: { "Idempotency-Key": newId() } });
    $("new-name").value = "";
    location.hash = made.conversationId;
    refreshList();
  } catch (error) {
    notify(error.message);
  }
}

// ---- One conversation.

function openFromAddress() {
  const id = location.hash.slice(1);
  if (!session || id === (open?.id ?? "")) return;
  if (id) show(id);
  else close();
}

async function show(id) {
  close();
  const mine = {
    id,
    isLoaded: false,
    subscription: "",
    messages: new Messages($("messages"), session.name),
    lastSeq: 0, // the end of what has come, from which a new subscription goes on
    readSeq: 0,
    gaps: new Set(),
  };
  open = mine;
  $("app").dataset.open = "";
  $("conversation").hidden = false;
  $("nothing-open").hidden = true;
  drawList();
  drawOutgoing();
  const found = await loadAsOftenAsItTakes(mine);
  if (found && open === mine) onLoaded(...found);
}

async function loadAsOftenAsItTakes(mine) {
  for (let wait = 500; open === mine; wait = Math.min(2 * wait, 8_000)) {
    try {
      return await Promise.all([api("GET", pathOf(mine.id)), readMessages(mine.id, { limit: PAGE })]);
    } catch (error) {
      if (open === mine && error.isFinal) {
        leave(error);
        return null;
      }
      await pause(error.retryAfterMs ?? wait);
    }
  }
  return null;
}

function leave(error) {
  notify(error.message);
  location.hash = "";
}

function onLoaded(conversation, page) {
  open.isLoaded = true;
  open.messages.otherIds = conversation.memberIds.filter((id) => id !== session.name);
  open.readSeq = conversation.readSeq;
  open.lastSeq = page.messages.at(-1)?.seq ?? 0;
  $("title").textContent = titleOf(conversation);
  $("messages").classList.toggle("direct", conversation.type === "direct");
  $("members").textContent = conversation.type === "group" ? conversation.memberIds.join(", ") : "";
  addMessages(page.messages);
  showWhetherThereIsMore(page);
  scrollToEnd();
  if (link.isOnline) subscribe();
  markRead();
  if (matchMedia("(pointer: fine)").matches) $("content").focus();
}

function close() {
  if (open?.subscription && link.isOnline) link.send("UNSUBSCRIBE", { id: open.subscription });
  if (open) outgoing.left(open.id);
  open = null;
  delete $("app").dataset.open;
  $("conversation").hidden = true;
  $("nothing-open").hidden = false;
  $("messages").replaceChildren();
  $("pending").replaceChildren();
  $("title").textContent = $("members").textContent = $("content").value = "";
  $("earlier").hidden = true;
  drawList();
}

// Everything later than what is here, then live. Each subscription has its own id, so that nothing late is mistaken.
function subscribe() {
  open.subscription = newId();
  const missing = [...open.gaps].map((gap) => gap.fromSeq - 1);
  link.send("SUBSCRIBE", {
    id: open.subscription,
    destination: `/topic/conversation.${open.id}`,
    "x-after-seq": Math.min(open.lastSeq, ...missing),
    receipt: open.subscription,
  });
}

function onSubscribeRefused(mine, error) {
  if (!error.retryAfterMs) leave(error);
  else setTimeout(() => open === mine && link.isOnline && subscribe(), error.retryAfterMs);
}

function onMessage(message) {
  const isAtEnd = distanceFromEnd() < 80;
  open.lastSeq = Math.max(open.lastSeq, message.seq);
  addMessages([message]);
  if (isAtEnd || message.senderId === session.name) scrollToEnd();
  const listed = conversations.find((each) => each.conversationId === open.id);
  if (!listed) refreshList();
  else if ((listed.lastMessage?.seq ?? 0) < message.seq) listed.lastMessage = message;
  markRead();
  drawList();
}

// This connection was too slow for these: read them, as often as it takes.
async function fillGap(mine, gap) {
  mine.gaps.add(gap);
  mine.lastSeq = Math.max(mine.lastSeq, gap.toSeq);
  let after = gap.fromSeq - 1;
  while (open === mine && after < gap.toSeq) {
    try {
      const page = await readMessages(mine.id, { afterSeq: after, limit: 200 });
      if (open === mine) addMessages(page.messages);
      after = page.messages.at(-1)?.seq ?? gap.toSeq;
    } catch (error) {
      await pause(error.retryAfterMs ?? 2_000);
    }
  }
  mine.gaps.delete(gap);
}

async function showEarlier() {
  const mine = open;
  $("earlier").disabled = true;
  try {
    const page = await readMessages(mine.id, { beforeSeq: mine.messages.firstSeq, limit: PAGE });
    if (open !== mine) return;
    const before = distanceFromEnd();
    addMessages(page.messages);
    showWhetherThereIsMore(page);
    $("scroll").scrollTop += distanceFromEnd() - before;
  } catch (error) {
    notify(error.message);
  } finally {
    $("earlier").disabled = false;
  }
}

function showWhetherThereIsMore(page) {
  $("earlier").hidden = !(page.messages[0]?.seq > 1);
}

function distanceFromEnd() {
  const { scrollHeight, scrollTop, clientHeight } = $("scroll");
  return scrollHeight - scrollTop - clientHeight;
}

function scrollToEnd() {
  $("scroll").scrollTop = $("scroll").scrollHeight;
}

function addMessages(messages) {
  for (const message of messages) if (message.senderId === session.name) outgoing.arrived(message.clientMessageId);
  open.messages.add(messages);
}

function markRead() {
  if (!open?.isLoaded || document.hidden || !link.isOnline || open.lastSeq <= open.readSeq) return;
  const newest = open.messages.find(open.lastSeq);
  if (!newest) return; // in a gap
  open.readSeq = open.lastSeq;
  const body = { conversationId: open.id, messageId: newest.messageId };
  link.send("SEND", { destination: "/app/chat.read", ...JSON_BODY }, JSON.stringify(body));
  const listed = conversations.find((each) => each.conversationId === open.id);
  if (listed) listed.unreadCount = 0;
}

// ---- Writing.

function write(content) {
  if (new TextEncoder().encode(content).length > MAX_CONTENT_BYTES) {
    notify("That is too long: at most 16 KiB.");
    return;
  }
  $("content").value = "";
  outgoing.add(open.id, content);
  scrollToEnd();
}

function send({ id, conversationId, content }) {
  if (!link?.isOnline) return false;
  const body = { conversationId, content, type: "text", clientMessageId: id };
  link.send("SEND", { destination: "/app/chat.send", receipt: id, ...JSON_BODY }, JSON.stringify(body));
  return true;
}

function drawOutgoing() {
  const messages = open ? outgoing.of(open.id) : [];
  $("pending").replaceChildren(...messages.map(drawOneOutgoing));
}

function drawOneOutgoing({ id, content, state, why }) {
  const element = make("li", `message mine follows ${state}`);
  const meta = make("p", "meta", { waiting: "sending…", sent: "sent", failed: `not sent: ${why}` }[state]);
  if (state === "failed") {
    meta.append(makeButton("Try again", () => outgoing.retry(id)), makeButton("Discard", () => outgoing.discard(id)));
  }
  element.append(make("div", "bubble", content), meta);
  return element;
}

// ---- The page itself.

onSubmit("sign-in-form", () => signIn($("name").value));
onSubmit("token-form", () => signInWithToken($("token").value.trim()));
onSubmit("new-form", () => create($("new-name").value));
onSubmit("send-form", () => {
  if (open?.isLoaded && $("content").value.trim()) write($("content").value);
});
$("content").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  $("send-form").requestSubmit();
});
$("sign-out").addEventListener("click", () => signOut());
$("back").addEventListener("click", () => (location.hash = ""));
$("earlier").addEventListener("click", showEarlier);
addEventListener("hashchange", openFromAddress);
addEventListener("online", () => link?.hurry());
document.addEventListener("visibilitychange", () => {
  if (document.hidden || !session) return;
  link.hurry();
  markRead();
  refreshList();
});
setInterval(() => !document.hidden && refreshList(), LIST_EVERY_MS);

const saved = sessionStorage.getItem(SESSION);
if (saved) begin(JSON.parse(saved));
else showSignIn("");
