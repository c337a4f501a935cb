/* The atlas of a model: what is picked is kept in `now`, and `draw` shows it. D3 does the scales, axes and marks. */
'use strict';
const NONE = 65535,
  SIGNS = ['+', '−'],
  KIND = ['plus', 'minus'];
const $ = name => document.getElementById(name);
const now = {row: null, region: null, site: 0, frame: 0, theme: 0};
const f2 = d3.format('.2f'),
  f3 = d3.format('.3f'),
  whole = d3.format(',');
const narrow = matchMedia('(max-width: 860px)'); // the layers stand below what is picked
let D;

async function unpack(node) {
  // arrays are deflated, in base64
  if (!node || typeof node !== 'object') return node;
  if (typeof node.deflated !== 'string') {
    for (const key of Object.keys(node)) node[key] = await unpack(node[key]);
    return node;
  }
  const bytes = Uint8Array.from(atob(node.deflated), c => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream('deflate'));
  const kinds = {int8: Int8Array, int16: Int16Array, uint16: Uint16Array, float32: Float32Array};
  const flat = new kinds[node.dtype](await new Response(stream).arrayBuffer());
  const size = node.shape.slice(1).reduce((a, b) => a * b, 1);
  return {shape: node.shape, flat, row: i => flat.subarray(i * size, (i + 1) * size)};
}

/* What the arrays say */
function hubsOf(layer, row) {
  // [{sign, place, power}], the strongest first
  const n = layer.places.shape[2],
    places = layer.places.row(row),
    powers = layer.powers.row(row),
    found = [];
  places.forEach((place, i) => {
    if (place >= 0) found.push({sign: Math.floor(i / n), place, power: powers[i]});
  });
  return found;
}
function nearest(holder, row) {
  const distance = holder.distance.row(row);
  return Array.from(holder.nearest.row(row), (token, i) => ({token, distance: distance[i]})).filter(
    x => x.token >= 0
  );
}
function fractionIn(layer, row, from, to) {
  // of the most active units of a token
  let inside = 0,
    all = 0;
  for (const unit of layer.top.row(row))
    if (unit !== NONE) {
      all++;
      if (unit >= from && unit < to) inside++;
    }
  return all ? inside / all : 0;
}
function users(layer, from, to) {
  return D.tokens
    .map((token, row) => ({
      row,
      fraction: fractionIn(layer, row, from, to),
      hubs: hubsOf(layer, row).filter(hub => hub.place >= from && hub.place < to)
    }))
    .sort((a, b) => b.fraction - a.fraction);
}
function logChoose(n, k) {
  const table = (D.logs = D.logs || [0]); // log of n!
  while (table.length <= n) table.push(table[table.length - 1] + Math.log(table.length));
  return k < 0 || k > n ? -Infinity : table[n] - table[k] - table[n - k];
}
function bound(layer, from, to) {
  // the fraction that no token passes in any such window in 97.5 % of shuffles of the units: hypergeometric, with
  // one test for every token and every window
  const width = to - from,
    units = layer.units,
    counts = D.tokens.map((_, row) => layer.top.row(row).filter(unit => unit !== NONE).length),
    most = d3.max(counts) || 1,
    level = 0.025 / (D.tokens.length * Math.max(1, (units - width) / layer.step + 1));
  let tail = 0,
    hits = Math.min(most, width) + 1;
  while (hits > 0) {
    hits--;
    tail += Math.exp(logChoose(most, hits) + logChoose(units - most, width - hits) - logChoose(units, width));
    if (tail > level) break;
  }
  return hits / most;
}
function nameOf(row) {
  if (row < D.tokens.length) return `“${D.tokens[row].label}”`;
  const word = D.sentences.flatMap(s => s.words).find(w => w.row === row);
  return word ? `“${word.label}” here` : 'the whole sentence';
}
function busy(layer) {
  // mean magnitude of a cell over the tokens
  if (layer.busy) return layer.busy;
  const sum = new Float64Array(layer.cells);
  D.tokens.forEach((_, row) => {
    const scale = layer.scale.flat[row];
    layer.strips.row(row).forEach((q, i) => {
      sum[i] += Math.abs(q) * scale;
    });
  });
  return (layer.busy = sum.map(x => x / D.tokens.length));
}

