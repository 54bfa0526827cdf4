'use strict';
// The page's data → what is shown. The state lives in the address; every change goes through go().
// Text from datasets only ever becomes text nodes and attributes, never HTML.
const $ = (id) => document.getElementById(id);
const data = JSON.parse($('data').textContent);
const pictures = JSON.parse($('pictures').textContent);
const DEFAULTS = { tab: 'overview', set: '0', q: '', show: 'all', cam: '', ap: '1', sort: 'data' };
const FILTERS = ['show', 'cam', 'ap', 'sort'];
const ROW = 30; // pixels of a row of the list, as in the style sheet
const SHOW = {
  all: () => true,
  wrong: (query) => query.ap !== null && query.firstRank !== 1,
  right: (query) => query.firstRank === 1,
  none: (query) => query.ap === null,
};
const ORDER = {
  data: (a, b) => a.row - b.row,
  ap: (a, b) => (a.ap ?? 2) - (b.ap ?? 2) || a.row - b.row,
  '-ap': (a, b) => (b.ap ?? -1) - (a.ap ?? -1) || a.row - b.row,
  rank: (a, b) => b.firstRank - a.firstRank || a.row - b.row,
};
const highest = data.tracklets.reduce((top, t) => Math.max(top, ...(t.attention ?? [])), 0); // one scale for all bars
let state = {};
let listed = []; // queries that pass the filters, in order
let shownQuery = null;

function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name !== 'style') node.setAttribute(name, value);
    else for (const [key, text] of Object.entries(value)) node.style.setProperty(key, text);
  }
  node.append(...children.filter((child) => child !== null));
  return node;
}

const percent = (share) => `${Math.round(100 * share)}%`; // to be read
const exact = (share) => `${100 * share}%`; // to be drawn
const dataset = () => data.datasets[state.set];

// --- state ---------------------------------------------------------------------------------------
function read() {
  state = { ...DEFAULTS, ...Object.fromEntries(new URLSearchParams(location.hash.slice(1))) };
  if (!document.querySelector(`nav a[data-tab="${CSS.escape(state.tab)}"]`)) state.tab = 'overview';
  if (!/^\d+$/.test(state.set) || !data.datasets[state.set]) state.set = '0';
  if (!Object.hasOwn(SHOW, state.show)) state.show = 'all';
  if (!Object.hasOwn(ORDER, state.sort)) state.sort = 'data';
  if (!(Number(state.ap) >= 0 && Number(state.ap) <= 1)) state.ap = '1';
  if (!cameras().includes(state.cam)) state.cam = '';
  render();
}

function go(changes) {
  Object.assign(state, changes);
  const said = Object.entries(state).filter(([key, value]) => value !== DEFAULTS[key]);
  history.replaceState(null, '', `#${new URLSearchParams(said)}`);
  render();
}

function render() {
  for (const link of document.querySelectorAll('nav a')) {
    link.ariaCurrent = link.dataset.tab === state.tab ? 'page' : null;
    $(link.dataset.tab).hidden = link.ariaCurrent === null;
  }
  if (state.tab === 'queries') renderQueries();
  if (state.tab === 'memory' && !$('memory').hasChildNodes()) renderMemory();
}

// --- queries -------------------------------------------------------------------------------------
function cameras() {
  const found = new Set(dataset().queries.map((query) => data.tracklets[query.tracklet].camid));
  return [...found].sort((a, b) => a - b).map(String);
}

