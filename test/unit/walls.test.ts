/** The walls between the rooms hold: an import across one is a lint error, and those that the design allows are none. */
import { resolve } from 'node:path';
import { ESLint } from 'eslint';
import tseslint from 'typescript-eslint';
import { beforeAll, describe, expect, test } from 'vitest';

const ROOT = resolve(import.meta.dirname, '../..');
const RULES = ['import-x/no-restricted-paths', 'no-restricted-globals', 'no-restricted-properties'];

let eslint: ESLint;

beforeAll(() => {
  eslint = new ESLint({
    cwd: ROOT,
    overrideConfigFile: resolve(ROOT, 'eslint.config.js'),
    // The files of these tests do not exist, and have no types; the walls need none.
    overrideConfig: [
      { ...tseslint.configs.disableTypeChecked, files: ['**/*.ts'] },
      { files: ['**/*.ts'], languageOptions: { parserOptions: { projectService: false } } },
    ] as ESLint.Options['overrideConfig'] & object,
  });
});

/** The rules of RULES that the code breaks as a file at this path. */
async function broken(filePath: string, code: string): Promise<string[]> {
  const [result] = await eslint.lintText(code, { filePath: resolve(ROOT, filePath) });
  const fatal = result!.messages.find(({ fatal }) => fatal);
  if (fatal !== undefined) throw new Error(fatal.message);
  return result!.messages
    .filter(({ ruleId, severity }) => severity === 2 && RULES.includes(ruleId!))
    .map(({ ruleId }) => ruleId!);
}

const wall = ['import-x/no-restricted-paths'];

describe('no import through a wall', () => {
  test.each([
    ['net/x.ts', '../wire/codec.ts'],
    ['net/x.ts', '../relay/core/limits.ts'],
    ['net/x.ts', '../gameserver/world.ts'],
    ['net/x.ts', '../command-line.ts'],
    ['wire/x.ts', '../net/address.ts'],
    ['wire/x.ts', '../relay/core/hash.ts'],
    ['relay/x.ts', '../wire/codec.ts'],
    ['relay/x.ts', '../gameserver/world.ts'],
    ['relay/x.ts', '../botclient/path.ts'],
    ['relay/x.ts', '../bench/plan.ts'],
    ['relay/core/x.ts', '../engines/engine.ts'],
    ['relay/core/x.ts', '../tcp/tcp-engine.ts'],
    ['relay/core/x.ts', '../control/config.ts'],
    ['relay/core/x.ts', '../relay.ts'],
    ['relay/core/x.ts', '../../net/dgram-socket.ts'],
    ['relay/core/x.ts', '../../net/relay-error.ts'],
    ['relay/core/x.ts', '../../wire/codec.ts'],
    ['relay/engines/x.ts', '../tcp/tcp-engine.ts'],
    ['relay/engines/userspace/x.ts', '../../control/config.ts'],
    ['relay/engines/userspace/x.ts', '../../relay.ts'],
    ['relay/engines/userspace/x.ts', '../../../wire/codec.ts'],
    ['relay/tcp/x.ts', '../engines/engine.ts'],
    ['relay/tcp/x.ts', '../control/metrics.ts'],
    ['relay/control/x.ts', '../engines/engine.ts'],
    ['relay/control/admin/x.ts', '../../tcp/tcp-engine.ts'],
    ['relay/control/x.ts', '../data-planes.ts'],
    ['net/x.ts', '../command-line.ts'],
    ['wire/x.ts', '../version.ts'],
    ['relay/core/x.ts', '../../command-line.ts'],
    ['relay/engines/x.ts', '../../version.ts'],
    ['relay/tcp/x.ts', '../../version.ts'],
    ['relay/engines/userspace/x.ts', '../mmsg/mmsg-engine.ts'],
    ['gameserver/x.ts', '../relay/core/hash.ts'],
    ['gameserver/x.ts', '../botclient/path.ts'],
    ['botclient/x.ts', '../relay/core/hash.ts'],
    ['botclient/x.ts', '../gameserver/world.ts'],
  ])('%s does not import %s', async (file, target) => {
    expect(await broken(file, `import { x } from '${target}';\nexport const y = x;\n`)).toEqual(wall);
  });

  test.each([
    ["import type { Engine } from '../engines/engine.ts';\nexport type X = Engine;\n"],
    ["export * from '../engines/engine.ts';\n"],
    ["export const load = () => import('../engines/engine.ts');\n"],
  ])('%j is an import too', async (code) => {
    expect(await broken('relay/core/x.ts', code)).toEqual(wall);
  });
});

describe('what the design allows is allowed', () => {
  test.each([
    ['net/x.ts', './address.ts'],
    ['wire/x.ts', './codec.ts'],
    ['relay/x.ts', './engines/choose-engine.ts'],
    ['relay/x.ts', './tcp/tcp-engine.ts'],
    ['relay/x.ts', './control/metrics.ts'],
    ['relay/core/x.ts', './hash.ts'],
    ['relay/core/x.ts', '../../net/address.ts'],
    ['relay/engines/x.ts', './userspace/userspace-engine.ts'],
    ['relay/engines/userspace/x.ts', '../engine.ts'],
    ['relay/engines/userspace/x.ts', '../../core/router.ts'],
    ['relay/engines/userspace/x.ts', '../../../net/dgram-socket.ts'],
    ['relay/tcp/x.ts', '../core/backend-pool.ts'],
    ['relay/control/admin/x.ts', '../metrics.ts'],
    ['relay/control/x.ts', '../core/backend-pool.ts'],
    ['gameserver/x.ts', '../wire/codec.ts'],
    ['gameserver/x.ts', '../net/address.ts'],
    ['botclient/x.ts', '../wire/codec.ts'],
    ['bench/x.ts', '../relay/core/hash.ts'],
  ])('%s imports %s', async (file, target) => {
    expect(await broken(file, `import { x } from '${target}';\nexport const y = x;\n`)).toEqual([]);
  });
});

describe('core has no clock, no die and no outside world', () => {
  test.each([
    ['Date.now()', 'no-restricted-globals'],
    ['Math.random()', 'no-restricted-properties'],
    ['performance.now()', 'no-restricted-globals'],
    ['process.hrtime()', 'no-restricted-globals'],
    ['setTimeout(String, 1)', 'no-restricted-globals'],
    ['setInterval(String, 1)', 'no-restricted-globals'],
    ["fetch('http://localhost')", 'no-restricted-globals'],
  ])('%s is refused there, and elsewhere it is not', async (expression, rule) => {
    const code = `export const x = ${expression};\n`;
    expect(await broken('relay/core/x.ts', code)).toEqual([rule]);
    expect(await broken('relay/engines/x.ts', code)).toEqual([]);
  });
});
