// Requests to the server. Every failure becomes an Error whose message is a sentence for the user.

const ABSENT = "The server does not answer. Look whether `ddim serve` still runs, then try again.";

/** Return what `act` returns. A lost connection becomes one sentence; each browser has other words for it. */
async function reach(act) {
  try {
    return await act();
  } catch (error) {
    throw error instanceof TypeError ? new Error(ABSENT) : error;
  }
}

async function request(method, path, { body, signal, ...headers } = {}) {
  const response = await reach(() => fetch(path, { method, headers, body, signal }));
  if (response.ok) return response;
  const { error } = await response.json().catch(() => ({}));
  throw new Error(error ?? `The server answered ${response.status} ${response.statusText}`);
}

async function ask(...asked) {
  const response = await request(...asked);
  const text = await reach(() => response.text());
  return text ? JSON.parse(text) : {};
}

const asJson = (body) => ({ "Content-Type": "application/json", body: JSON.stringify(body) });

/** Return the JSON of an address. */
export const get = (path, signal) => ask("GET", path, { signal });

/** Send JSON with any method; returns the JSON of the answer, {} if it is empty. */
export const send = (method, path, body = {}, signal) => ask(method, path, { ...asJson(body), signal });

/** Send JSON and return the JSON of the answer. */
export const post = (path, body, signal) => send("POST", path, body, signal);

/** Delete what is at an address. */
export const remove = (path, signal) => ask("DELETE", path, { signal });

/** Upload the bytes of an image under a name; returns {upload, name, url}. */
export function upload(blob, name, signal) {
  const type = blob.type || "application/octet-stream";
  const path = `/api/uploads?name=${encodeURIComponent(name)}`;
  return ask("POST", path, { "Content-Type": type, body: blob, signal });
}

/**
 * Send JSON and call `on[event](data)` for each event of the answer; returns the data of the event "done".
 * EventSource cannot send a body, so the stream is read here. If `signal` aborts the request, the server
 * cancels the work.
 */
export async function stream(path, body, on, signal) {
  const response = await request("POST", path, { ...asJson(body), Accept: "text/event-stream", signal });
  for await (const { event, data } of readEvents(response.body)) {
    if (event === "failed") throw new Error(data.error);
    if (event === "done") return data;
    on[event]?.(data);
  }
  throw new Error("The server ended before the work was done.");
}

async function* readEvents(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  try {
    for (;;) {
      const { value, done } = await reach(() => reader.read());
      if (done) return;
      const blocks = (text + value.replaceAll("\r", "")).split("\n\n");
      text = blocks.pop();
      yield* blocks.map(parseEvent).filter(({ data }) => data !== undefined);
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

function parseEvent(block) {
  const texts = { event: ["message"], data: [] };
  for (const [, name, text] of block.matchAll(/^(event|data): ?(.*)$/gm)) texts[name].push(text);
  const data = texts.data.length ? JSON.parse(texts.data.join("\n")) : undefined;
  return { event: texts.event.at(-1), data };
}

/** Return the address of a run below /api; the id comes from the server's list. */
export const runPath = (id, rest = "") => `/api/runs/${encodeURIComponent(id)}${rest}`;
