import { defineConfig } from 'vitest/config';
import { SkipReporter } from './test/support/skip-reporter.ts';

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    reporters: ['default', new SkipReporter()],
    testTimeout: 30_000,
    hookTimeout: 30_000,
    // Two cores, and files that wait for timers and processes most of their time; with more they would wait for each other.
    maxWorkers: 3,
    expect: { poll: { interval: 10, timeout: 10_000 } },
  },
});
