// The messages on the screen: holds its place when earlier ones come in above, follows when one is at the end.
//
// Drawn in blocks of neighbours. A block whose messages and marks are the same is not drawn again, and one that is far away
// is not laid out at all (content-visibility): so ten thousand messages cost what the screen shows.

import { Component, createRef, type ReactNode } from "react";

import type { ClientMessageId, Outgoing, TimelineView, UserId } from "../chat-client/index.ts";
import { spoken } from "./format.ts";
import { DownIcon } from "./icons.tsx";
import { MessageBlock, OutgoingMessage } from "./messages.tsx";

const BLOCK = 50;
// Nearer to the end than this counts as at the end.
const END_PX = 80;
// Earlier messages are read before one gets there.
const EARLY_PX = 900;

interface Props {
  readonly me: UserId;
  readonly timeline: TimelineView;
  readonly outgoing: readonly Outgoing[];
  readonly isGroup: boolean;
  readonly isReadingEarlier: boolean;
  // Empty: nobody.
  readonly typing: string;
  readonly onReadEarlier: () => Promise<void>;
  readonly onAtEnd: (isAtEnd: boolean) => void;
  readonly onRetry: (id: ClientMessageId) => void;
  readonly onDiscard: (id: ClientMessageId) => void;
}

interface State {
  readonly isAtEnd: boolean;
  readonly hasFailed: boolean;
  // The latest that was there when one left the end.
  readonly seenSeq: number;
}

// Where one was before a change: at the end, or with something at that height of the window.
interface Place {
  readonly isAtEnd: boolean;
  readonly anchor: { readonly element: Element; readonly top: number } | null;
}

export class MessageList extends Component<Props, State> {
  override state: State = { isAtEnd: true, hasFailed: false, seenSeq: 0 };
  readonly #scroller = createRef<HTMLDivElement>();
  readonly #sizes = new ResizeObserver(() => this.#keepEnd());
  // As far as has been looked; `state` follows with the next drawing.
  #isAtEnd = true;

  override componentDidMount(): void {
    const scroller = this.#scroller.current!;
    this.#sizes.observe(scroller);
    this.#sizes.observe(scroller.firstElementChild!);
    this.#scrollToEnd();
    this.#readEarlierIfNear();
  }

  override componentWillUnmount(): void {
    this.#sizes.disconnect();
  }

