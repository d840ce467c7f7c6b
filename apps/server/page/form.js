// The form of a request. What a model takes, and with which defaults, is read from GET /v1/models: no field is written here that the
// server's table of request fields could tell.

import * as api from './api.js';

const form = document.querySelector('#request');
const $ = (selector) => form.querySelector(selector);
const stored = JSON.parse(localStorage.getItem('request') ?? '{}');

let models = [], fields = new Map(), loraNames = [];
const files = new Map();  // of a field: File objects

// Those with a place of their own in the page; all others are listed under "More settings".
const kPlaced = new Set(['prompt', 'negative_prompt', 'width', 'height', 'num_frames', 'preset', 'num_inference_steps', 'guidance_scale', 'seed', 'lora', 'lora_high', 'lora_low']);
// Of no use in a page: the same in other words, or settled by the server.
const kLeftOut = new Set(['size', 'lora_mode', 'lora_allow_unused', 'guidance_batch']);

const words = (name) => { const text = name.replaceAll('_', ' '); return text[0].toUpperCase() + text.slice(1); };
export const model = () => models.find((each) => each.id === form.elements.model.value) ?? models[0];
export const fieldWords = words;

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes))
    if (name in made) made[name] = value; else made.setAttribute(name, value);
  made.append(...children);
  return made;
}

export async function load() {
  const [list, loras] = await Promise.all([api.get('/v1/models'), api.get('/v1/loras')]);
  models = list.data;
  fields = new Map(list.request_fields.map((field) => [field.name, field]));
  loraNames = loras.data.map((lora) => lora.id);
  form.elements.model.replaceChildren(...models.map((each) => element('option', {value: each.id, textContent: `${each.id} (${each.recipe})`})));
  form.elements.preset.replaceChildren(...(fields.get('preset')?.choices ?? ['none']).map((name) => element('option', {value: name, textContent: name})));
  if (models.some((each) => each.id === stored.model)) form.elements.model.value = stored.model;
  showModel();
  fill(stored);
}

// --- What the chosen model takes

function showModel() {
  const chosen = model();
  const takes = (name) => chosen.fields.includes(name);
  for (const [name, value] of Object.entries(chosen.defaults ?? {}))
    if (form.elements[name] && value !== null) form.elements[name].placeholder = value;
  for (const name of kPlaced) {
    const control = form.elements[name];
    if (control?.closest) control.closest('label').hidden = !takes(name);
    if (control && fields.has(name)) control.title = fields.get(name).help;
  }
  for (const name of [...files.keys()]) if (!takes(name)) files.delete(name);
  $('#main-files').replaceChildren(...chosen.files.filter((name) => fields.has(name)).map(dropZone));
  $('#loras').hidden = loraNames.length === 0;
  const values = new FormData(form);
  $('#more').replaceChildren(...chosen.fields
    .filter((name) => fields.has(name) && !kPlaced.has(name) && !kLeftOut.has(name) && !chosen.files.includes(name))
    .map((name) => control(fields.get(name), values.get(name) ?? '')));
  showLoras();
}

function control(field, value) {
  const attributes = {name: field.name, title: field.help};
  let input;
  if (field.choices?.length) {
    input = element('select', attributes, element('option', {value: '', textContent: `${field.default || 'default'}`}),
                    ...field.choices.map((name) => element('option', {value: name, textContent: name})));
  } else if (field.type === 'true or false') {
    input = element('select', attributes, element('option', {value: '', textContent: field.default || 'false'}), element('option', {value: 'true', textContent: 'true'}));
  } else if (field.type === 'whole number' || field.type === 'number') {
    input = element('input', {...attributes, type: 'number', step: field.type === 'number' ? 'any' : '1', placeholder: field.default ?? ''});
    if (field.min !== null) input.min = field.min;
    if (field.max !== null) input.max = field.max;
  } else {
    input = element('input', {...attributes, type: 'text', placeholder: field.default ?? ''});
  }
  input.value = value;
  return element('label', {}, words(field.name), ' ', input);
}

// --- Files

