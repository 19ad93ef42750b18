import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    testTimeout: 30_000,
    hookTimeout: 30_000,
    // Two cores, real sockets: more files at once would only make them wait for each other.
    maxWorkers: 2,
    expect: { poll: { interval: 10, timeout: 10_000 } },
  },
});
