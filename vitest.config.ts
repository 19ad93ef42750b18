import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    testTimeout: 30_000,
    hookTimeout: 30_000,
    // Two cores, and files that wait for timers and processes most of their time; with more they would wait for each other.
    maxWorkers: 3,
    expect: { poll: { interval: 10, timeout: 10_000 } },
  },
});