/* Colours follow the theme */
const css = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
function ramps() {
  const part = (a, b) => d3.interpolateRgb(css(a), css(b));
  const low = part('--zero', '--neg'),
    high = part('--zero', '--pos'),
    more = part('--zero', '--busy');
  const table = (f, n) =>
    d3.range(n).map(i => {
      const c = d3.rgb(f(i / (n - 1)));
      return [c.r, c.g, c.b];
    });
  return {low: table(low, 128), high: table(high, 128), busy: table(more, 128)};
}
function paint(canvas, width, height, colour) {
  // colour(i) → [r, g, b]
  canvas.width = width;
  canvas.height = height;
  const pen = canvas.getContext('2d'),
    image = pen.createImageData(width, height);
  for (let i = 0; i < width * height; i++) {
    const c = colour(i);
    image.data.set([c[0], c[1], c[2], 255], 4 * i);
  }
  pen.putImageData(image, 0, 0);
}
const diverging = (tint, full) => q => {
  const level = Math.min(127, Math.round((Math.abs(q) / full) * 127));
  return q < 0 ? tint.low[level] : tint.high[level];
};

/* 1 · Words */
function pick(row, say = true) {
  now.row = row;
  drawPick();
  drawLayers();
  drawRegion();
  if (say)
    $('said').textContent =
      row === null ? 'Nothing is picked.' : `${$('picked').textContent}. ${$('summary').textContent}`;
}
function chip(selection, data) {
  return selection
    .selectAll('button')
    .data(data)
    .join('button')
    .attr('type', 'button')
    .attr('aria-pressed', d => d.row === now.row)
    .attr('data-row', d => d.row)
    .text(d => d.label)
    .on('click', (_, d) => {
      pick(d.row === now.row ? null : d.row);
      if (narrow.matches && d.row === now.row) go('layers-title');
    });
}
function drawPick() {
  const typed = $('find').value.trim().toLowerCase();
  const all = D.tokens.map((token, row) => ({...token, row}));
  const bare = d => d.label.replace('·', '').toLowerCase();
  let found = typed
    ? all.filter(d => bare(d).includes(typed.replace('·', '')))
    : all.filter(d => d.word).concat(all.filter(d => !d.word));
  if (typed)
    found = found.sort((a, b) => (bare(b) === typed) - (bare(a) === typed) || bare(a).length - bare(b).length);
  const lines = D.sentences.filter(s => !typed || s.text.toLowerCase().includes(typed));
  const nothing = typed && !found.length && !lines.length;
  $('sentences-title').hidden = !lines.length;
  $('found').textContent = nothing
    ? `“${$('find').value.trim()}” is not among the ${all.length} tokens and ${D.sentences.length} sentences ` +
      `that this atlas holds. The text may have it.`
    : typed
    ? `${found.length} of ${all.length} tokens, ${lines.length} of ${D.sentences.length} sentences` +
      (found.length ? '. Enter picks the first.' : ': the atlas holds the most frequent tokens of its text.')
    : `The ${all.length} tokens that are read; words first. A dot begins a piece of a word.`;
  chip(d3.select('#tokens'), found);
  const rows = d3
    .select('#sentences')
    .selectAll('p')
    .data(lines, d => d.row)
    .join('p');
  rows.each(function (s) {
    const words = [{row: s.row, label: '¶ all', all: true}, ...s.words];
    chip(d3.select(this), words)
      .classed('all', d => d.all)
      .classed('space', d => d.space)
      .classed('mark', d => d.mark)
      .attr('disabled', d => (d.mark ? '' : null))
      .attr('title', d => (d.mark ? 'a special token, such as the end of a text' : null))
      .attr('aria-label', d => (d.all ? `The whole sentence: ${s.text}` : null));
  });
  hintAll();
  now.first = found.length ? found[0].row : lines.length ? lines[0].row : null;
  const token = now.row !== null && now.row < D.tokens.length ? D.tokens[now.row] : null;
  $('clear').hidden = now.row === null;
  $('picked').textContent =
    now.row === null ? 'Every layer, with no word picked' : `${nameOf(now.row)} in every layer`;
  const near = now.row === null ? [] : nearest(D.models[0], now.row);
  $('summary').textContent =
    now.row === null
      ? 'Strongly coloured units move for many tokens. Pick a word to see where it lives, or drag over a strip.'
      : `${token ? `Rank ${token.rank}, ${whole(token.count)} times in the text. ` : 'One place in held-out text. '}` +
        `A hub is a run of ${D.models[0].layers[0].width} neighbouring units that reacts most to it; ` +
        `its hubs over all layers are its signature; nearest signatures: ` +
        `${near.map(n => D.tokens[n.token].label).join(', ')}.`;
}