function renderQueries() {
  const limit = Number(state.ap);
  const { queries, numQueries } = dataset();
  listed = queries.filter((query) => SHOW[state.show](query)
    && (state.cam === '' || String(data.tracklets[query.tracklet].camid) === state.cam)
    && (limit === 1 || (query.ap !== null && query.ap <= limit)));
  listed.sort(ORDER[state.sort]);
  const options = cameras().map((camid) => el('option', { value: camid }, camid));
  $('cam').replaceChildren(el('option', { value: '' }, 'all'), ...options);
  for (const name of [...FILTERS, 'set']) $(name).value = state[name];
  $('ap-value').textContent = limit.toFixed(2);
  $('count').textContent = `${listed.length} of ${queries.length} queries`
    + (queries.length < numQueries ? `, a sample of ${numQueries}` : '');
  $('rows').style.height = `${ROW * listed.length}px`;
  const chosen = listed.find((query) => String(query.row) === state.q) ?? listed[0] ?? null;
  reveal(Math.max(listed.indexOf(chosen), 0));
  if (chosen === null) $('detail').replaceChildren(el('p', { class: 'empty' }, 'No query passes these filters.'));
  else if (chosen !== shownQuery) $('detail').replaceChildren(...describe(chosen));
  shownQuery = chosen;
  renderRows();
}

function renderRows() {
  const list = $('list');
  const first = Math.max(Math.floor(list.scrollTop / ROW) - 5, 0);
  const count = Math.ceil(list.clientHeight / ROW) + 10;
  $('rows').replaceChildren(...listed.slice(first, first + count).map((query, i) => {
    const { pid, camid } = data.tracklets[query.tracklet];
    const [kind, mark, said] = verdict(query);
    return el('div', {
      id: `q${query.row}`, class: `row ${kind}`, role: 'option', 'data-row': query.row,
      'aria-selected': query === shownQuery, 'aria-posinset': first + i + 1,
      'aria-setsize': listed.length, style: { '--top': `${ROW * (first + i)}px` },
    },
    symbol(mark, said), el('span', {}, `#${query.row}`),
    el('span', { class: 'who' }, `pid ${pid} · cam ${camid}`),
    el('span', { class: 'meter', style: { '--share': exact(query.ap ?? 0) } }),
    el('span', { class: 'ap' }, query.ap === null ? '–' : query.ap.toFixed(2)));
  }));
  list.setAttribute('aria-activedescendant', shownQuery === null ? '' : `q${shownQuery.row}`);
}

function verdict(query) {
  if (query.ap === null) return ['', '–', 'no match'];
  return query.firstRank === 1 ? ['right', '✓', 'right at rank 1'] : ['wrong', '✗', 'wrong at rank 1'];
}

function reveal(index) {
  const list = $('list');
  list.scrollTop = Math.min(Math.max(list.scrollTop, ROW * (index + 1) - list.clientHeight), ROW * index);
}

function describe(query) {
  const { pid, camid, length, path } = data.tracklets[query.tracklet];
  const [kind, mark, said] = verdict(query);
  const answer = query.ap === null ? 'no tracklet of this person from another camera is searched'
    : `AP ${query.ap.toFixed(3)}, first right one at rank ${query.firstRank}`;
  const first = query.first === null ? [] : [el('h2', {}, 'The first right one'),
    cards('ol', foundTracklet(query.first, query.firstRank))];
  return [
    el('div', { class: `query ${kind}` },
      el('div', {}, el('h2', {}, `Query #${query.row} `, symbol(mark, said)), el('p', { id: 'answer' }, answer),
        el('p', {}, `pid ${pid} · camid ${camid} · ${length} frames`), el('p', { class: 'path' }, path)),
      strip(query.tracklet, true)),
    cards('ol', ...query.found.map((entry, i) => foundTracklet(entry, i + 1))), ...first,
    el('p', { class: 'note' }, 'Tracklets of the query’s person from the query’s camera, and junk, '
      + 'never count: as in the protocol they take no rank and are not shown. Pictures and bars are '
      + `of one clip, distances of all that was tested. Files lie below ${data.folder}.`),
  ];
}

function foundTracklet([number, distance, isRight], rank) {
  const { pid, camid, length, path } = data.tracklets[number];
  const [kind, mark, said] = isRight ? ['right', '✓', 'right'] : ['wrong', '✗', 'wrong'];
  return el('li', { class: `tracklet ${kind}` },
    el('p', { class: 'line' },
      el('b', {}, `${rank} `, symbol(mark, said)), el('span', {}, `pid ${pid}`),
      el('span', {}, `camid ${camid}`), el('span', { class: 'distance', title: 'distance' }, distance.toPrecision(4))),
    strip(number), el('p', { class: 'path' }, `${path} · ${length} frames`));
}

