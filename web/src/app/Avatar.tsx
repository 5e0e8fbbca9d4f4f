import type { CSSProperties } from "react";

import type { PresenceStatus } from "../chat-client/index.ts";

// The name's first letter on a colour of its own, and a dot for presence. The name itself stands beside it.
export function Avatar({ name, presence }: { name: string; presence?: PresenceStatus | undefined }) {
  const style = { "--hue": hueOf(name) } as CSSProperties;
  return (
    <span className="avatar" style={style} aria-hidden="true">
      {[...name][0] ?? ""}
      {presence !== undefined && presence !== "unknown" && <span className={`dot ${presence}`} />}
    </span>
  );
}

function hueOf(name: string): number {
  return [...name].reduce((sum, letter) => (31 * sum + (letter.codePointAt(0) ?? 0)) % 360, 7);
}