/* 2 · Layers and regions */
function words(layer, row) {
  // hubs as a sentence
  return (
    hubsOf(layer, row)
      .map(h => `${SIGNS[h.sign]} unit ${h.place}, power ${f2(h.power)}`)
      .join('; ') || 'no hub'
  );
}
function buildLayers() {
  const sites = d3
    .select('#layers')
    .selectAll('article')
    .data(D.models[0].layers)
    .join('article')
    .attr('class', 'layer');
  const head = sites.append('header');
  head.append('h3').text(layer => layer.name);
  head
    .append('span')
    .attr('class', 'small')
    .text(layer => `units 0 to ${whole(layer.units - 1)}`);
  head
    .append('button')
    .attr('type', 'button')
    .attr('class', 'to-map')
    .html('W<sub>o</sub> as a map')
    .attr('aria-label', layer => `W_o of ${layer.name} as a map`)
    .on('click', (_, layer) => {
      showSite(D.models[0].layers.indexOf(layer));
      go('dose');
    });
  const strips = sites
    .selectAll('.strip')
    .data((_, site) => D.models.map((model, number) => ({model, number, site, layer: model.layers[site]})))
    .join('div')
    .attr('class', 'strip');
  strips
    .append('div')
    .attr('class', 'who')
    .text(d => (D.models.length > 1 ? d.model.name : ''));
  const frames = strips
    .append('div')
    .attr('class', 'frame')
    .attr('tabindex', 0)
    .attr('role', 'slider')
    .attr('aria-valuemin', 0)
    .attr('aria-valuemax', d => d.layer.units - 1)
    .attr('data-strip', d => `${d.number}-${d.site}`);
  frames.append('canvas');
  frames.append('svg').attr('viewBox', '0 0 1000 56').attr('preserveAspectRatio', 'none');
  strips.append('div').attr('class', 'facts');
  strips.append('div').attr('class', 'near here');
  frames.each(function (d) {
    brush(d3.select(this), d);
  });
}
function brush(frame, d) {
  // drag, click or arrow keys choose a window of units
  const step = d.layer.step,
    usual = Math.max(step, Math.round(d.layer.width / step) * step);
  const unitAt = event =>
    Math.max(
      0,
      Math.min(d.layer.units, (d3.pointer(event, frame.node())[0] / frame.node().clientWidth) * d.layer.span)
    );
  let start = null;
  const snap = (a, b) => {
    let from = Math.floor(Math.min(a, b) / step) * step,
      to = Math.ceil(Math.max(a, b) / step) * step;
    if (to - from < usual / 2) {
      from = Math.round((a - usual / 2) / step) * step;
      to = from + usual;
    }
    from = Math.max(0, Math.min(from, d.layer.units - step));
    setRegion(d.site, from, Math.min(d.layer.units, Math.max(to, from + step)));
  };
  frame
    .on('pointerdown', event => {
      start = unitAt(event);
      event.target.setPointerCapture?.(event.pointerId);
    })
    .on('pointermove', event => {
      if (start !== null) snap(start, unitAt(event));
    })
    .on('pointerup', event => {
      if (start !== null) snap(start, unitAt(event));
      start = null;
    })
    .on('pointercancel', () => {
      start = null;
    })
    .on('keydown', event => {
      const keys = {
        ArrowLeft: -1,
        ArrowDown: -1,
        ArrowRight: 1,
        ArrowUp: 1,
        PageDown: -8,
        PageUp: 8,
        Home: -1e9,
        End: 1e9
      };
      const mine = now.region && now.region.site === d.site ? now.region : {from: -usual / 2, to: usual / 2};
      let width = mine.to - mine.from;
      if (event.key === 'Escape') return setRegion(null);
      if (event.key in keys || '+-'.includes(event.key)) event.preventDefault();
      else return;
      if (event.key === '+') width += 2 * step;
      if (event.key === '-') width = Math.max(step, width - 2 * step);
      const move = ((keys[event.key] || 0) * usual) / 2,
        middle = (mine.from + mine.to) / 2 + move;
      const from = Math.max(0, Math.min(d.layer.units - width, Math.round((middle - width / 2) / step) * step));
      setRegion(d.site, from, Math.min(d.layer.units, from + width));
    });
}
function setRegion(site, from, to) {
  now.region = site === null ? null : {site, from, to};
  drawOverlays();
  drawRegion();
  drawMaps();
}
function drawLayers() {
  const tint = ramps();
  d3.selectAll('.strip').each(function ({layer}) {
    const canvas = d3.select(this).select('canvas').node();
    if (now.row === null) {
      const values = busy(layer),
        full = d3.quantile(values, 0.99);
      paint(canvas, layer.cells, 1, i => tint.busy[Math.min(127, Math.round((values[i] / full) * 127))]);
    } else {
      const values = layer.strips.row(now.row),
        colour = diverging(tint, 100);
      paint(canvas, layer.cells, 1, i => colour(values[i]));
    }
    facts(d3.select(this).select('.facts'), layer);
  });
  const cell = D.models[0].layers[0].step;
  d3.select('#legend')
    .html(
      now.row === null
        ? '<span>few <i class="ramp busy"></i> many tokens move these units</span>'
        : '<span>less <i class="ramp"></i> more active than usual</span>' +
            '<span><b class="plus">▼</b> positive hub, <b class="minus">▲</b> negative hub: ' +
            `the ${D.models[0].layers[0].width} neighbouring units that react most</span>`
    )
    .append('span')
    .text(cell > 1 ? `one line: ${cell} units` : 'one line: one unit');
  drawOverlays();
}
function facts(box, layer) {
  box.html('');
  if (now.row === null) return;
  const hubs = box.append('span').attr('class', 'hubs');
  hubs.append('span').text('hubs at unit ');
  hubs
    .selectAll('button')
    .data(hubsOf(layer, now.row))
    .join('button')
    .attr('type', 'button')
    .attr('title', h => `power ${f2(h.power)}; press to see which words use this place`)
    .attr('aria-label', h => `Hub ${SIGNS[h.sign]} at unit ${h.place}: which words use this place?`)
    .on('click', (_, h) => showHub(box.datum(), h))
    .append('b')
    .attr('class', h => KIND[h.sign])
    .text(h => `${SIGNS[h.sign]}${h.place}`);
  const near = box.append('span').attr('class', 'near');
  near.append('span').text('most alike here');
  near
    .selectAll('button')
    .data(nearest(layer, now.row))
    .join('button')
    .attr('type', 'button')
    .attr('title', n => `distance ${f3(n.distance)}`)
    .text(n => D.tokens[n.token].label)
    .on('click', (_, n) => pick(n.token));
}
function showHub({layer, site}, hub) {
  // the window of a hub, in whole cells
  const step = layer.step,
    width = Math.max(step, Math.round(layer.width / step) * step),
    from = Math.round((hub.place - width / 2) / step) * step;
  setRegion(site, Math.max(0, Math.min(from, layer.units - width)), Math.min(layer.units, Math.max(from, 0) + width));
}
function drawOverlays() {
  d3.selectAll('.strip').each(function ({layer, site, model}) {
    const frame = d3.select(this).select('.frame'),
      svg = frame.select('svg'),
      x = d3.scaleLinear([0, layer.span], [0, 1000]);
    const stretch = frame.node().clientWidth / 1000 || 1;
    const hubs = now.row === null ? [] : hubsOf(layer, now.row),
      most = d3.max(hubs, h => Math.abs(h.power)) || 1;
    svg
      .selectAll('path')
      .data(hubs)
      .join('path')
      .attr('class', h => KIND[h.sign])
      .attr('d', h => d3.symbol(d3.symbolTriangle, 30 + (50 * Math.abs(h.power)) / most)())
      .attr(
        'transform',
        h => `translate(${x(h.place)},${h.sign ? 50 : 6}) scale(${1 / stretch},${h.sign ? 1 : -1})`
      );
    const mine = now.region && now.region.site === site ? [now.region] : [];
    svg
      .selectAll('rect')
      .data(mine)
      .join('rect')
      .attr('class', 'window')
      .attr('y', 9)
      .attr('height', 38)
      .attr('vector-effect', 'non-scaling-stroke')
      .attr('x', r => x(r.from))
      .attr('width', r => x(r.to) - x(r.from));
    const told = now.row === null ? '' : ` ${nameOf(now.row)} has ${words(layer, now.row)}.`;
    frame
      .attr(
        'aria-label',
        `${layer.name} of ${model.name}.${told} Arrow keys move a window of units, plus and minus change its width.`
      )
      .attr('aria-valuenow', mine.length ? now.region.from : 0)
      .attr('aria-valuetext', mine.length ? `units ${now.region.from} to ${now.region.to - 1}` : 'no window yet');
  });
}
function drawRegion() {
  const region = now.region;
  d3.selectAll('.strip').each(function ({layer, site}) {
    const here = d3.select(this).select('.here').html('');
    if (!region || region.site !== site) return;
    const limit = bound(layer, region.from, region.to),
      own = users(layer, region.from, region.to).filter(u => u.fraction > limit);
    const where = `units ${region.from} to ${region.to - 1}`;
    here.append('span').text(own.length ? `${where} used by` : `${where}: no token more than shuffled units allow`);
    here
      .selectAll('button')
      .data(own.slice(0, 5))
      .join('button')
      .attr('type', 'button')
      .text(u => `${D.tokens[u.row].label} ${d3.format('.0%')(u.fraction)}`)
      .on('click', (_, u) => pick(u.row));
  });
  $('region-about').textContent = region
    ? `Units ${region.from} to ${region.to - 1} of ${D.models[0].layers[region.site].name}: the tokens with the largest ` +
      'part of their most active units there.'
    : 'Drag over a strip above, press one of its hubs, or focus it and use the arrow keys. ' +
      'Then the words that use that place stand here.';
  const tables = d3
    .select('#region-tables')
    .selectAll('table')
    .data(region ? D.models : [])
    .join('table')
    .html('');
  tables.append('caption').text(model => (D.models.length > 1 ? model.name : 'Tokens that use it'));
  tables
    .append('tr')
    .selectAll('th')
    .data(['token', 'fraction of its units', '', 'hub'])
    .join('th')
    .attr('scope', 'col')
    .text(d => d);
  tables.each(function (model) {
    const layer = model.layers[region.site],
      chance = (region.to - region.from) / layer.units;
    const found = users(layer, region.from, region.to),
      shown = found.slice(0, 10);
    if (now.row !== null && now.row < D.tokens.length && !shown.some(u => u.row === now.row))
      shown.push(found.find(u => u.row === now.row));
    const limit = bound(layer, region.from, region.to),
      passed = found.filter(u => u.fraction > limit).length;
    const most =
      Math.max(
        limit,
        d3.max(shown, u => u.fraction)
      ) * 1.05;
    const rows = d3.select(this).selectAll('tr.user').data(shown).join('tr').attr('class', 'user');
    rows
      .append('td')
      .append('button')
      .attr('type', 'button')
      .attr('aria-pressed', u => u.row === now.row)
      .text(u => D.tokens[u.row].label)
      .on('click', (_, u) => pick(u.row === now.row ? null : u.row));
    const bar = rows.append('td').attr('class', 'bar').append('div');
    bar.append('i').style('width', u => `${(100 * u.fraction) / most}%`);
    bar.append('b').style('left', `${(100 * chance) / most}%`);
    bar.append('b').attr('class', 'bound').style('left', `${(100 * limit) / most}%`);
    rows
      .append('td')
      .attr('class', 'num')
      .text(u => d3.format('.1%')(u.fraction));
    rows
      .append('td')
      .selectAll('b')
      .data(u => u.hubs)
      .join('b')
      .attr('class', h => KIND[h.sign])
      .text(h => SIGNS[h.sign]);
    d3.select(this)
      .append('tr')
      .append('td')
      .attr('colspan', 4)
      .attr('class', 'small')
      .text(
        `Upright marks: ${d3.format('.1%')(chance)} by chance, and ${d3.format('.0%')(limit)}, which no token passes ` +
          `in any such window of this layer in 97.5 % of shuffles of its units. ${passed} of ${D.tokens.length} do here.`
      );
  });
}

