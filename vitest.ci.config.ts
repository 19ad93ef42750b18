/**
 * What CI runs, at once and with one summary: every test on the portable engine, and the end-to-end tests that an engine has
 * a part in once more on each other engine.
 */
import { defineConfig, type TestProjectInlineConfiguration } from 'vitest/config';
import { SkipReporter } from './test/support/skip-reporter.ts';
import config from './vitest.config.ts';

const shared = config.test;

/** Where the counts go, if anywhere. */
const report = process.env['TEST_REPORT'];
const jsonTo = (outputFile: string): ['json', { outputFile: string }] => ['json', { outputFile }];

/** They bring their own engines, or reach none. */
const OF_NO_PASS = [
  ...['bench*', 'kernel-*', '*-netns', 'pin-group', 'flood', 'receive-buffer'],
  ...['wildcard-addresses', 'engine-choice', 'command-line', 'terminal', 'registration'],
];
/** What the engine `kernel` cannot do (docs/kernel-engine.md) or does not survive in the same way. */
const NOT_OF_KERNEL = ['datagrams', 'descriptors', 'restart'];
/** TCP that stays in user space is carried as beside the engine `mmsg`. */
const TCP_OF_MMSG = ['login', 'postgresql', 'proxy-protocol', 'tcp', 'tcp-integrity'];

/** They leave nothing behind in their process, so that it may serve many files; all but those that watch the heap. */
const FRUGAL = ['control', 'core', 'wire'].map((room) => `test/unit/${room}/*.test.ts`);
const HEAP = 'test/unit/*/allocation.test.ts';

const filesOf = (names: readonly string[]): string[] => names.map((name) => `test/e2e/${name}.test.ts`);

/** The end-to-end tests, each file in a network of its own, so that none meets another's ports, programs and stray datagrams. */
const endToEnd = (name: string, exclude: readonly string[]): TestProjectInlineConfiguration => ({
  test: {
    ...shared,
    name,
    include: ['test/e2e/*.test.ts'],
    exclude: filesOf(exclude),
    env: { TICKRELAY_TEST_ENGINE: name },
    setupFiles: ['test/support/own-network-setup.ts'],
  },
});

export default defineConfig({
  test: {
    ...shared,
    reporters: ['default', new SkipReporter(), ...(report === undefined ? [] : [jsonTo(report)])],
    projects: [
      { test: { ...shared, name: 'rooms', exclude: [...FRUGAL, 'test/e2e/*.test.ts'] } },
      { test: { ...shared, name: 'heap', include: [HEAP] } },
      { test: { ...shared, name: 'frugal', include: FRUGAL, exclude: [HEAP], isolate: false } },
      endToEnd('dgram', []),
      endToEnd('mmsg', OF_NO_PASS),
      endToEnd('kernel', [...OF_NO_PASS, ...NOT_OF_KERNEL, ...TCP_OF_MMSG]),
    ],
  },
});
