import fc from 'fast-check';
import { expect, test } from 'vitest';
import { stringify } from 'yaml';
import { RelayError } from '../../../net/relay-error.ts';
import { parseConfig } from '../../../relay/control/config.ts';
import { createRig, RIG_CONFIG } from './control-rig.ts';

/** JSON that is near enough to a registration to get past the first check now and then. */
const nearRegistration = fc.oneof(
  fc.json(),
  fc.string(),
  fc
    .record(
      {
        address: fc.oneof(
          fc.string(),
          fc.ipV4().map((ip) => `${ip}:7000`),
          fc.ipV6().map((ip) => `[${ip}]:7000`),
        ),
        weight: fc.oneof(fc.integer(), fc.double(), fc.string()),
        players: fc.oneof(fc.integer(), fc.boolean()),
        extra: fc.anything(),
      },
      { requiredKeys: [] },
    )
    .map((body) =>
      JSON.stringify(body, (_key, value: unknown) => (typeof value === 'bigint' ? 'big' : value)),
    ),
);

test('no body and no id brings the server down or in, but for a right registration', async () => {
  const rig = createRig();
  const pool = rig.control.pool('games');
  await fc.assert(
    fc.asyncProperty(nearRegistration, fc.string({ maxLength: 70 }), async (payload, id) => {
      const before = pool.view().backends.length;
      const answer = await rig.server.app.inject({
        method: 'PUT',
        url: `/v1/pools/games/backends/${encodeURIComponent(id)}`,
        headers: { authorization: 'Bearer secret', 'content-type': 'application/json' },
        payload,
      });
      expect(answer.statusCode).toBeLessThan(500);
      const { backends } = pool.view();
      expect(backends.length).toBe(answer.statusCode === 200 ? before + 1 : before);
      if (answer.statusCode === 200) pool.leave(id);
    }),
    { numRuns: 300 },
  );
});

test.each([
  ['brackets', '['.repeat(1_000_000)],
  ['closed brackets', `listeners: ${'['.repeat(5_000)}${']'.repeat(5_000)}`],
  ['braces', '{a: '.repeat(100_000)],
  ['brackets between closing ones in quotes', '["]",'.repeat(100_000)],
  ['brackets after closing ones', `${']'.repeat(1_000)}${'['.repeat(100_000)}`],
  ['dashes', '- '.repeat(300_000)],
  ['question marks', '? '.repeat(300_000)],
  ['indents', Array.from({ length: 1_000 }, (_, i) => `${' '.repeat(i)}a:`).join('\n')],
])('a configuration of absurd depth is refused at once: %s', (_name, text) => {
  expect(() => parseConfig(text, { env: {} })).toThrow('is nested more than 100 deep');
});

test('a configuration as deep as allowed is read', () => {
  const indents = Array.from({ length: 199 }, (_, i) => `${' '.repeat(i)}a:`).join('\n');
  expect(() => parseConfig(`${'['.repeat(100)}${']'.repeat(100)}`)).toThrow(
    'should have the keys listeners and pools',
  );
  expect(() => parseConfig(`${'- '.repeat(99)}1`)).toThrow('should have the keys listeners and pools');
  expect(() => parseConfig(indents)).toThrow('a: is not a key here');
});

test('whatever the text, a configuration is either right or refused as an operating error', () => {
  const lines = RIG_CONFIG.split('\n');
  const mangled = fc
    .tuple(fc.nat(lines.length - 1), fc.nat(80), fc.string({ maxLength: 8 }))
    .map(([line, column, text]) =>
      lines
        .map((old, i) => (i === line ? old.slice(0, column) + text + old.slice(column + text.length) : old))
        .join('\n'),
    );
  const anything = fc.anything({ maxDepth: 4 }).map((value) => {
    try {
      return stringify({ listeners: value, pools: value, admin: value });
    } catch {
      return '';
    }
  });
  fc.assert(
    fc.property(fc.oneof(mangled, anything, fc.string()), (text) => {
      try {
        parseConfig(text, { env: {} });
      } catch (error) {
        expect(error).toBeInstanceOf(RelayError);
        expect((error as RelayError).code).toBe('TICKRELAY_ERR_CONFIG');
      }
    }),
    { numRuns: 500 },
  );
});