const symbol = (mark, said) => el('span', { class: 'mark', role: 'img', 'aria-label': said }, mark);
const cards = (tag, ...items) => el(tag, { class: 'found', style: { '--strip': `${stripWidth(0) + 26}px` } }, ...items);

// --- pictures ------------------------------------------------------------------------------------
const stripWidth = (number) => data.tracklets[number].frames.length * pictures.width;

function picture(number) {
  const { frames, length } = data.tracklets[number];
  return el('img', {
    src: pictures.start + pictures.ends[number], alt: `frames ${frames.join(', ')} of ${length}`,
    loading: 'lazy', decoding: 'async', width: stripWidth(number), height: pictures.height,
  });
}

function strip(number, withShares = false) {
  const { attention, frames, length } = data.tracklets[number];
  const image = picture(number);
  image.title = image.alt;
  const full = { '--full': `${1.5 * stripWidth(number)}px` }; // more would be blurred
  if (attention === null) return el('figure', { class: 'strip', style: full }, image);
  const tips = frames.map((frame, i) => `frame ${frame} of ${length}: attention ${percent(attention[i])}`);
  return el('figure', { class: 'strip', style: full }, image, bars(attention, tips, highest),
    withShares ? shares(attention) : null);
}

function bars(attention, tips, top) {
  return el('div', {
    class: 'bars', role: 'img', 'aria-label': tips.join('; '),
    style: { '--count': attention.length, '--even': exact(1 / attention.length / top) },
  }, ...attention.map((share, i) => el('span', { title: tips[i], style: { '--share': exact(share / top) } })));
}

function shares(attention) {
  return el('div', { class: 'shares', 'aria-hidden': 'true', style: { '--count': attention.length } },
    ...attention.map((share) => el('span', {}, percent(share))));
}

// --- memory --------------------------------------------------------------------------------------
function renderMemory() {
  const { spatial, temporal } = data.memory;
  const parts = [];
  if (spatial !== null) {
    parts.push(el('h2', {}, 'Spatial items'),
      el('p', { class: 'note' }, 'The frames with the highest matching probability of each item among the '
        + 'tracklets of this page, one of a tracklet; the cell that addresses it is marked.'),
      el('div', { class: 'items' }, ...spatial.items.map((item, m) => el('article', { class: 'item' },
        heading(m, spatial.items),
        el('ul', { class: 'frames' }, ...item.frames.map((frame) => markedFrame(frame, spatial.grid)))))));
  }
  if (temporal !== null) {
    const top = Math.max(...temporal.items.flatMap((item) => item.attention));
    parts.push(el('h2', {}, 'Temporal items'),
      el('p', { class: 'note' }, 'The attention that each item stores, frame by frame of a clip, and the '
        + 'tracklets that address it most. Dashed: the same for every frame.'),
      el('div', { class: 'items' }, ...temporal.items.map((item, n) => el('article', { class: 'item' },
        heading(n, temporal.items),
        el('div', { class: 'temporal' },
          el('div', { class: 'stored' },
            bars(item.attention, item.attention.map((share, i) => `frame ${i + 1}: ${percent(share)}`), top),
            shares(item.attention)),
          cards('ul', ...item.clips.map(([number, probability]) => el('li', { class: 'tracklet' },
            el('p', { class: 'line' }, el('span', {}, `pid ${data.tracklets[number].pid}`),
              el('span', {}, `camid ${data.tracklets[number].camid}`),
              el('span', { class: 'distance', title: 'matching probability' }, probability.toFixed(3))),
            strip(number)))))))));
  }
  if (parts.length === 0) parts.push(el('p', { class: 'empty' }, 'This model has no memories.'));
  $('memory').replaceChildren(...parts);
}