/* 3 · Dose */
function showSite(site) {
  now.site = site;
  $('site').value = site;
  drawDose();
}
const around = layer => ({
  value: layer.null,
  low: layer.null.map((v, i) => v - 2 * layer.null_sd[i]),
  high: layer.null.map((v, i) => v + 2 * layer.null_sd[i])
});
function drawDose() {
  const model = D.models[0],
    layer = model.layers[now.site],
    k = now.frame,
    dose = D.doses[k];
  const added = model.dose > 0 ? `${f2(model.dose)} + ${dose}` : dose;
  $('dose-now').textContent = added;
  $('slider').setAttribute('aria-valuetext', `dose ${added}`);
  $('moran-now').textContent = f3(layer.moran[k]);
  $('null-now').innerHTML = `${f3(layer.null[k])} <small>± ${f3(layer.null_sd[k])}</small>`;
  const change = model.ce[k] - model.ce[0];
  const ends = model.ce_ci[k] ? ` [${model.ce_ci[k].map(f2).join(', ')}]` : '';
  $('ce-now').innerHTML =
    `${f3(model.ce[k])} <small>${k ? d3.format('+.3f')(change) : 'as it is'}${ends}</small> ` +
    `<small>unigram ${f2(model.unigram)}</small>`;
  drawMaps();
  const other = D.models[1],
    beside = other && other.layers[now.site];
  const at = y => (other ? [{dose: other.dose, y, label: other.name}] : []);
  chart(
    '#moran-chart',
    layer.moran,
    at(beside && beside.moran[0]),
    around(layer),
    `Moran's I of ${layer.name}`
  );
  const band = model.ce_ci[0] ? {low: model.ce_ci.map(c => c[0]), high: model.ce_ci.map(c => c[1])} : null;
  chart('#ce-chart', model.ce, at(other && other.ce[0]), band, 'Cross-entropy', model.unigram);
}
function drawMaps() {
  const tint = ramps();
  const first = D.models[0],
    dose = D.doses[now.frame],
    noise = {name: 'noise'};
  const shown = [
    {model: first, frame: now.frame, layer: first.layers[now.site], map: first.layers[now.site].map},
    {model: noise, frame: now.frame, layer: first.layers[now.site], map: first.noise},
    ...D.models
      .slice(1)
      .map(model => ({model, frame: 0, layer: model.layers[now.site], map: model.layers[now.site].map}))
  ];
  const figures = d3
    .select('#maps')
    .selectAll('figure')
    .data(shown)
    .join(enter => {
      const figure = enter.append('figure'),
        map = figure.append('div').attr('class', 'map');
      map.append('canvas').attr('role', 'img');
      map.append('svg').attr('preserveAspectRatio', 'none');
      figure.append('figcaption');
      return figure;
    });
  figures.each(function ({model, layer, frame, map}) {
    const [, rows, units] = map.shape,
      values = map.row(frame),
      colour = diverging(tint, 100),
      figure = d3.select(this);
    const trained = model.dose ? `trained with pulses, dose ${f2(model.dose)}` : 'as it is';
    const said =
      model === noise
        ? `noise after the same dose: Moran's I ${f3(layer.null[frame])}`
        : model !== first
          ? `${model.name}, ${trained}: Moran's I ${f3(layer.moran[0])}, noise of that dose ${f3(layer.null[0])}`
          : `${model.name}, ${frame ? `pulsed by ${dose}, never trained` : trained}: Moran's I ${f3(layer.moran[frame])}`;
    paint(figure.select('canvas').node(), units, rows, j => colour(values[j]));
    figure
      .select('canvas')
      .attr('aria-label', model === noise ? `Map of ${said}` : `Map of W_o of ${layer.name}, ${said}`);
    figure.select('figcaption').text(said);
    const mine =
      model !== noise && now.region && now.region.site === now.site && now.region.from < units ? [now.region] : [];
    figure
      .select('svg')
      .attr('viewBox', `0 0 ${units} ${rows}`)
      .selectAll('rect')
      .data(mine)
      .join('rect')
      .attr('class', 'window')
      .attr('vector-effect', 'non-scaling-stroke')
      .attr('x', r => r.from)
      .attr('y', 0)
      .attr('width', r => Math.min(r.to, units) - r.from)
      .attr('height', rows);
  });
  const [, rows, units] = D.models[0].layers[now.site].map.shape;
  $('map-legend').innerHTML =
    '<span>below <i class="ramp"></i> above 0</span>' +
    '<span>W<sub>o</sub> leads from the hidden units to the residual stream. ' +
    `Shown: ${units} units across, ${rows} outputs down, one dot a weight</span>`;
}
function chart(id, values, others, band, what, level) {
  const svg = d3.select(id),
    width = svg.node().clientWidth || 300,
    height = 206,
    floor = height - 40,
    all = [...values, ...others.map(o => o.y)];
  if (band) all.push(...band.low, ...band.high);
  if (level !== undefined) all.push(level);
  const x = d3.scaleLinear([0, Math.max(d3.max(D.doses), d3.max(others, o => o.dose) || 0)], [38, width - 12]);
  const y = d3.scaleLinear(d3.extent(all), [floor, 8]).nice(),
    at = (v, i) => [x(D.doses[i]), y(v)];
  svg
    .attr('viewBox', `0 0 ${width} ${height}`)
    .html('')
    .attr(
      'aria-label',
      `${what} at dose ${D.doses.join(', ')}: ${values.map(f3).join(', ')}` +
        (band && band.value ? `; noise ${band.value.map(f3).join(', ')}` : '') +
        (level === undefined ? '' : `; a unigram ${f3(level)}`)
    );
  svg
    .append('g')
    .attr('transform', `translate(0,${floor})`)
    .call(d3.axisBottom(x).ticks(6));
  svg.append('g').attr('transform', 'translate(38,0)').call(d3.axisLeft(y).ticks(5));
  svg
    .append('text')
    .attr('x', width - 12)
    .attr('y', height - 4)
    .attr('text-anchor', 'end')
    .text('dose added (Σp)');
  if (band)
    svg
      .append('path')
      .attr('class', band.value ? 'null-band' : 'ce-band')
      .attr(
        'd',
        d3
          .area()
          .x((_, i) => x(D.doses[i]))
          .y0((_, i) => y(band.low[i]))
          .y1((_, i) => y(band.high[i]))(band.low)
      );
  if (band && band.value)
    svg
      .append('path')
      .attr('class', 'null-line')
      .attr('d', d3.line()(band.value.map(at)));
  if (level !== undefined)
    svg
      .append('line')
      .attr('class', 'level')
      .attr('x1', 38)
      .attr('x2', width - 12)
      .attr('y1', y(level))
      .attr('y2', y(level));
  svg
    .append('path')
    .attr('class', 'line')
    .attr('d', d3.line()(values.map(at)));
  svg
    .append('line')
    .attr('class', 'rule')
    .attr('x1', x(D.doses[now.frame]))
    .attr('x2', x(D.doses[now.frame]))
    .attr('y1', 8)
    .attr('y2', floor);
  svg
    .append('circle')
    .attr('class', 'dot')
    .attr('r', 5)
    .attr('cx', x(D.doses[now.frame]))
    .attr('cy', y(values[now.frame]));
  const marks = svg
    .selectAll('g.other')
    .data(others)
    .join('g')
    .attr('transform', o => `translate(${x(o.dose)},${y(o.y)})`);
  marks.append('path').attr('class', 'other').attr('d', d3.symbol(d3.symbolDiamond, 70));
  marks
    .append('text')
    .attr('class', 'other')
    .attr('text-anchor', o => (x(o.dose) > width * 0.6 ? 'end' : 'start'))
    .attr('dx', o => (x(o.dose) > width * 0.6 ? -9 : 9))
    .attr('dy', 15)
    .text(o => o.label);
}

