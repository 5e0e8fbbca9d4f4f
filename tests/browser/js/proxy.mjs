// A proxy in front of the server: of the kind that knows no WebSocket, until it is told to; and a line that can be cut.

import { createServer, request } from "node:http";
import { connect } from "node:net";

export async function startProxy(target) {
  const { hostname, port } = new URL(target);
  const sockets = new Set();
  const proxy = { allowsWebSocket: false, isCut: false, refused: 0 };

  const server = createServer((incoming, outgoing) => {
    const onwards = request(
      { hostname, port, path: incoming.url, method: incoming.method, headers: incoming.headers },
      (answer) => {
        outgoing.writeHead(answer.statusCode, answer.headers);
        answer.pipe(outgoing);
      },
    );
    onwards.on("error", () => outgoing.destroy());
    outgoing.on("close", () => onwards.destroy());
    incoming.pipe(onwards);
  });
  server.on("upgrade", (incoming, socket) => {
    if (!proxy.allowsWebSocket) {
      proxy.refused += 1;
      socket.end("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
      return;
    }
    const onwards = connect(port, hostname, () => {
      const headers = incoming.rawHeaders.map((text, index) => (index % 2 === 0 ? `${text}: ` : `${text}\r\n`));
      onwards.write(`${incoming.method} ${incoming.url} HTTP/1.1\r\n${headers.join("")}\r\n`);
      onwards.pipe(socket).pipe(onwards);
    });
    for (const end of [onwards, socket]) {
      // What is cut on one side is cut on the other; the close says so, with or without an error.
      end.on("error", () => {});
      end.on("close", () => [onwards, socket].forEach((each) => each.destroy()));
    }
  });
  server.on("connection", (socket) => {
    if (proxy.isCut) {
      socket.destroy();
      return;
    }
    sockets.add(socket);
    socket.on("close", () => sockets.delete(socket));
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));

  proxy.url = `http://127.0.0.1:${server.address().port}`;
  proxy.cut = () => {
    proxy.isCut = true;
    for (const socket of sockets) socket.destroy();
  };
  proxy.close = () => {
    proxy.cut();
    server.close();
  };
  return proxy;
}
