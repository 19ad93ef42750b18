/** Which TCP listeners may be in the kernel, as the configuration check says it: by key. */
import { describe, expect, test } from 'vitest';
import { RelayError } from '../../../net/relay-error.ts';
import { parseConfig } from '../../../relay/control/config.ts';
import { tcpEngineNotes } from '../../../relay/control/tcp-needs.ts';

const config = (listener: object, rest: object = {}, pool: object = {}): string =>
  JSON.stringify({
    engine: 'kernel',
    kernel: { sourceAddress: 'client' },
    listeners: [{ name: 'login', protocol: 'tcp', listen: '127.0.0.1:5432', pool: 'db', ...listener }],
    pools: { db: { backends: ['10.0.0.3:5432'], ...pool } },
    ...rest,
  });

/** What is wrong with it. */
function problem(text: string): string {
  try {
    parseConfig(text);
  } catch (error) {
    if (error instanceof RelayError) return error.message;
  }
  return 'nothing';
}

const NEEDS: Readonly<Record<string, readonly [listener: object, pool?: object]>> = {
  'listeners[0].proxyProtocol.accept': [{ proxyProtocol: { accept: ['10.0.0.0/8'] } }],
  'listeners[0].proxyProtocol.send': [{ proxyProtocol: { send: 'v2' } }],
  'listeners[0].queue.size': [{ queue: { size: 1 } }],
  'listeners[0].slowStart': [{ slowStart: '1s' }],
  'listeners[0].pinGroup': [{ pinGroup: 'players' }],
  'listeners[0].connectTimeout': [{ connectTimeout: '1s' }],
  'listeners[0].keepAlive': [{ keepAlive: '5s' }],
  'pools.db.healthCheck.connectFailures': [{}, { healthCheck: { type: 'tcp', connectFailures: 2 } }],
};

test.each(Object.entries(NEEDS))(
  '%s is an error with engine kernel, and a warning with auto',
  (key, [listener, pool]) => {
    const text = problem(config({ ...listener, engine: 'kernel' }, {}, pool));
    expect(text).toContain(key);
    expect(text).toContain('is for user space only');
    const { warnings } = parseConfig(config(listener, {}, pool));
    expect(warnings.filter((warning) => warning.includes('user space'))).toEqual([
      expect.stringContaining('listener "login" stays in user space') as string,
    ]);
    const meant = parseConfig(config({ ...listener, engine: 'userspace' }, {}, pool)).warnings;
    expect(meant.filter((warning) => warning.includes('user space'))).toEqual([]);
  },
);

test('a listener that asks for nothing is no matter, nor one where the kernel engine is not meant', () => {
  expect(parseConfig(config({ engine: 'kernel' })).config.listeners[0]).toMatchObject({ engine: 'kernel' });
  const about = (text: string): string[] =>
    parseConfig(text).warnings.filter((warning) => warning.includes('user space'));
  expect(about(config({}))).toEqual([]);
  expect(about(config({ queue: { size: 1 } }, { engine: 'auto', kernel: {} }))).toEqual([]);
  expect(about(config({ queue: { size: 1 } }, { engine: 'mmsg' }))).toEqual([]);
});

test('the relay’s engine and source address decide first', () => {
  expect(problem(config({ engine: 'kernel' }, { engine: 'dgram' }))).toContain(
    "kernel needs the relay's engine to be kernel or auto, not dgram",
  );
  const aboutSource = (kernel: object): string[] =>
    parseConfig(config({}, { kernel })).warnings.filter((text) => text.startsWith('kernel.sourceAddress'));
  expect(aboutSource({})).toEqual([expect.stringContaining('is not said') as string]);
  for (const sourceAddress of ['client', 'relay']) {
    expect(problem(config({ engine: 'kernel' }, { kernel: { sourceAddress } }))).toBe('nothing');
    expect(aboutSource({ sourceAddress })).toEqual([]);
  }
});

describe('a pool with two listeners, one of them in user space', () => {
  const both = (first: object, second: object): string => {
    const [login] = (JSON.parse(config(first)) as { listeners: object[] }).listeners;
    return config(
      {},
      { listeners: [login, { ...login, name: 'other', listen: '127.0.0.1:6432', ...second }] },
    );
  };
  const about = (text: string): string[] =>
    parseConfig(text).warnings.filter((warning) => warning.includes('other'));

  test.each([{ engine: 'userspace' }, { queue: { size: 1 } }])(
    '%j: auto has the other one there, too',
    (first) => {
      const auto = { engine: 'auto', queue: { size: 0 } };
      expect(about(both(first, auto))).toEqual([
        'listeners[1].pool: its connections are counted in user space, where listener "login" is, so listener "other" stays in user space; its engine userspace says that this is meant',
      ]);
    },
  );

  test('is warned of where both are meant', () => {
    const warnings = about(both({ engine: 'kernel' }, { engine: 'userspace' }));
    expect(warnings).toEqual([
      expect.stringMatching(
        /^listeners\[0\]\.engine: .+maxConnections .+ hold for each place alone$/,
      ) as string,
    ]);
  });

  test('is no matter where both are in one place, or on pools of their own', () => {
    expect(about(both({}, {}))).toEqual([]);
    expect(about(both({ engine: 'userspace' }, { engine: 'userspace' }))).toEqual([]);
    expect(
      about(
        both({ engine: 'userspace' }, { engine: 'kernel', pool: 'db2' }).replace(
          '"db":',
          '"db2":{"backends":["10.0.0.4:1"]},"db":',
        ),
      ),
    ).toEqual([]);
  });
});

test('who checks a configuration learns that there is no second try in the kernel', () => {
  const notes = (listener: object, rest?: object): string[] =>
    tcpEngineNotes(parseConfig(config(listener, rest)).config);
  expect(notes({ engine: 'kernel' })).toEqual([
    expect.stringContaining('is carried in the kernel') as string,
  ]);
  expect(notes({})).toEqual([expect.stringContaining('may be carried in the kernel') as string]);
  expect(notes({ engine: 'userspace' })).toEqual([]);
  expect(notes({ queue: { size: 1 } })).toEqual([]);
  expect(notes({}, { engine: 'mmsg' })).toEqual([]);
});
