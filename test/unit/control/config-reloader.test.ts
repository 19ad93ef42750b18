import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { createRig, RIG_CONFIG, type Rig } from './control-rig.ts';

const put = (rig: Rig, payload = '') =>
  rig.server.app.inject({
    method: 'PUT',
    url: '/v1/config',
    ...(payload === '' ? {} : { payload }),
    headers: { 'content-type': 'application/yaml' },
  });

const backends = (rig: Rig): string[] =>
  rig.control
    .pool('db')
    .view()
    .backends.map(({ address }) => address);

const CHANGED = RIG_CONFIG.replace('"10.0.0.3:5432"', '"10.0.0.3:5432", "10.0.0.4:5432"');

test('a good configuration in the body is applied', async () => {
  const rig = createRig();
  const answer = await put(rig, CHANGED);
  expect([answer.statusCode, answer.json()]).toEqual([200, { applied: true, warnings: [] }]);
  expect(backends(rig)).toEqual(['10.0.0.3:5432', '10.0.0.4:5432']);
  expect(rig.reloader.status()).toMatchObject({ succeeded: 1, failed: 0, isLastSuccessful: true });
});

test.each([
  ['no YAML', 'listeners: [', 'is not valid YAML'],
  ['a sentence', 'nonsense', 'should have the keys listeners and pools'],
  ['a wrong key', `${RIG_CONFIG}limts: {}`, 'limts: is not a key here; did you mean "limits"?'],
  ['an unknown pool', RIG_CONFIG.replace('pool: db', 'pool: dbx'), '"dbx" is not one of the pools'],
  ['a variable', CHANGED.replace('secret', '"${HOME}"'), 'needs the environment variable HOME'],
])('a bad configuration leaves the old one running and says why: %s', async (_name, text, message) => {
  const rig = createRig();
  const published = rig.snapshots.length;
  const answer = await put(rig, text);
  expect(answer.statusCode).toBe(422);
  expect(answer.json()).toMatchObject({ code: 'TICKRELAY_ERR_CONFIG' });
  expect(answer.json<{ message: string }>().message).toContain(message);
  expect(backends(rig)).toEqual(['10.0.0.3:5432']);
  expect(rig.snapshots).toHaveLength(published);
  expect(rig.reloader.status()).toMatchObject({ succeeded: 0, failed: 1, isLastSuccessful: false });
  expect((await put(rig, CHANGED)).statusCode).toBe(200);
  expect(rig.reloader.status()).toMatchObject({ succeeded: 1, failed: 1, isLastSuccessful: true });
});

test('an empty body reads the file again, with the variables of the environment', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'tickrelay-'));
  onTestFinished(() => rm(folder, { recursive: true }));
  const path = join(folder, 'relay.yaml');
  const rig = createRig(RIG_CONFIG, path);
  await writeFile(path, CHANGED.replace('10.0.0.4', '${TICKRELAY_TEST_HOST:-10.0.0.5}'));
  expect((await put(rig)).statusCode).toBe(200);
  expect(backends(rig)).toEqual(['10.0.0.3:5432', '10.0.0.5:5432']);
  await writeFile(path, 'nonsense');
  expect((await put(rig)).json<{ message: string }>().message).toContain(path);
  await rm(path);
  expect((await put(rig)).json<{ message: string }>().message).toContain('ENOENT');
  expect(backends(rig)).toEqual(['10.0.0.3:5432', '10.0.0.5:5432']);
});

test('an empty body is refused when the relay was started without a file', async () => {
  const answer = await put(createRig());
  expect(answer.statusCode).toBe(422);
  expect(answer.json<{ message: string }>().message).toContain('started without a configuration file');
});

test('what a running relay can not change is a warning', async () => {
  const rig = createRig();
  const answer = await put(rig, `${RIG_CONFIG.replace(':7900', ':7901')}hashSeed: 7`);
  expect(answer.json<{ warnings: string[] }>().warnings).toEqual([
    'hashSeed: a change takes effect after a restart',
    'admin.listen: a change takes effect after a restart',
  ]);
});

test('what the command line said holds against the file, without a warning', async () => {
  const rig = createRig(RIG_CONFIG, undefined, { engine: 'auto', log: { level: 'debug' } });
  const answer = await put(rig, `engine: dgram\nlog: { level: error }\n${CHANGED}`);
  expect([answer.statusCode, answer.json()]).toEqual([200, { applied: true, warnings: [] }]);
  expect([rig.relay.current.engine, rig.relay.current.log.level]).toEqual(['auto', 'debug']);
  expect(backends(rig)).toEqual(['10.0.0.3:5432', '10.0.0.4:5432']);
});

test('reloads come one after the other', async () => {
  const rig = createRig();
  const texts = [CHANGED, 'nonsense', RIG_CONFIG];
  const results = await Promise.allSettled(texts.map((text) => rig.reloader.reload(text)));
  expect(results.map(({ status }) => status)).toEqual(['fulfilled', 'rejected', 'fulfilled']);
  expect(backends(rig)).toEqual(['10.0.0.3:5432']);
});

test('the running configuration is shown with its defaults and without its tokens', async () => {
  const rig = createRig();
  const answer = await rig.server.app.inject({ method: 'GET', url: '/v1/config' });
  expect(answer.json()).toMatchObject({
    engine: 'auto',
    pools: { games: { registration: { token: '********' } } },
  });
  expect(answer.body).not.toContain('secret');
});

test('a body over a megabyte is refused', async () => {
  expect((await put(createRig(), `# ${'x'.repeat(1024 * 1024)}`)).statusCode).toBe(413);
});