function heading(index, items) {
  const said = `mean probability ${items[index].mean.toFixed(3)}, even use would be ${(1 / items.length).toFixed(3)}`;
  return el('div', { class: 'line' }, el('h3', {}, `Item ${index + 1}`), el('span', {}, said));
}

function markedFrame([number, place, row, column, probability], [rows, columns]) {
  const { frames, length, pid, camid } = data.tracklets[number];
  const image = picture(number);
  image.alt = `frame ${frames[place]} of ${length}, pid ${pid}, camid ${camid}`;
  const cell = {
    left: exact(column / columns), top: exact(row / rows), width: exact(1 / columns), height: exact(1 / rows),
  };
  const size = { width: `${pictures.width * 1.15}px`, height: `${pictures.height * 1.15}px` };
  return el('li', { class: 'frame', title: `${image.alt}; row ${row + 1}, column ${column + 1}` },
    el('span', { class: 'crop', style: { ...size, '--count': frames.length, '--place': place } },
      image, el('span', { class: 'cell', style: cell })),
    probability.toFixed(2));
}

// --- what the user does --------------------------------------------------------------------------
function choose(query) {
  go({ q: String(query.row) });
  window.scrollTo(0, 0);
}

function step(by) {
  const at = listed.indexOf(shownQuery) + by;
  if (shownQuery !== null) choose(listed[Math.min(Math.max(at, 0), listed.length - 1)]);
}

function toggleTheme() {
  const root = document.documentElement.dataset;
  const theme = root.theme ?? (matchMedia('(prefers-color-scheme: dark)').matches ? 'dark' : 'light');
  root.theme = theme === 'dark' ? 'light' : 'dark';
}

const KEYS = {
  j: () => step(1), ArrowRight: () => step(1), k: () => step(-1), ArrowLeft: () => step(-1),
  f: () => go({ tab: 'queries', show: state.show === 'wrong' ? 'all' : 'wrong' }),
  t: toggleTheme, '?': () => $('help').showModal(),
  1: () => go({ tab: 'overview' }), 2: () => go({ tab: 'queries' }),
  3: () => $('memory') && go({ tab: 'memory' }),
};
const LIST_KEYS = {
  ArrowDown: KEYS.j, ArrowUp: KEYS.k, Home: () => step(-listed.length), End: () => step(listed.length),
};
document.addEventListener('keydown', (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || $('help').open) return;
  if (event.target.matches('input, select, textarea')) return;
  const action = (event.target === $('list') && LIST_KEYS[event.key]) || KEYS[event.key];
  if (!action || (state.tab !== 'queries' && /^(j|k|Arrow.*)$/.test(event.key))) return;
  event.preventDefault();
  action();
});
for (const link of document.querySelectorAll('nav a')) {
  link.addEventListener('click', (event) => { event.preventDefault(); go({ tab: link.dataset.tab }); });
}
for (const name of FILTERS) $(name).addEventListener('change', () => go({ [name]: $(name).value }));
$('ap').addEventListener('input', () => go({ ap: $('ap').value }));
$('set').append(...data.datasets.map(({ name }, i) => el('option', { value: i }, name)));
$('set-label').hidden = data.datasets.length < 2;
$('set').addEventListener('change', () => go({ set: $('set').value, q: '', cam: '' }));
$('filters').addEventListener('submit', (event) => event.preventDefault());
$('reset').addEventListener('click', () => go(Object.fromEntries(FILTERS.map((name) => [name, DEFAULTS[name]]))));
$('rows').addEventListener('click', (event) => {
  const row = event.target.closest('[data-row]');
  if (row) choose(listed.find((query) => String(query.row) === row.dataset.row));
});
$('list').addEventListener('scroll', renderRows, { passive: true });
$('theme').addEventListener('click', toggleTheme);
$('help-button').addEventListener('click', () => $('help').showModal());
window.addEventListener('hashchange', read);
window.addEventListener('resize', renderRows);
read();
