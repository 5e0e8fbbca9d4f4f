import { useEffect, useId, useRef, useState, type KeyboardEvent, type ReactNode } from "react";

export interface MenuEntry {
  readonly text: string;
  readonly act: () => void;
  // For one of several of which one holds, or something that is on or off.
  readonly isChecked?: boolean;
  readonly isDisabled?: boolean;
}

// A button that opens a list of things to do (ARIA's menu button).
export function Menu({ label, button, entries }: { label: string; button: ReactNode; entries: readonly MenuEntry[] }) {
  const [isOpen, setIsOpen] = useState(false);
  const root = useRef<HTMLDivElement>(null);
  const id = useId();

  const items = (): HTMLButtonElement[] => [...(root.current?.querySelectorAll<HTMLButtonElement>("[role^=menuitem]") ?? [])];

  useEffect(() => {
    if (isOpen) items()[0]?.focus();
  }, [isOpen]);

  const close = (): void => {
    setIsOpen(false);
    root.current?.querySelector("button")?.focus();
  };

  const onKeyDown = (event: KeyboardEvent): void => {
    const all = items();
    const at = all.indexOf(document.activeElement as HTMLButtonElement);
    const moves: Readonly<Record<string, number>> = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: -1 };
    const to = moves[event.key];
    if (event.key === "Escape" && isOpen) {
      event.stopPropagation();
      close();
    } else if (isOpen && to !== undefined) {
      event.preventDefault();
      all.at(to % all.length)?.focus();
    }
  };

  return (
    <div
      className="menu"
      ref={root}
      onKeyDown={onKeyDown}
      onBlur={(event) => {
        if (!event.currentTarget.contains(event.relatedTarget)) setIsOpen(false);
      }}
    >
      <button
        type="button"
        className="icon"
        aria-label={label}
        aria-haspopup="menu"
        aria-expanded={isOpen}
        aria-controls={isOpen ? id : undefined}
        onClick={() => setIsOpen(!isOpen)}
      >
        {button}
      </button>
      {isOpen && (
        <div className="menu-list" role="menu" id={id} aria-label={label}>
          {entries.map(({ text, act, isChecked, isDisabled = false }) => (
            <button
              key={text}
              type="button"
              role={isChecked === undefined ? "menuitem" : "menuitemcheckbox"}
              aria-checked={isChecked}
              disabled={isDisabled}
              onClick={() => {
                close();
                act();
              }}
            >
              <span className="check">{isChecked ? "✓" : ""}</span>
              {text}
            </button>
          ))}
        </div>
      )}
    </div>
  );
}
