// Small things of the page. Text goes in through textContent and in no other way.

const NOTICE_MS = 6_000;

export const $ = (id) => document.getElementById(id);

export const newId = () =>
  Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");

export const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

export function make(tag, className, text = "") {
  const element = document.createElement(tag);
  if (className) element.className = className;
  element.textContent = text;
  return element;
}

export function makeButton(text, act) {
  const button = make("button", "", text);
  button.type = "button";
  button.addEventListener("click", act);
  return button;
}

export function paintAvatar(element, name) {
  const letters = [...name];
  element.textContent = letters[0] ?? "";
  const hue = letters.reduce((sum, letter) => (31 * sum + letter.codePointAt(0)) % 360, 7);
  element.style.setProperty("--hue", hue);
}

let noticeTimer = 0;

export function notify(text) {
  $("notice").textContent = text;
  clearTimeout(noticeTimer);
  noticeTimer = setTimeout(() => ($("notice").textContent = ""), NOTICE_MS);
}

export function onSubmit(id, act) {
  $(id).addEventListener("submit", (event) => {
    event.preventDefault();
    act();
  });
}
