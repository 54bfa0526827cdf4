'use strict';
// Without it the page shows everything in the order of rank; here are order, filters and the theme.
for (const strip of document.querySelectorAll('.strip')) {
  const width = Number(strip.querySelector('img')?.getAttribute('width') ?? 0);
  const times = strip.classList.contains('big') ? 2 : 1.5; // more would be blurred
  if (width) strip.style.setProperty('--full', `${times * width}px`);
}
for (const section of document.querySelectorAll('.answer')) {
  const form = section.querySelector('.filters');
  if (form === null) continue;
  const list = section.querySelector('.found');
  const items = [...list.children];
  const fields = form.elements;
  const byRank = (a, b) => a.dataset.rank - b.dataset.rank;
  const moment = (item) => Date.parse(item.dataset.time) || Infinity; // without a time: last
  const byTime = (a, b) => (moment(a) === moment(b) ? byRank(a, b) : moment(a) - moment(b));
  const show = () => {
    let count = 0;
    for (const item of items) {
      const { camera, verdict } = item.dataset;
      item.hidden = (fields.camera.value !== '' && fields.camera.value !== camera)
        || (fields.unlikely !== undefined && !fields.unlikely.checked && verdict === 'unlikely');
      count += item.hidden ? 0 : 1;
    }
    list.append(...[...items].sort(fields.order.value === 'time' ? byTime : byRank));
    fields.count.value = `${count} of ${items.length} results`;
  };
  form.hidden = false;
  form.addEventListener('submit', (event) => event.preventDefault());
  form.addEventListener('change', show);
  // a mark of the timeline leads to a result that a filter may hide
  section.addEventListener('click', (event) => {
    const link = event.target.closest('.timeline a');
    const item = link && items.find(({ id }) => `#${id}` === link.getAttribute('href'));
    if (item?.hidden) { form.reset(); show(); }
  });
  show();
}

function toggleTheme() {
  const root = document.documentElement.dataset;
  const theme = root.theme ?? (matchMedia('(prefers-color-scheme: dark)').matches ? 'dark' : 'light');
  root.theme = theme === 'dark' ? 'light' : 'dark';
}

document.getElementById('theme').addEventListener('click', toggleTheme);
document.addEventListener('keydown', (event) => {
  if (event.key !== 't' || event.ctrlKey || event.metaKey || event.altKey) return;
  if (!event.target.matches('input, select')) toggleTheme();
});