  override getSnapshotBeforeUpdate(): Place {
    const isAtEnd = this.#distanceToEnd() < END_PX;
    return { isAtEnd, anchor: isAtEnd ? null : this.#findAnchor() };
  }

  override componentDidUpdate(before: Props, _: State, place: Place): void {
    const isWriting = this.props.outgoing.length > before.outgoing.length;
    const { anchor } = place;
    if (place.isAtEnd || isWriting) this.#scrollToEnd();
    else if (anchor?.element.isConnected) {
      this.#scroller.current!.scrollTop += anchor.element.getBoundingClientRect().top - anchor.top;
    }
    if (before.isReadingEarlier && !this.props.isReadingEarlier) this.#readEarlierIfNear();
  }

  override render(): ReactNode {
    const { timeline, outgoing, typing, isReadingEarlier } = this.props;
    const { isAtEnd, hasFailed, seenSeq } = this.state;
    const fresh = isAtEnd ? 0 : timeline.messages.filter(({ seq }) => seq > seenSeq).length;
    return (
      <div className="messages-frame">
        <div className="scroller" ref={this.#scroller} tabIndex={0} role="region" aria-label="Messages" onScroll={this.#onScroll}>
          <div className="messages">
            <div className="earlier">
              {hasFailed ? (
                <button type="button" className="link" onClick={() => void this.#readEarlier()}>
                  Earlier messages could not be read. Try again
                </button>
              ) : (
                isReadingEarlier && "Loading earlier messages…"
              )}
              {!timeline.hasEarlier && timeline.messages.length > 0 && "This is where it began."}
            </div>
            {this.#blocks()}
            {outgoing.length > 0 && (
              <ol className="block" aria-label="On their way">
                {outgoing.map((message) => (
                  <OutgoingMessage
                    key={message.clientMessageId}
                    message={message}
                    onRetry={this.props.onRetry}
                    onDiscard={this.props.onDiscard}
                  />
                ))}
              </ol>
            )}
            <p className="typing" data-shown={typing !== "" || undefined}>
              {typing !== "" && (
                <>
                  <span className="dots" aria-hidden="true">
                    <i />
                    <i />
                    <i />
                  </span>
                  {typing}
                </>
              )}
            </p>
          </div>
        </div>
        {!isAtEnd && (
          <button type="button" className="to-end" onClick={this.#scrollToEnd}>
            <DownIcon />
            {fresh > 0 ? `${fresh} new` : <span className="hidden">To the latest</span>}
          </button>
        )}
        <p className="hidden" role="status" aria-live="polite">
          {this.#announcement()}
        </p>
      </div>
    );
  }

  #blocks(): ReactNode[] {
    const { me, timeline, isGroup } = this.props;
    const { messages, deliveredSeq, seenSeq } = timeline;
    const blocks: ReactNode[] = [];
    let start = 0;
    while (start < messages.length) {
      const number = Math.floor(messages[start]!.seq / BLOCK);
      let end = start + 1;
      while (end < messages.length && Math.floor(messages[end]!.seq / BLOCK) === number) end += 1;
      const part = messages.slice(start, end);
      const within = (seq: number): number => Math.max(part[0]!.seq - 1, Math.min(part.at(-1)!.seq, seq));
      blocks.push(
        <MessageBlock
          key={number}
          me={me}
          messages={part}
          before={messages[start - 1]}
          isGroup={isGroup}
          deliveredSeq={within(deliveredSeq)}
          seenSeq={within(seenSeq)}
        />,
      );
      start = end;
    }
    return blocks;
  }

  // The latest of somebody else, for screen readers: only live ones change it.
  #announcement(): string {
    const last = this.props.timeline.messages.at(-1);
    return last === undefined || last.senderId === this.props.me ? "" : spoken(last, this.props.me);
  }

  // ---- Scrolling.

  readonly #onScroll = (): void => {
    const isAtEnd = this.#distanceToEnd() < END_PX;
    this.#isAtEnd = isAtEnd;
    if (isAtEnd !== this.state.isAtEnd) {
      this.setState({ isAtEnd, seenSeq: this.props.timeline.messages.at(-1)?.seq ?? 0 });
      this.props.onAtEnd(isAtEnd);
    }
    this.#readEarlierIfNear();
  };

  readonly #scrollToEnd = (): void => {
    const scroller = this.#scroller.current!;
    scroller.scrollTop = scroller.scrollHeight;
    this.#isAtEnd = true;
  };

  // Something has become larger or smaller: a keyboard, a banner, a message.
  #keepEnd(): void {
    if (this.#isAtEnd) this.#scrollToEnd();
  }

  #distanceToEnd(): number {
    const { scrollHeight, scrollTop, clientHeight } = this.#scroller.current!;
    return scrollHeight - scrollTop - clientHeight;
  }

  // The first bubble that can be seen: what stands above it in its message depends on the one before.
  #findAnchor(): Place["anchor"] {
    const scroller = this.#scroller.current!;
    const { top, bottom } = scroller.getBoundingClientRect();
    for (const block of scroller.querySelectorAll(".block")) {
      const box = block.getBoundingClientRect();
      if (box.bottom <= top) continue;
      if (box.top >= bottom) break;
      for (const element of block.querySelectorAll(".bubble")) {
        const place = element.getBoundingClientRect();
        if (place.bottom > top) return { element, top: place.top };
      }
    }
    return null;
  }

  #readEarlierIfNear(): void {
    const { isReadingEarlier, timeline } = this.props;
    const isNear = this.#scroller.current!.scrollTop < EARLY_PX;
    if (isNear && timeline.hasEarlier && !isReadingEarlier && !this.state.hasFailed) void this.#readEarlier();
  }

  async #readEarlier(): Promise<void> {
    this.setState({ hasFailed: false });
    try {
      await this.props.onReadEarlier();
    } catch {
      this.setState({ hasFailed: true }); // shown in its place, with a button
    }
  }
}

