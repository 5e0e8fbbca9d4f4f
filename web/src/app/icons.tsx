// Drawn with the text's own colour; none says anything by itself, the words beside them do.

import type { ReactNode } from "react";

function Icon({ children, size = 20 }: { children: ReactNode; size?: number }) {
  return (
    <svg
      width={size}
      height={size}
      viewBox="0 0 24 24"
      fill="none"
      stroke="currentColor"
      strokeWidth="2"
      strokeLinecap="round"
      strokeLinejoin="round"
      aria-hidden="true"
    >
      {children}
    </svg>
  );
}

export const PlusIcon = () => (
  <Icon>
    <path d="M12 5v14M5 12h14" />
  </Icon>
);

export const BackIcon = () => (
  <Icon>
    <path d="m15 5-7 7 7 7" />
  </Icon>
);

export const MoreIcon = () => (
  <Icon>
    <path d="M12 5h.01M12 12h.01M12 19h.01" strokeWidth="3" />
  </Icon>
);

export const SendIcon = () => (
  <Icon>
    <path d="M12 19V5M6 11l6-6 6 6" />
  </Icon>
);

export const DownIcon = () => (
  <Icon>
    <path d="M12 5v14M6 13l6 6 6-6" />
  </Icon>
);

export const CloseIcon = ({ size = 20 }: { size?: number }) => (
  <Icon size={size}>
    <path d="M6 6l12 12M18 6 6 18" />
  </Icon>
);

export const MutedIcon = () => (
  <Icon size={14}>
    <path d="M6 9a6 6 0 0 1 9.5-4.9M18 10c0 5 2 7 2 7H9M10 21h4M3 3l18 18M6 10c0 5-2 7-2 7" />
  </Icon>
);

export const ClockIcon = () => (
  <Icon size={14}>
    <circle cx="12" cy="12" r="9" />
    <path d="M12 7v5l3 2" />
  </Icon>
);

export const AlertIcon = () => (
  <Icon size={14}>
    <circle cx="12" cy="12" r="9" />
    <path d="M12 7v6M12 16.5h.01" />
  </Icon>
);

export const TickIcon = () => (
  <svg className="tick" width="16" height="12" viewBox="0 0 16 12" aria-hidden="true">
    <path d="m4 6.5 3 3 6-7" />
  </svg>
);

export const TwoTicksIcon = () => (
  <svg className="tick" width="20" height="12" viewBox="0 0 20 12" aria-hidden="true">
    <path d="m2 6.5 3 3 6-7M9 8.5l1 1 6-7" />
  </svg>
);
