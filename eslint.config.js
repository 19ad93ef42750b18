// The lint rules. Beside the strict typed presets, they hold the walls between the rooms (ARCHITECTURE.md, "Rooms").
import js from '@eslint/js';
import importX from 'eslint-plugin-import-x';
import tseslint from 'typescript-eslint';

const outside = (...rooms) => rooms.map((room) => `./${room}`);

/** What only the command line and the tests may know. */
const EDGE = ['cli.ts', 'command-line.ts', 'flag-values.ts', 'test'];

/** The walls: files of `target` must not import from `from`, but for what `except` (relative to `from`) lets through. */
const zones = [
  {
    target: './net',
    from: outside('wire', 'relay', 'gameserver', 'botclient', 'bench', 'version.ts', ...EDGE),
    message: 'net imports nothing of the project',
  },
  {
    target: './wire',
    from: outside('net', 'relay', 'gameserver', 'botclient', 'bench', 'version.ts', ...EDGE),
    message: 'wire imports nothing of the project',
  },
  {
    target: './relay',
    from: outside('wire', 'gameserver', 'botclient', 'bench', 'cli.ts', 'test'),
    message: 'the relay is blind to payloads',
  },
  {
    target: './relay/core',
    from: './relay',
    except: ['./core'],
    message: 'core is pure: it imports only core',
  },
  {
    target: './relay/core',
    from: './net',
    except: ['./address.ts'],
    message: 'core knows addresses, no sockets',
  },
  ...['core', 'engines', 'tcp', 'control'].map((room) => ({
    target: `./relay/${room}`,
    from: outside('version.ts', ...EDGE),
    message: 'only relay.ts and command.ts know the command line',
  })),
  { target: './relay/engines/userspace', from: './relay/engines/mmsg', message: 'mmsg builds on userspace' },
  {
    target: './relay/engines',
    from: './relay',
    except: ['./core', './engines'],
    message: 'engines import core and net only',
  },
  {
    target: './relay/tcp',
    from: './relay',
    except: ['./core', './tcp'],
    message: 'tcp imports core and net only',
  },
  {
    target: './relay/control',
    from: './relay',
    except: ['./core', './control'],
    message: 'control imports core and net only',
  },
  {
    target: './gameserver',
    from: outside('relay', 'botclient', 'bench', 'cli.ts'),
    message: 'a game server is no part of the relay',
  },
  {
    target: './botclient',
    from: outside('relay', 'gameserver', 'bench', 'cli.ts'),
    message: 'a player knows one address and nothing else',
  },
];

export default tseslint.config(
  { ignores: ['dist/', 'node_modules/', 'bench-results/', 'coverage/'] },
  js.configs.recommended,
  ...tseslint.configs.strictTypeChecked,
  {
    languageOptions: {
      parserOptions: {
        projectService: { allowDefaultProject: ['eslint.config.js'] },
        tsconfigRootDir: import.meta.dirname,
      },
    },
    plugins: { 'import-x': importX },
    settings: { 'import-x/resolver': { node: { extensions: ['.ts', '.js'] } } },
    rules: {
      'import-x/no-restricted-paths': ['error', { basePath: import.meta.dirname, zones }],
      'import-x/no-default-export': 'error',
      'no-console': 'error',
      'no-restricted-syntax': ['error', { selector: 'TSEnumDeclaration', message: 'erasable syntax only' }],
      // Typed arrays are indexed on every packet: `!` after a bounds-checked index is how hot code reads.
      '@typescript-eslint/no-non-null-assertion': 'off',
      '@typescript-eslint/restrict-template-expressions': ['error', { allowNumber: true }],
      '@typescript-eslint/no-confusing-void-expression': ['error', { ignoreArrowShorthand: true }],
      '@typescript-eslint/consistent-type-imports': 'error',
    },
  },
  {
    // Core decides; it never looks at a clock, a die or the outside world.
    files: ['relay/core/**/*.ts'],
    rules: {
      'no-restricted-imports': [
        'error',
        { patterns: [{ regex: '^(?!\\.|node:assert)', message: 'core is pure: it imports only itself' }] },
      ],
      'no-restricted-globals': [
        'error',
        ...['process', 'performance', 'Date', 'crypto', 'fetch', 'console', 'globalThis'],
        ...['setTimeout', 'setInterval', 'setImmediate', 'queueMicrotask'],
      ],
      'no-restricted-properties': [
        'error',
        { object: 'Math', property: 'random', message: 'core has no randomness' },
      ],
    },
  },
  { files: ['*.config.ts', 'eslint.config.js'], rules: { 'import-x/no-default-export': 'off' } },
  { files: ['eslint.config.js'], ...tseslint.configs.disableTypeChecked },
);
