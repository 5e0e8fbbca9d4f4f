// One @stomp/stompjs client, driven over stdin and stdout: one JSON object on each line.
//
// Owns the wiring and nothing else: what goes over the WebSocket, or over the SockJS transport that a command names,
// and what is made of what comes back, is the libraries' doing. A command is `{"id", "op", ...}` and is answered by `{"reply": id, "ok"}`; what happens on the
// connection is told as `{"event", ...}`. stompjs.py is the other end.

import { createInterface } from "node:readline";

import { Client, Versions } from "@stomp/stompjs";
import SockJS from "sockjs-client";
import { WebSocket } from "ws";

globalThis.WebSocket = WebSocket; // Node 20 has none of its own

const client = new Client();
const messages = new Map(); // (subscription, message-id) → the library's message, for ack() and nack()
let subscriptions = 0;

const tell = (object) => process.stdout.write(`${JSON.stringify(object)}\n`);
const tellFrame = (event, frame) =>
  tell({ event, command: frame.command, headers: frame.headers, body: frame.body });

function onMessage(message) {
  messages.set(`${message.headers.subscription} ${message.headers["message-id"]}`, message);
  tellFrame("frame", message);
}

function watchReceipt(headers) {
  if (headers?.receipt !== undefined) {
    client.watchForReceipt(headers.receipt, (frame) => tellFrame("frame", frame));
  }
}

const operations = {
  connect({ url, sockjs, versions, headers, heartbeatOutgoing, heartbeatIncoming, reconnectDelay }) {
    client.configure({
      ...(sockjs ? { webSocketFactory: () => new SockJS(url, null, { transports: sockjs }) } : { brokerURL: url }),
      ...(versions ? { stompVersions: new Versions(versions) } : {}),
      connectHeaders: headers,
      heartbeatOutgoing,
      heartbeatIncoming,
      reconnectDelay,
      debug: (text) => text === ">>> PING" && tell({ event: "heartbeat-sent" }),
      onConnect: (frame) => tellFrame("frame", frame),
      onStompError: (frame) => tellFrame("frame", frame),
      onDisconnect: (frame) => tellFrame("frame", frame),
      onUnhandledMessage: (frame) => tellFrame("unhandled", frame),
      onUnhandledReceipt: (frame) => tellFrame("unhandled", frame),
      onUnhandledFrame: (frame) => tellFrame("unhandled", frame),
      onHeartbeatReceived: () => tell({ event: "heartbeat-received" }),
      onHeartbeatLost: () => tell({ event: "heartbeat-lost" }),
      onWebSocketError: (error) => tell({ event: "socket-error", message: error.message }),
      onWebSocketClose: ({ code, reason }) => tell({ event: "closed", code, reason }),
    });
    client.activate();
  },
  subscribe({ destination, headers }) {
    const wanted = { id: `driver-${subscriptions++}`, ...headers };
    watchReceipt(wanted);
    client.subscribe(destination, onMessage, wanted);
  },
  unsubscribe({ subscription, headers }) {
    watchReceipt(headers);
    client.unsubscribe(subscription, headers);
  },
  send({ destination, body, headers }) {
    watchReceipt(headers);
    client.publish({ destination, body, headers });
  },
  ack({ subscription, messageId, headers }) {
    watchReceipt(headers);
    messages.get(`${subscription} ${messageId}`).ack(headers);
  },
  nack({ subscription, messageId, headers }) {
    watchReceipt(headers);
    messages.get(`${subscription} ${messageId}`).nack(headers);
  },
  disconnect({ headers }) {
    client.disconnectHeaders = headers;
    void client.deactivate();
  },
};

const lines = createInterface({ input: process.stdin });
lines.on("line", (line) => {
  const command = JSON.parse(line);
  try {
    operations[command.op](command);
    tell({ reply: command.id, ok: true });
  } catch (error) {
    tell({ reply: command.id, ok: false, error: String(error) });
  }
});
lines.on("close", () => process.exit(0));
