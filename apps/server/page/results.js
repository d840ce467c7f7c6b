// Queue and gallery, from GET /v1/videos; what a running job does comes from its events.

import * as api from './api.js';

const $ = (selector) => document.querySelector(selector);
const kPoll = 2500;  // milliseconds between two lists
const kStreams = 2;  // of events at once: a browser keeps six connections to a host, and other tabs want some
const kPage = 24;

const jobs = new Map();      // id -> video object, newest state
const cards = new Map();     // id -> element in queue or gallery
const streams = new Map();   // id -> AbortController
let older = null, shown = null, wanted = kPage;
let callbacks = {message() {}, use() {}};

export function start(given) {
  callbacks = given;
  poll();
  document.addEventListener('visibilitychange', () => { if (!document.hidden) refresh(); });
  $('#older').addEventListener('click', () => { wanted += kPage; refresh(); });
}

const active = (job) => job.status === 'queued' || job.status === 'in_progress';
const path = (job, rest = '') => `/v1/videos/${encodeURIComponent(job.id)}${rest}`;

export function timeText(seconds) {
  if (seconds === null || seconds === undefined) return '';
  const whole = Math.max(1, Math.round(seconds));
  return whole < 90 ? `${whole} s` : whole < 5400 ? `${Math.round(whole / 60)} min` : `${(whole / 3600).toFixed(1)} h`;
}

async function poll() {
  if (!document.hidden) await refresh();
  setTimeout(poll, kPoll);
}

export async function refresh() {
  try {
    const found = [];
    let after = '', more = true;
    while (more && found.length < wanted) {
      const list = await api.get(`/v1/videos?limit=${Math.min(100, wanted - found.length)}&order=desc${after}`);
      found.push(...list.data);
      more = list.has_more;
      after = `&after=${encodeURIComponent(list.last_id ?? '')}`;
    }
    // Old jobs may still wait behind many newer ones that are done.
    for (const status of ['in_progress', 'queued']) {
      const list = await api.get(`/v1/videos?limit=100&status=${status}`);
      for (const job of list.data) if (!found.some((each) => each.id === job.id)) found.push(job);
    }
    older = more;
    const ids = new Set(found.map((job) => job.id));
    for (const id of [...jobs.keys()]) if (!ids.has(id)) drop(id);
    for (const job of found) jobs.set(job.id, {...jobs.get(job.id), ...job});
    show();
    $('#server-state').textContent = '';
  } catch (error) {
    $('#server-state').textContent = error.message;
  }
}

export function add(job) {
  jobs.set(job.id, job);
  show();
}

function drop(id) {
  streams.get(id)?.abort();
  streams.delete(id);
  cards.get(id)?.release?.();
  cards.get(id)?.remove();
  cards.delete(id);
  jobs.delete(id);
}

function show() {
  const all = [...jobs.values()];
  const waiting = all.filter(active).sort((a, b) =>
    (a.status === 'queued') - (b.status === 'queued') || (a.queue_position ?? 0) - (b.queue_position ?? 0) || a.created_at - b.created_at);
  const done = all.filter((job) => !active(job)).sort((a, b) => (b.completed_at ?? 0) - (a.completed_at ?? 0) || b.id.localeCompare(a.id));
  arrange($('#queue'), waiting, queueCard);
  arrange($('#gallery'), done, galleryCard);
  $('#queue-empty').hidden = waiting.length > 0;
  $('#gallery-empty').hidden = done.length > 0;
  $('#older').hidden = !older;
  const running = waiting.filter((job) => job.status === 'in_progress').slice(0, kStreams);
  for (const job of running) if (!streams.has(job.id)) follow(job);
}

// Puts cards in order without touching those that are in place: focus and pictures stay.
function arrange(list, order, make) {
  order.forEach((job, place) => {
    let card = cards.get(job.id);
    if (card && card.parentNode !== list) { card.release?.(); card.remove(); card = null; }
    if (!card) { card = make(job); cards.set(job.id, card); }
    card.update(job);
    if (list.children[place] !== card) list.insertBefore(card, list.children[place] ?? null);
  });
  for (const card of [...list.children].slice(order.length)) card.remove();
}

async function follow(job) {
  const abort = new AbortController();
  streams.set(job.id, abort);
  await api.events(path(job, '/events'), abort.signal, (name, data) => {
    const known = jobs.get(job.id);
    if (!known) return;
    if (name === 'video') jobs.set(job.id, {...known, ...data});
    else if (name === 'progress' || name === 'queue') jobs.set(job.id, {...known, ...data});
    else if (name === 'preview') cards.get(job.id)?.picture?.(data.path);
    else if (name === 'deleted') return drop(job.id);
    show();
  });
  if (streams.get(job.id) === abort) streams.delete(job.id);
  refresh();
}

