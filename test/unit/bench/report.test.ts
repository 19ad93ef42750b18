import { describe, expect, it } from 'vitest';
import { renderReport } from '../../../bench/report/report.ts';
import { renderTable } from '../../../bench/report/text-report.ts';
import { fixtureResults } from './results-fixture.ts';

describe('the report', () => {
  it('is one HTML page that asks for nothing from elsewhere', async () => {
    const { html } = renderReport(await fixtureResults());
    expect(html).toMatch(/^<!doctype html>\n<html lang="en">/);
    expect(html).not.toMatch(/<(script|link|img|iframe|object|embed|image)\b/i);
    expect(html).not.toMatch(/\b(src|href)\s*=|@import|url\((?!#|&quot;#)/i);
    const addresses = html.match(/https?:\/\/[^"'\s<]+/g) ?? [];
    // The names of the SVG namespaces are no addresses that a browser would ask.
    expect(addresses.filter((address) => !address.startsWith('http://www.w3.org/'))).toEqual([]);
  });

  it('opens and closes every element in order', async () => {
    const { html } = renderReport(await fixtureResults());
    const open: string[] = [];
    for (const [, close, name = '', selfClosed] of html.matchAll(/<(\/?)([a-z][a-z0-9]*)\b[^>]*?(\/?)>/gi)) {
      if (['meta', 'br'].includes(name) || selfClosed === '/') continue;
      if (close === '/') expect(open.pop()).toBe(name);
      else open.push(name);
    }
    expect(open).toEqual([]);
  });

  it('shows every part as a table, and says how it was measured', async () => {
    const { html } = renderReport(await fixtureResults());
    const captions = [...html.matchAll(/<caption>([^<]*)<\/caption>/g)].map((match) => match[1]);
    expect(captions).toEqual([
      'Every row and its winner',
      'Round trip, in µs',
      'Delivery, over all rounds',
      'Rates, for each second',
      'CPU, in µs for each delivered datagram',
      'Steps, in the order they ran',
      '100 players; CPU in µs for each delivered datagram',
      'Bytes, and ns to encode and decode; Mbit/s for a match of 10 at 128 Hz',
      'Live through the relay, 100 players',
      'Lookup of a live session',
      'Where and how this ran',
    ]);
    expect(html.match(/<svg/g)).toHaveLength(4);
    expect(html.match(/<p class="method">/g)).toHaveLength(7);
  });

  it('has a cell for every column in every row', async () => {
    const { html } = renderReport(await fixtureResults());
    for (const [table] of html.matchAll(/<table>.*?<\/table>/gs)) {
      const [head, ...rows] = [...table.matchAll(/<tr>.*?<\/tr>/gs)].map(
        ([row]) => row.match(/<(th|td)\b/g)?.length,
      );
      expect(rows.length).toBeGreaterThan(0);
      expect(rows.every((cells) => cells === head)).toBe(true);
    }
  });

  it('shows text from the machine as text', async () => {
    const { html } = renderReport(await fixtureResults());
    expect(html).toContain('A Processor &lt;with&gt; &quot;signs&quot; &amp; more');
  });

  it('says loudly when updates were lost or came from a wrong server', async () => {
    const { text, html } = renderReport(await fixtureResults({ lost: 384, loss: 0.01, wrongServer: 3 }));
    expect(text).toContain(
      '! mmsg: 768 of 76,800 updates were LOST (1.00 %); 6 world states came from a WRONG SERVER.',
    );
    expect(html).toContain('<li class="bad">mmsg: 768 of 76,800 updates were LOST');
  });

  it('says when the generator was the bottleneck', async () => {
    const { text } = renderReport(await fixtureResults({ generatorLimit: 'sent at 90 % of the rate' }));
    expect(text).toContain('The load generator was a bottleneck in 6 of 8 runs (sent at 90 % of the rate)');
  });

  it('says who won every row, and where the first engine lost', async () => {
    const { text } = renderReport(await fixtureResults());
    expect(text).toMatch(/^100 players: process CPU +2 +10 +2\.5 +mmsg +0\.20 x +0\.80 x$/m);
    expect(text).toMatch(/^100 players: updates lost +0 +0 +0 +even: mmsg, dgram, nginx +- +-$/m);
    expect(text).toMatch(/^most players +100 +- +100 +even: mmsg, nginx +- +1\.00 x$/m);
    expect(text).toMatch(/- mmsg LOST to nginx: 100 players: p50 \(1\.\d\d x\), .*p99\.9/);
    expect(text).not.toContain('mmsg LOST to dgram');
  });

  it('names the peers that were asked for and not there, with the reason', async () => {
    const { text } = renderReport(await fixtureResults());
    expect(text).toMatch(/^absent: haproxy +haproxy is not installed$/m);
  });

  it('claims no winner with one relay alone', async () => {
    const results = await fixtureResults();
    const [load] = results.comparison.loads;
    const alone = {
      ...results,
      routes: results.routes.slice(0, 2),
      ladders: results.ladders.slice(0, 1),
      comparison: { ...results.comparison, loads: [{ ...load!, standings: [] }] },
    };
    expect(renderReport(alone).text).not.toContain('Who won');
  });

  it('leaves out what was not measured', async () => {
    const results = await fixtureResults();
    const { text, html } = renderReport({
      ...results,
      payload: { ...results.payload, runs: [], live: [] },
      dial: { runs: [], settings: [] },
    });
    expect(text).not.toContain('Live');
    expect(html).not.toContain('Live');
    expect(text).not.toContain('dial');
  });
});

it('a text table aligns names to the left and figures to the right', () => {
  const table = renderTable({
    caption: 'Round trip',
    columns: [
      { title: 'route', align: 'left' },
      { title: 'p50', align: 'right' },
    ],
    rows: [
      ['direct', '99'],
      ['relay (dgram)', '1,204'],
    ],
  });
  expect(table).toBe(
    [
      'Round trip',
      'route            p50',
      '-------------  -----',
      'direct            99',
      'relay (dgram)  1,204',
      '',
    ].join('\n'),
  );
});