function dropZone(name) {
  const field = fields.get(name);
  const movie = name === 'video' || name === 'mask';
  const several = field.is_list;
  const input = element('input', {type: 'file', accept: movie ? 'video/*,image/*' : 'image/png,image/jpeg,image/webp', multiple: several, title: field.help});
  input.dataset.file = name;
  const zone = element('label', {className: 'drop', title: field.help}, input);
  const take = (list) => {
    const chosen = [...list].filter((file) => file.size > 0);
    if (chosen.length) files.set(name, several ? [...(files.get(name) ?? []), ...chosen] : chosen.slice(0, 1));
    show();
    form.dispatchEvent(new Event('change'));
  };
  const show = () => {
    for (const shown of zone.querySelectorAll('img, video')) URL.revokeObjectURL(shown.src);
    zone.replaceChildren(input);
    for (const file of files.get(name) ?? []) {
      const url = URL.createObjectURL(file);
      zone.append(file.type.startsWith('video/') ? element('video', {src: url, muted: true, loop: true, autoplay: true}) : element('img', {src: url, alt: file.name}));
    }
    const text = element('span', {className: 'drop-row'}, files.has(name) ? files.get(name).map((file) => file.name).join(', ') : `${words(name)}: drop it here, or choose a file`);
    if (files.has(name)) {
      const clear = element('button', {type: 'button', textContent: 'Remove'});
      clear.addEventListener('click', (event) => { event.preventDefault(); files.delete(name); input.value = ''; show(); form.dispatchEvent(new Event('change')); });
      text.append(clear);
    }
    zone.append(text);
  };
  input.addEventListener('change', () => take(input.files));
  zone.addEventListener('dragover', (event) => { event.preventDefault(); zone.classList.add('over'); });
  zone.addEventListener('dragleave', () => zone.classList.remove('over'));
  zone.addEventListener('drop', (event) => { event.preventDefault(); zone.classList.remove('over'); take(event.dataTransfer.files); });
  show();
  return zone;
}

// --- LoRAs

function addLora({name = loraNames[0], strength = 1, field = 'lora'} = {}) {
  const experts = ['lora', 'lora_high', 'lora_low'].filter((each) => model().fields.includes(each));
  const texts = {lora: 'everywhere', lora_high: 'high noise', lora_low: 'low noise'};
  const drop = element('button', {type: 'button', className: 'plain', textContent: '×', ariaLabel: `Remove LoRA ${name}`});
  const row = element('li', {},
    element('select', {className: 'lora-name', ariaLabel: 'LoRA'}, ...loraNames.map((each) => element('option', {value: each, textContent: each, selected: each === name}))),
    element('input', {className: 'lora-strength', type: 'number', step: '0.05', value: strength, ariaLabel: 'Strength'}),
    element('select', {className: 'lora-field', ariaLabel: 'Expert', hidden: experts.length < 2}, ...experts.map((each) => element('option', {value: each, textContent: texts[each], selected: each === field}))),
    drop);
  drop.addEventListener('click', () => { row.remove(); form.dispatchEvent(new Event('change')); });
  $('#loras ul').append(row);
}
$('#add-lora').addEventListener('click', () => { addLora(); form.dispatchEvent(new Event('change')); });

const loraRows = () => [...form.querySelectorAll('#loras li')].map((row) =>
  ({name: row.querySelector('.lora-name').value, strength: Number(row.querySelector('.lora-strength').value), field: row.querySelector('.lora-field').value || 'lora'}));

function showLoras() {  // the experts a LoRA may be for follow from the model
  const rows = loraRows();
  $('#loras ul').replaceChildren();
  rows.forEach(addLora);
}

// --- The request

// As JSON; fields that are left open are the model's.
export function values() {
  const request = {model: model()?.id};
  for (const [name, value] of new FormData(form))
    if (name !== 'model' && typeof value === 'string' && value.trim() !== '' && model().fields.includes(name)) request[name] = value;
  if (request.preset === 'none') delete request.preset;
  for (const {name, strength, field} of loraRows()) (request[field] ??= []).push(`${name}=${strength}`);
  return request;
}

// What POST /v1/videos takes: JSON, or a form where there are files.
export function body(request = values()) {
  if (!files.size) return request;
  const data = new FormData();
  for (const [name, value] of Object.entries(request)) for (const each of [value].flat()) data.append(name, each);
  for (const [name, list] of files) for (const file of list) data.append(name, file, file.name);
  return data;
}

// Sets the form from the fields of a request; files stay as they are.
export function fill(request) {
  if (request.model && models.some((each) => each.id === request.model)) { form.elements.model.value = request.model; showModel(); }
  for (const control of form.elements) {
    if (!control.name || control.name === 'model') continue;
    const value = [request[control.name]].flat()[0];
    control.value = value ?? (control.name === 'preset' ? 'none' : '');
  }
  $('#loras ul').replaceChildren();
  for (const field of ['lora', 'lora_high', 'lora_low'])
    for (const text of [request[field] ?? []].flat()) {
      const at = text.lastIndexOf('=');
      const name = at < 0 ? text : text.slice(0, at);
      if (loraNames.includes(name)) addLora({name, strength: at < 0 ? 1 : Number(text.slice(at + 1)), field});
    }
}

export function remember() { localStorage.setItem('request', JSON.stringify(values())); }

form.elements.model.addEventListener('change', showModel);
form.addEventListener('reset', () => setTimeout(() => {
  files.clear();
  $('#loras ul').replaceChildren();
  showModel();
  form.dispatchEvent(new Event('change'));
}));