function make(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

// --- A job that waits or runs

const kPhases = {load: 'Loading the model', encode: 'Reading the prompt', denoise: 'Denoising', decode: 'Decoding'};

function stateText(job) {
  if (job.status === 'queued') return job.queue_position ? `Waits, ${job.queue_position} before it` : 'Waits, next';
  let text = kPhases[job.phase] ?? 'Starting';
  if (job.phase === 'denoise' && job.steps) text += `, step ${job.step} of ${job.steps}`;
  const left = timeText(job.seconds_left);
  return left ? `${text}, ${left} left` : text;
}

function queueCard(job) {
  const card = make('li'), picture = make('div', 'picture', 'Preview'), middle = make('div');
  const prompt = make('p', 'prompt', job.prompt), state = make('p', 'quiet'), bar = make('progress'), cancel = make('button', 'plain', 'Cancel');
  card.dataset.id = job.id;
  bar.max = 100;
  bar.setAttribute('aria-label', `Progress of ${job.prompt}`);
  cancel.type = 'button';
  cancel.setAttribute('aria-label', `Cancel ${job.prompt}`);
  middle.append(prompt, bar, state);
  card.append(picture, middle, cancel);
  cancel.addEventListener('click', async () => {
    cancel.disabled = true;
    try { jobs.set(job.id, {...jobs.get(job.id), ...(await api.post(path(job, '/cancel')))}); show(); } catch (error) { callbacks.message(error.message); }
    cancel.disabled = false;
  });
  card.update = (now) => {
    state.textContent = stateText(now);
    if (now.status === 'queued') bar.value = 0; else bar.value = now.progress ?? 0;
  };
  let held = null;
  card.picture = async (address) => {
    try {
      const next = await api.media(address);
      const image = make('img');
      image.alt = 'What the job makes at this moment';
      image.src = next.url;
      await image.decode();
      picture.replaceChildren(image);
      held?.release();
      held = next;
    } catch { /* the next one will do */ }
  };
  card.release = () => held?.release();
  return card;
}

// --- A job that is done

function galleryCard(job) {
  const card = make('li'), button = make('button', 'plain'), text = make('span', 'text');
  card.dataset.id = job.id;
  button.type = 'button';
  text.append(make('span', 'prompt', job.prompt));
  let held = null;
  if (job.status === 'completed') {
    const image = make('img');
    image.alt = '';
    image.loading = 'lazy';
    api.media(path(job, '/content?variant=thumbnail')).then((media) => { held = media; image.src = media.url; }, () => {});
    button.append(image);
    text.append(make('span', 'quiet', `${job.size}, ${job.num_frames} frames`));
  } else {
    button.append(make('span', 'failed', job.cancelled ? 'Cancelled' : job.error?.message ?? 'Failed'));
  }
  button.append(text);
  button.addEventListener('click', () => view(job.id));
  card.append(button);
  card.update = () => {};
  card.release = () => held?.release();
  return card;
}

// --- The viewer

const viewer = $('#viewer');
let held = null;

async function view(id) {
  const job = jobs.get(id);
  if (!job) return;
  shown = id;
  $('#viewer-title').textContent = job.prompt;
  $('#player').replaceChildren();
  $('#download').hidden = job.status !== 'completed';
  if (job.error) $('#player').append(make('p', 'bad', job.error.message));
  const told = {Model: job.model, Size: `${job.width} × ${job.height}, ${job.num_frames} frames, ${job.fps} a second`, Seed: job.seed, ...Object.fromEntries(
    Object.entries(job.request ?? {}).filter(([name]) => !['prompt', 'seed', 'width', 'height', 'num_frames', 'fps', 'size'].includes(name)).map(([name, value]) => [name.replaceAll('_', ' '), [value].flat().map((each) => typeof each === 'object' ? JSON.stringify(each) : each).join(', ')])),
    Device: job.device, 'Took': job.timings?.total != null ? `${job.timings.total.toFixed(1)} s` : null, Notes: job.notes?.join('\n')};
  $('#settings').replaceChildren(...Object.entries(told).filter(([, value]) => value !== null && value !== undefined && value !== '')
    .flatMap(([name, value]) => [make('dt', '', name), make('dd', '', String(value))]));
  viewer.showModal();
  if (job.status !== 'completed') return;
  try {
    held = await api.media(path(job, '/content'));
    const picture = job.media_type?.startsWith('image/');
    const player = make(picture ? 'img' : 'video');
    if (picture) player.alt = job.prompt;
    else Object.assign(player, {controls: true, loop: true, autoplay: true, muted: true, playsInline: true});
    player.src = held.url;
    $('#player').replaceChildren(player);
    $('#download').href = held.url;
    $('#download').download = `${id}.${(job.media_type ?? 'video/mp4').split('/')[1]}`;
  } catch (error) { callbacks.message(error.message); }
}

viewer.addEventListener('close', () => { $('#player').replaceChildren(); held?.release(); held = null; shown = null; });

$('#again').addEventListener('click', async () => {
  const job = jobs.get(shown);
  if (!job) return;
  try {
    add(await api.post(path(job, '/remix'), {prompt: job.prompt, seed: -1}));
    viewer.close();
  } catch (error) { callbacks.message(error.message); }
});
$('#use').addEventListener('click', () => {
  const job = jobs.get(shown);
  if (job) callbacks.use({...job.request, model: job.model, seed: job.seed});
  viewer.close();
});
$('#delete').addEventListener('click', async () => {
  const id = shown;
  viewer.close();
  try { await api.remove(`/v1/videos/${encodeURIComponent(id)}`); drop(id); show(); } catch (error) { callbacks.message(error.message); }
});
