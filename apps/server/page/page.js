// The page: the form, what its request would take, and what becomes of it.

import * as api from './api.js';
import * as form from './form.js';
import * as results from './results.js';

const $ = (selector) => document.querySelector(selector);
const request = $('#request'), send = request.querySelector('[type=submit]');

function message(text) {
  const line = document.createElement('p');
  line.textContent = text;
  $('#messages').append(line);
  setTimeout(() => line.remove(), 12000);
}

// --- The key

api.onKeyNeeded(() => new Promise((resolve) => {
  const dialog = $('#key-dialog');
  if (dialog.open) { dialog.addEventListener('close', () => resolve(sessionStorage.getItem('key') ?? ''), {once: true}); return; }
  dialog.showModal();
  dialog.addEventListener('close', () => { $('#key-button').hidden = false; resolve($('#key').value.trim()); }, {once: true});
}));
$('#key-button').addEventListener('click', () => {
  $('#key-dialog').showModal();
  $('#key-dialog').addEventListener('close', () => { api.setKey($('#key').value); location.reload(); }, {once: true});
});
$('#key-button').hidden = !api.hasKey();

// --- What a request takes, said before it is sent

const gib = (bytes) => bytes >= 2 ** 30 ? `${(bytes / 2 ** 30).toFixed(1)} GiB` : `${Math.ceil(bytes / 2 ** 20)} MiB`;
let asked = 0, timer = 0;

function planText(plan) {
  if (!plan.fits) return plan.refusal;
  const parts = [`${plan.width} × ${plan.height}, ${plan.num_frames} frames at ${plan.fps} a second, ${plan.steps} steps`];
  if (plan.memory_bytes?.planned) parts.push(`takes ${gib(plan.memory_bytes.planned)} of ${gib(plan.memory_bytes.free)} on ${plan.device}`);
  if (plan.estimate?.seconds != null) parts.push(`about ${results.timeText(plan.estimate.seconds)}`);
  if (plan.queue_length) parts.push(`${plan.queue_length} before it${plan.queue_seconds != null ? ` (${results.timeText(plan.queue_seconds)})` : ''}`);
  return [`${parts.join('; ')}.`, ...(plan.notes ?? [])].join('\n');
}

async function plan() {
  const ticket = ++asked;
  const values = form.values();
  const line = $('#plan');
  let text = '', bad = false;
  try {
    // A prompt is only missing as long as nobody has typed one.
    const answer = await api.post('/v1/videos/plan', form.body({...values, prompt: values.prompt ?? ' '}));
    text = planText(answer);
    bad = !answer.fits;
  } catch (error) {
    text = error.message;
    bad = true;
  }
  if (ticket !== asked) return;
  line.textContent = text;
  line.classList.toggle('bad', bad);
}

function changed() {
  form.remember();
  clearTimeout(timer);
  timer = setTimeout(plan, 300);
}
request.addEventListener('input', changed);
request.addEventListener('change', changed);

// --- Sending

request.addEventListener('submit', async (event) => {
  event.preventDefault();
  send.disabled = true;
  try {
    const values = form.values();
    // Pressed again, another video: a seed that nobody chose is a random one.
    const job = await api.post('/v1/videos', form.body({...values, seed: values.seed ?? '-1'}), {headers: {'Idempotency-Key': crypto.randomUUID?.() ?? `${Date.now()}-${Math.random()}`}});
    results.add(job);
    if (job.notes?.length) message(job.notes.join('\n'));
    if (innerWidth < 832) $('#queue-title').scrollIntoView();
  } catch (error) {
    message(error.message);
    const control = error.param && request.elements[error.param];
    if (control?.focus) control.focus();
  }
  send.disabled = false;
});
request.addEventListener('keydown', (event) => {
  if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) request.requestSubmit();
});

// A file dropped beside a drop zone must not replace the page.
for (const name of ['dragover', 'drop']) addEventListener(name, (event) => event.preventDefault());

try {
  await form.load();
  changed();
} catch (error) {
  $('#server-state').textContent = error.message;
}
results.start({message, use(values) { form.fill(values); changed(); request.elements.prompt.focus(); }});
