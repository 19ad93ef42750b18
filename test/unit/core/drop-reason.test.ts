import { expect, test } from 'vitest';
import { DROP_REASONS, dropReason } from '../../../relay/core/drop-reason.ts';

test('each reason is a number of its own, and a name fit for a label', () => {
  expect(new Set(DROP_REASONS).size).toBe(DROP_REASONS.length);
  for (const [i, name] of DROP_REASONS.entries()) {
    expect(dropReason(name)).toBe(i);
    expect(name).toMatch(/^[a-z]+(-[a-z]+)*$/);
    // What the router returns for a drop is below every session id.
    expect(~i).toBeLessThan(0);
  }
});

test('numbers are for good: the list is only appended to', () => {
  expect(DROP_REASONS.slice(0, 14)).toEqual([
    ...['bad-source', 'no-backend', 'session-table-full', 'pin-table-full', 'source-session-limit'],
    ...['source-rate-limit', 'listener-rate-limit', 'draining', 'no-upstream-socket', 'unknown-upstream'],
    ...['late-reply', 'amplification-limit', 'send-queue-full', 'send-failed'],
  ]);
});
