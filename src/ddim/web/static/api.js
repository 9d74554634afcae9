// Requests to the server. Every failure becomes an Error whose message is a sentence for the user.

const ABSENT = "The server does not answer. Look whether `ddim serve` still runs, then try again.";

async function request(path, options = {}) {
  let response;
  try {
    response = await fetch(path, { credentials: "same-origin", ...options });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error(ABSENT);
  }
  if (!response.ok) throw new Error(await sentence(response));
  return response;
}

async function sentence(response) {
  try {
    const { error, detail } = await response.json();
    if (typeof error === "string") return error;
    if (typeof detail === "string") return detail;
  } catch {
    /* the answer is not JSON */
  }
  return `The server answered ${response.status} ${response.statusText}`.trim() + ".";
}

const json = (body) => ({
  method: "POST",
  headers: { "Content-Type": "application/json" },
  body: JSON.stringify(body),
});

/** Return the JSON of an address. */
export const get = async (path, signal) => (await request(path, { signal })).json();

/** Return the bytes at an address. */
export const getBlob = async (path, signal) => (await request(path, { signal })).blob();

/** Send JSON with an HTTP method and return the JSON of the answer. */
export async function send(method, path, body = {}, signal) {
  const text = await (await request(path, { ...json(body), method, signal })).text();
  return text ? JSON.parse(text) : {};
}

/** Send JSON by POST and return the JSON of the answer. */
export const post = (path, body, signal) => send("POST", path, body, signal);

/** Upload the bytes of an image under a name; returns {upload, width, height}. */
export async function upload(blob, name, signal) {
  const headers = { "Content-Type": blob.type || "application/octet-stream" };
  const address = `/api/uploads?name=${encodeURIComponent(name)}`;
  return (await request(address, { method: "POST", headers, body: blob, signal })).json();
}

/**
 * Send JSON and call `on[event](data)` for each event of the answer; returns the data of the event "done".
 * EventSource cannot send a body, so the stream is read here. If `signal` aborts the request, the server
 * cancels the work.
 */
export async function stream(path, body, on, signal) {
  const options = json(body);
  options.headers.Accept = "text/event-stream";
  const response = await request(path, { ...options, signal });
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
      const { value, done } = await reader.read();
      if (done) return;
      text += value.replaceAll("\r", "");
      let end;
      while ((end = text.indexOf("\n\n")) >= 0) {
        const event = parseEvent(text.slice(0, end));
        text = text.slice(end + 2);
        if (event) yield event;
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

function parseEvent(block) {
  let event = "message";
  const data = [];
  for (const line of block.split("\n")) {
    if (line.startsWith("event:")) event = line.slice(6).trim();
    if (line.startsWith("data:")) data.push(line.slice(5).trimStart());
  }
  return data.length ? { event, data: JSON.parse(data.join("\n")) } : null;
}

/** Return the address of a run below /api; the id comes from the server's list. */
export const runPath = (id, rest = "") => `/api/runs/${encodeURIComponent(id)}${rest}`;