/* The page */
function hint(box) {
  // what is cut off below fades, and a line says so
  const more = box.scrollHeight - box.clientHeight > 4;
  const below = box.scrollHeight - box.scrollTop - box.clientHeight > 4;
  box.classList.toggle('more', more && below);
  const line = box.nextElementSibling;
  if (line && line.classList.contains('more-hint')) line.hidden = !(more && below);
}
function hintAll() {
  document.querySelectorAll('.chips, .sentences, .pick').forEach(hint);
}
function go(name) {
  $(name).scrollIntoView({block: 'start'});
  $(name).focus({preventScroll: true});
}
function setTheme(number) {
  const names = ['auto', 'light', 'dark'];
  now.theme = number % 3;
  document.documentElement.dataset.theme = names[now.theme];
  $('theme').textContent = `◐ ${names[now.theme]}`;
  $('theme').setAttribute(
    'aria-label',
    `Colours: ${now.theme ? names[now.theme] : 'as the system'}. Press for the next.`
  );
  drawLayers();
  drawDose();
}
function wire() {
  $('find').addEventListener('input', () => {
    drawPick();
    if (now.first === null && now.row !== null) pick(null); // nothing is found: no old word stays
  });
  document
    .querySelectorAll('.chips, .sentences, .pick')
    .forEach(box => box.addEventListener('scroll', () => hint(box)));
  $('find').addEventListener('keydown', event => {
    if (event.key === 'Enter' && now.first !== null) pick(now.first);
  });
  $('clear').addEventListener('click', () => {
    pick(null);
    $('find').focus();
  });
  $('theme').addEventListener('click', () => setTheme(now.theme + 1));
  $('slider').addEventListener('input', event => {
    now.frame = +event.target.value;
    drawDose();
  });
  $('site').addEventListener('change', event => showSite(+event.target.value));
  document.querySelectorAll('a[href^="#"]').forEach(a =>
    a.addEventListener('click', event => {
      event.preventDefault();
      go(a.getAttribute('href').slice(1));
    })
  );
  window.addEventListener('resize', () => {
    drawOverlays();
    drawDose();
    hintAll();
  });
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => setTheme(now.theme));
}
function example() {
  // a word to begin with: the most frequent of five letters or more
  const found = D.tokens.findIndex(token => token.word && token.label.length > 4);
  return found < 0 ? null : found;
}
async function start() {
  D = await unpack(JSON.parse($('data').textContent));
  for (const layer of D.models.flatMap(model => model.layers)) {
    layer.cells = layer.strips.shape[1];
    layer.span = layer.cells * layer.step; // the last cell may be wider than what is left
  }
  $('about').textContent = D.about;
  $('origins').textContent = D.origins;
  $('pulsed').textContent = D.pulsed;
  $('few').textContent = D.few;
  d3.select('#verdicts')
    .selectAll('p')
    .data(D.verdicts)
    .join('p')
    .attr('class', v => (v.learned ? 'small' : 'note'))
    .text(v => `${v.said} ${v.ce}`);
  for (const [part, text] of Object.entries(D.how)) $(`how-${part}`).textContent = text;
  $('slider').max = D.doses.length - 1;
  d3.select('#site')
    .selectAll('option')
    .data(D.models[0].layers)
    .join('option')
    .attr('value', (_, i) => i)
    .text(l => l.name);
  document.body.classList.toggle('single', D.models.length < 2);
  buildLayers();
  wire();
  const asked = decodeURIComponent(location.hash.slice(1)),
    known = D.tokens.findIndex(t => t.label === asked);
  pick(known < 0 ? example() : known, false);
  setTheme(0);
  document.body.dataset.ready = 'yes';
}
start();
