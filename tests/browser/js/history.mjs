// Ten thousand messages: scrolled to the first without a jump and without a stutter; a thousand more come in, and neither
// the page nor its memory grows with them.

import assert from "node:assert/strict";

import { api, eventually, Person, scenario } from "./people.mjs";

const HISTORY = 10_000;
const LIVE = 1_000;
// As many as fill the batches of the server.
const AT_ONCE = 400;
// Work of the page's thread for each frame, its own time on the processor: the machine does other things, too. Without
// skipping what is far away it is several times that.
const FRAME_MS = 16;
const FRAMES = 120;
// Larger ones are seen as a jump.
const JUMP_PX = 3;
const GROWTH_BYTES = 12 << 20;

const words = "the tide comes in twice a day and takes what was not tied".split(" ");
const textOf = (number) => `${number} ${words.slice(0, 1 + (number % words.length)).join(" ")}`;

// Sent from a page over a connection of its own, as many at once as one may.
async function fill({ token, conversationId, contents, atOnce }) {
  const socket = new WebSocket(`${location.origin.replace("http", "ws")}/ws`, ["v12.stomp"]);
  const write = (command, headers, body = "") => {
    const head = Object.entries(headers).map(([name, value]) => `${name}:${value}\n`);
    socket.send(`${command}\n${head.join("")}\n${body}\0`);
  };
  let next = 0;
  const sendOne = () => {
    const content = contents[next++];
    const headers = { destination: "/app/chat.send", "content-type": "application/json", receipt: next };
    write("SEND", headers, JSON.stringify({ conversationId, content, type: "text" }));
  };
  let answered = 0;
  await new Promise((resolve, reject) => {
    socket.onclose = () => reject(new Error("closed"));
    socket.onopen = () => write("CONNECT", { "accept-version": "1.2", passcode: token, "heart-beat": "0,0" });
    socket.onmessage = ({ data }) => {
      for (const [frame] of data.matchAll(/(CONNECTED|RECEIPT|ERROR)\n/g)) {
        if (frame === "ERROR\n") reject(new Error(data));
        else if (frame === "CONNECTED\n") for (let count = 0; count < Math.min(atOnce, contents.length); count += 1) sendOne();
        else if ((answered += 1) === contents.length) resolve();
        else if (next < contents.length) sendOne();
      }
    };
  });
  socket.onclose = null;
  socket.close();
}

const contents = (from, to) => Array.from({ length: to - from + 1 }, (_, index) => textOf(from + index));

await scenario(async (browser) => {
  const ann = await Person.arrive(browser);
  const bob = await api(`writer-${Date.now()}`);
  const write = (from, to) =>
    ann.page.evaluate(fill, { token: bob.token, conversationId, contents: contents(from, to), atOnce: AT_ONCE });
  const { conversationId } = await bob("POST", "/conversations", { type: "group", memberIds: [ann.name], title: "Tides" });
  await write(1, HISTORY);
  await ann.page.evaluate((id) => (location.hash = id), conversationId);
  await ann.page.locator(`.message[data-seq="${HISTORY}"]`).waitFor();

  // Up to the first, watched all the way.
  const watched = await ann.page.evaluate(scrollToTheFirst);
  assert.equal(watched.first, 1);
  assert.equal(watched.count, HISTORY);
  assert.ok(watched.worstJump <= JUMP_PX, `a jump of ${watched.worstJump} px`);

  // All of it is here now: how much work is it to go through it?
  const inspector = await ann.context.newCDPSession(ann.page);
  await inspector.send("Performance.enable", { timeDomain: "threadTicks" });
  const workMs = async () => {
    const { metrics } = await inspector.send("Performance.getMetrics");
    return 1_000 * metrics.find(({ name }) => name === "TaskDuration").value;
  };
  const begun = await workMs();
  await ann.page.evaluate(scrollDown, FRAMES);
  const frameMs = ((await workMs()) - begun) / FRAMES;
  console.log(`${HISTORY} messages: ${frameMs.toFixed(1)} ms of work a frame, jumps of ${watched.worstJump} px`);
  assert.ok(frameMs < FRAME_MS, `${frameMs} ms of work for each frame`);

  // Down again: most of it is forgotten.
  await ann.page.getByRole("button", { name: "To the latest" }).click();
  await eventually(async () => assert.ok((await ann.page.locator(".message").count()) <= 400));

  // A thousand live ones.
  const heap = async () => {
    await inspector.send("HeapProfiler.collectGarbage");
    return (await inspector.send("Runtime.getHeapUsage")).usedSize;
  };
  const before = await heap();
  await write(HISTORY + 1, HISTORY + LIVE);
  await ann.page.locator(`.message[data-seq="${HISTORY + LIVE}"]`).waitFor();
  await eventually(async () => assert.ok((await ann.page.locator(".message").count()) <= 400));
  const grown = (await heap()) - before;
  assert.ok(grown < GROWTH_BYTES, `the page has grown by ${grown} bytes`);
  console.log(`${LIVE} live messages: the heap has grown by ${grown >> 10} KiB`);
  ann.assertNoProblems();
});

// In the page: scrolls up as fast as one can with a wheel, and looks at each frame how far a message moved beyond what was scrolled.
async function scrollToTheFirst() {
  const scroller = document.querySelector(".scroller");
  const frame = () => new Promise((resolve) => requestAnimationFrame(resolve));
  let worstJump = 0;
  for (;;) {
    const { top, bottom, left } = scroller.getBoundingClientRect();
    const middle = (top + bottom) / 2;
    const anchor = [60, scroller.clientWidth / 2, scroller.clientWidth - 60]
      .flatMap((x) => document.elementsFromPoint(left + x, middle))
      .map((element) => element.closest(".bubble"))
      .find(Boolean);
    const before = anchor?.getBoundingClientRect().top;
    const wanted = Math.min(1_500, scroller.scrollTop);
    scroller.scrollTop -= wanted;
    await frame();
    if (anchor?.isConnected) worstJump = Math.max(worstJump, Math.abs(anchor.getBoundingClientRect().top - before - wanted));
    if (scroller.scrollTop === 0 && document.querySelector('.message[data-seq="1"]')) break;
  }
  const messages = document.querySelectorAll(".message");
  return {
    first: Number(messages[0].dataset.seq),
    count: messages.length,
    worstJump: Math.round(worstJump * 10) / 10,
  };
}

async function scrollDown(frames) {
  const scroller = document.querySelector(".scroller");
  for (let frame = 0; frame < frames; frame += 1) {
    scroller.scrollTop += 400;
    await new Promise((resolve) => requestAnimationFrame(resolve));
  }
}
