// Talks to the server: docs/serve.md has the routes. Every failure is an Error whose message is the server's line.

let key = sessionStorage.getItem('key') ?? '';
let askForKey = async () => '';  // set by the page: asks the user, answers with a key or ''

export const hasKey = () => key !== '';
export function onKeyNeeded(ask) { askForKey = ask; }
export function setKey(text) {
  key = text.trim();
  sessionStorage.setItem('key', key);
}

const headers = () => (key ? {Authorization: `Bearer ${key}`} : {});

async function failure(response) {
  let error = {};
  try { error = (await response.json()).error ?? {}; } catch { /* not JSON */ }
  return Object.assign(new Error(error.message ?? `The server answered ${response.status}.`), {status: response.status, code: error.code, param: error.param});
}

// A fetch with the key; asks for one where the server wants another.
export async function request(path, options = {}) {
  let response;
  try {
    response = await fetch(path, {...options, headers: {...options.headers, ...headers()}});
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    throw Object.assign(new Error('The server does not answer.'), {status: 0});
  }
  if (response.status === 401) {
    const used = key;
    const given = await askForKey();
    if (given && given !== used) { setKey(given); return request(path, options); }
  }
  if (!response.ok) throw await failure(response);
  return response;
}

export const get = async (path) => (await request(path)).json();
export const post = async (path, body, options = {}) =>
  (await request(path, {method: 'POST', ...options, ...(body instanceof FormData ? {body} : {body: JSON.stringify(body ?? {}), headers: {'Content-Type': 'application/json', ...options.headers}})})).json();
export const remove = async (path) => (await request(path, {method: 'DELETE'})).json();

// An address for <img> and <video>, which cannot send a key: with one, the bytes are fetched here. release() when it is shown no more.
export async function media(path) {
  if (!key) return {url: path, release() {}};
  const url = URL.createObjectURL(await (await request(path)).blob());
  return {url, release: () => URL.revokeObjectURL(url)};
}

// Server-sent events of a job until its stream ends, the signal aborts, or the connection breaks: then once more after a while.
// (EventSource cannot send a key.)
export async function events(path, signal, handle) {
  while (!signal.aborted) {
    try {
      const reader = (await request(path, {signal})).body.pipeThrough(new TextDecoderStream()).getReader();
      let text = '';
      for (;;) {
        const {value, done} = await reader.read();
        if (done) break;
        text += value;
        const parts = text.split(/\r?\n\r?\n/);
        text = parts.pop();
        for (const part of parts) {
          let name = 'message', data = '';
          for (const line of part.split(/\r?\n/)) {
            if (line.startsWith('event:')) name = line.slice(6).trim();
            else if (line.startsWith('data:')) data += line.slice(5).trim();
          }
          if (data === '[DONE]') return;
          if (data) handle(name, JSON.parse(data));
        }
      }
    } catch (error) {
      if (signal.aborted || error.status === 404) return;
    }
    await new Promise((resolve) => setTimeout(resolve, 2000));
  }
}
