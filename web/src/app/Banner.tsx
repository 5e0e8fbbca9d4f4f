import type { ChatClient, ConnectionState } from "../chat-client/index.ts";
import { useIsNetworkUp, useSettled, useValue } from "./hooks.ts";

// A break that nobody notices is not worth a word.
const QUIET_MS = 1_500;

// How things are, where they are not as they should be; quiet, and gone when it is over.
export function Banner({ client }: { client: ChatClient }) {
  const connection = useSettled(useValue(client.connection), QUIET_MS, isGood);
  const stale = useValue(client.staleMs);
  const isNetworkUp = useIsNetworkUp();
  const text = connection === null ? "" : textOf(connection, stale, isNetworkUp);
  return (
    <div className="banner" data-shown={text !== "" || undefined} role="status">
      {text !== "" && <span>{text}</span>}
      {connection?.name === "waiting" && isNetworkUp && (
        <button type="button" className="link" onClick={() => client.hurry()}>
          Try now
        </button>
      )}
    </div>
  );
}

const isGood = (connection: ConnectionState): boolean => connection.name === "online";

function textOf(connection: ConnectionState, staleMs: number | null, isNetworkUp: boolean): string {
  if (connection.name === "online") {
    if (staleMs !== null) return `Part of the service is away: this is as of ${Math.ceil(staleMs / 1000)} s ago.`;
    return connection.transport === "polling" ? "Connected by polling: your network allows nothing faster." : "";
  }
  if (!isNetworkUp) return "No network. What you write is sent when it is back.";
  if (connection.name === "waiting") return "Offline. What you write is sent when the connection is back.";
  return "Connecting…";
}
